// Python's pq and its users' triggers on the same table. The statements are pq's, reformatted.

package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const pqPut = `
	insert into queue (q_name, data, schedule_at, expected_at)
	values ('apples', $1, $2, $3)
	returning id`

const pqGet = `
	with selected as (
	  select *
	  from queue
	  where q_name = 'apples' and dequeued_at is null
	  order by schedule_at nulls first, expected_at nulls last, id
	  for update skip locked
	  limit 1
	), updated as (
	  update queue as t
	  set dequeued_at = current_timestamp
	  from selected
	  where t.id = selected.id
	    and (t.schedule_at <= now() or t.schedule_at is null)
	  returning t.data, length(t.data::text)
	)
	select id,
	       (select data from updated),
	       (select length from updated),
	       enqueued_at at time zone 'utc',
	       schedule_at at time zone 'utc',
	       expected_at at time zone 'utc',
	       date_part('second', schedule_at - now())
	from selected`

const pqCount = `
	select count(*)
	from queue
	where q_name = 'apples' and dequeued_at is null
	  and (schedule_at is null or schedule_at <= current_timestamp)`

// pythonGet is nil when pq would have nothing to return.
func pythonGet(t testing.TB, db store.DB) (id *int64) {
	t.Helper()
	var data, enqueued, schedule, expected any
	var length *int
	var seconds *float64
	err := db.QueryRow(t.Context(), pqGet).Scan(&id, &data, &length, &enqueued, &schedule, &expected, &seconds)
	if err == pgx.ErrNoRows || err == nil && length == nil {
		return nil
	}
	check(t, err)
	return id
}

func TestJobsThatPythonPutsAreOurs(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	now := one[time.Time](t, pool, `select now()`)
	a := one[int64](t, pool, pqPut, map[string]string{"kind": "Cox"}, nil, nil)
	b := one[int64](t, pool, pqPut, []int{1, 2}, now.Add(-time.Hour), nil)
	c := one[int64](t, pool, pqPut, `"text"`, nil, now.Add(time.Hour))
	one[int64](t, pool, pqPut, 4, now.Add(time.Hour), now)

	session := openSession(t, jobs)
	claims := claim(t, session, apples, 10)
	wantClaims(t, claims, a, b, c)
	if first := claims.Jobs[0]; first.Attempt != 1 || first.MaxAttempts != 0 || first.Metadata != nil || first.Task != "" {
		t.Errorf("got %+v, want the defaults of a job of pq", first)
	}
	release(t, session, claims)
	job := get(t, apples)
	var text string
	check(t, job.Decode(&text))
	if job.ID != c || text != "text" {
		t.Errorf("got %v with %q, want job %d with the text", job, text, c)
	}
	wantIDs(t, "get", drain(t, apples), a, b)
}

func TestJobsThatPythonTookAreNotOurs(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	taken, open := put(t, apples, 1), put(t, apples, 2)
	if id := pythonGet(t, pool); id == nil || *id != taken {
		t.Fatalf("pq got job %v, want %d", id, taken)
	}
	if got := one[int](t, pool, pqCount); got != 1 {
		t.Errorf("pq counts %d jobs, want 1", got)
	}
	session := openSession(t, jobs)
	claims := claim(t, session, apples, 10)
	wantClaims(t, claims, open)
	release(t, session, claims)
	if accepted, err := jobs.Settle(t.Context(), []store.Run{{ID: taken, Attempt: 1}}, nil); accepted > 0 || err != nil {
		t.Fatalf("completed %d jobs, %v, want none", accepted, err)
	}
	wantIDs(t, "get", drain(t, apples), open)
	counts, err := apples.Counts(t.Context())
	check(t, err)
	if counts.Taken != 1 || counts.Ready != 0 || counts.SetAside != 0 {
		t.Errorf("got %+v, want one job taken", counts)
	}
}

func TestGetPassesOverAJobThatPythonIsAboutToTake(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	taken, open := put(t, apples, 1), put(t, apples, 2)
	tx := begin(t, pool)
	if id := pythonGet(t, tx); id == nil || *id != taken {
		t.Fatalf("pq got job %v, want %d", id, taken)
	}
	if job := get(t, apples); job == nil || job.ID != open {
		t.Fatalf("got %v, want job %d", job, open)
	}
	if job := get(t, apples); job != nil {
		t.Fatalf("got %v, which pq is about to take", job)
	}
	check(t, tx.Rollback(t.Context()))
	wantIDs(t, "get", drain(t, apples), taken)
}

func TestPythonTakesJobsThatWePut(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	first := put(t, apples, map[string]any{"kind": "Cox"}, store.ExpectedAt("1m"))
	if got := get(t, apples.With(begin(t, pool))); got.ID != first { // open until the end of the test
		t.Fatalf("got %v, want job %d", got, first)
	}
	if id := pythonGet(t, pool); id != nil {
		t.Fatalf("pq got job %d, which a transaction of ours is taking", *id)
	}
	second := put(t, apples, 2)
	put(t, apples, 3, store.ScheduleAt(time.Hour))
	if id := pythonGet(t, pool); id == nil || *id != second {
		t.Fatalf("pq got job %v, want %d", id, second)
	}
	if id := pythonGet(t, pool); id != nil {
		t.Fatalf("pq got job %d, which is scheduled", *id)
	}
}

func TestPythonNeverGetsAJobThatIsSetAside(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	settle(t, jobs, nil, store.Return{Run: store.Run{ID: id, Attempt: 1}, Reason: "no", SetAside: true})
	if got := pythonGet(t, pool); got != nil {
		t.Errorf("pq got job %d, which is set aside", *got)
	}
	if got := one[int](t, pool, pqCount); got != 0 {
		t.Errorf("pq counts %d jobs, want 0", got)
	}
}

func TestPythonUpdatesAndClears(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	if length := one[int](t, pool, `update queue set data = $2 where id = $1 returning length(data::text)`, id, map[string]int{"n": 2}); length != len(`{"n": 2}`) {
		t.Errorf("got length %d", length)
	}
	job := get(t, apples)
	var data map[string]int
	check(t, job.Decode(&data))
	if data["n"] != 2 || job.Size() != len(`{"n": 2}`) {
		t.Errorf("got data %v of size %d, want what pq wrote", data, job.Size())
	}
	put(t, apples, 1)
	exec(t, pool, `delete from queue where q_name = 'apples'`)
	if job := get(t, apples); job != nil {
		t.Errorf("got %v from a cleared queue", job)
	}
}

func TestPutFromSQL(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := one[int64](t, pool, `select pq_dispatch.put('apples', '{"kind": "Cox"}')`)
	later := one[int64](t, pool, `
		select pq_dispatch.put('apples', '[]', schedule_at => now() - interval '5m', expected_at => now() + interval '1d',
		                       task => 'eat', max_attempts => 3, metadata => '{"tenant": "a"}')`)
	one[int64](t, pool, `select pq_dispatch.put('apples', '1', schedule_at => now() + '5m')`)

	tx := begin(t, pool)
	exec(t, tx, `select pq_dispatch.put(queue => 'apples', data => '"rolled back"')`)
	check(t, tx.Rollback(t.Context()))
	exec(t, pool, `begin; select pq_dispatch.put('apples', '"in a transaction"', expected_at => '2001-01-01'); commit`)

	var got []*store.Job
	for job := get(t, apples); job != nil; job = get(t, apples) {
		got = append(got, job)
	}
	if len(got) != 3 || string(got[0].Data) != `"in a transaction"` || got[1].ID != later || got[2].ID != id {
		t.Fatalf("got %v, want the committed one by its priority, %d, %d", got, later, id)
	}
	if job := got[1]; job.Task != "eat" || job.MaxAttempts != 3 || job.Metadata["tenant"] != "a" || job.ScheduleAt.IsZero() || job.ExpectedAt.IsZero() {
		t.Errorf("got %+v, want all that was given by name", job)
	}
}

func TestPutFromAUsersTrigger(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `
		create table orders (id int, note text);
		create function on_order() returns trigger language plpgsql as $$
		begin
		  perform pq_dispatch.put('orders', to_jsonb(new), max_attempts => 5);
		  return new;
		end $$;
		create trigger on_order after insert on orders for each row execute function on_order()`)
	tx := begin(t, pool)
	exec(t, tx, `insert into orders values (1, 'rolled back')`)
	check(t, tx.Rollback(t.Context()))
	exec(t, pool, `insert into orders values (2, 'a'), (3, 'b')`)
	var got []int
	for job := get(t, jobs.Queue("orders")); job != nil; job = get(t, jobs.Queue("orders")) {
		var order struct{ ID int }
		check(t, job.Decode(&order))
		got = append(got, order.ID)
	}
	if !slices.Equal(got, []int{2, 3}) {
		t.Errorf("got the orders %v, want 2 and 3", got)
	}
}

// What only SQL can write must not stop the queue: one such job would fail the batch it is in, for ever.
func TestOddValuesFromSQLDoNotStopTheQueue(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	var want []int64
	for _, times := range []string{
		`'-infinity', '-infinity'`, `null, '-infinity'`, `'-infinity', '0044-03-15 BC'`, `'4713-12-01 BC', '2001-01-01'`,
		`null, '294276-12-31'`, `null, 'infinity'`, `null, null`,
	} {
		want = append(want, one[int64](t, pool, `select pq_dispatch.put('apples', 'null', `+times+`)`))
	}
	for _, schedule := range []string{"infinity", "294276-12-31"} {
		exec(t, pool, `select pq_dispatch.put('apples', 'null', $1)`, schedule)
	}
	exec(t, pool, `insert into queue (q_name, data, enqueued_at, attempt, max_attempts, metadata, task)
		values ('apples', '0', 'infinity', -2147483648, 2147483647, '[{"a": 1}, null]', E'\x01')`)
	want = append(want, one[int64](t, pool, `select max(id) from queue`))

	session := openSession(t, jobs)
	claims := claim(t, session, apples, 100)
	wantClaims(t, claims, want...)
	for _, job := range claims.Jobs {
		_ = job.String()
	}
	release(t, session, claims)
	if survey, err := jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples}); err != nil || !survey.Outlooks[0].Due {
		t.Errorf("sweep: got %v, %v", survey, err)
	}
	if _, err := jobs.Counts(t.Context()); err != nil {
		t.Error(err)
	}
	wantIDs(t, "get", drain(t, apples), want...)
	if job, err := apples.Get(t.Context(), time.Millisecond); job != nil || err != nil {
		t.Errorf("got %v, %v, want neither: the others are never due", job, err)
	}
}
