package store_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// oneInEachState puts a job into the queue apples for each state. The running one is claimed by the session.
func oneInEachState(t testing.TB, pool *pgxpool.Pool, jobs *store.Store) (map[store.State]int64, *store.Session) {
	t.Helper()
	apples := jobs.Queue("apples")
	ids := map[store.State]int64{store.Running: put(t, apples, "running")}
	session := openSession(t, jobs)
	wantClaims(t, claim(t, session, apples, 1), ids[store.Running])
	ids[store.Waiting] = put(t, apples, "waiting")
	ids[store.Scheduled] = put(t, apples, "scheduled", store.ScheduleAt("1h"))
	ids[store.Retrying] = put(t, apples, "retrying", store.ScheduleAt("1h"))
	ids[store.SetAside] = put(t, apples, "set aside")
	ids[store.Taken] = put(t, apples, "taken")
	exec(t, pool, `update queue set attempt = 3, last_error = 'bruised' where id = $1`, ids[store.Retrying])
	exec(t, pool, `update queue set attempt = 5, last_error = 'rotten', set_aside = true, dequeued_at = now() where id = $1`, ids[store.SetAside])
	exec(t, pool, `update queue set dequeued_at = now() where id = $1`, ids[store.Taken])
	return ids, session
}

// outcomeOf carries out an operation on one job.
func outcomeOf(t testing.TB, jobs *store.Store, op store.Operation, id int64) store.Outcome {
	t.Helper()
	results, err := jobs.Operate(t.Context(), op, id)
	check(t, err)
	if len(results) != 1 || results[0].ID != id {
		t.Fatalf("got the results %v, want one of job %d", results, id)
	}
	return results[0].Outcome
}

func stateOf(t testing.TB, jobs *store.Store, id int64) store.State {
	t.Helper()
	d, err := jobs.Find(t.Context(), id)
	check(t, err)
	return d.State
}

func TestEachOperationDoesToEachStateWhatItShould(t *testing.T) {
	pears := func(jobs *store.Store) store.Operation { return store.Move(jobs.Queue("pears")) }
	does := func(op store.Operation) func(*store.Store) store.Operation {
		return func(*store.Store) store.Operation { return op }
	}
	for _, tt := range []struct {
		name string
		op   func(*store.Store) store.Operation
		want map[store.State][2]string // the outcome, and the state afterwards
	}{
		{"cancel", does(store.Cancel()), map[store.State][2]string{
			store.Waiting: {"cancelled", "set_aside"}, store.Running: {"asked", "running"}, store.Scheduled: {"cancelled", "set_aside"},
			store.Retrying: {"cancelled", "set_aside"}, store.SetAside: {"not_waiting", "set_aside"}, store.Taken: {"not_waiting", "taken"}}},
		{"discard", does(store.Discard()), map[store.State][2]string{
			store.Waiting: {"discarded", ""}, store.Running: {"running", "running"}, store.Scheduled: {"discarded", ""},
			store.Retrying: {"discarded", ""}, store.SetAside: {"discarded", ""}, store.Taken: {"discarded", ""}}},
		{"retry", does(store.Retry(false)), map[store.State][2]string{
			store.Waiting: {"waiting", "waiting"}, store.Running: {"running", "running"}, store.Scheduled: {"retried", "waiting"},
			store.Retrying: {"retried", "waiting"}, store.SetAside: {"retried", "waiting"}, store.Taken: {"taken", "taken"}}},
		{"move", pears, map[store.State][2]string{
			store.Waiting: {"moved", "waiting"}, store.Running: {"running", "running"}, store.Scheduled: {"moved", "scheduled"},
			store.Retrying: {"moved", "retrying"}, store.SetAside: {"moved", "set_aside"}, store.Taken: {"moved", "taken"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pool, jobs := open(t)
			ids, _ := oneInEachState(t, pool, jobs)
			for state, want := range tt.want {
				if got := outcomeOf(t, jobs, tt.op(jobs), ids[state]); string(got) != want[0] {
					t.Errorf("%s of a job that is %s: got %s, want %s", tt.name, state, got, want[0])
				}
				d, err := jobs.Find(t.Context(), ids[state])
				if want[1] == "" {
					wantError(t, err, store.ErrGone)
					continue
				}
				check(t, err)
				if string(d.State) != want[1] {
					t.Errorf("after %s of a job that was %s: got %s, want %s", tt.name, state, d.State, want[1])
				}
				if moved := tt.name == "move" && state != store.Running; moved != (d.Queue == "pears") {
					t.Errorf("after %s of a job that was %s: it is in %s", tt.name, state, d.Queue)
				}
			}
			if got := outcomeOf(t, jobs, tt.op(jobs), 4711); got != store.Gone {
				t.Errorf("of a job that does not exist: got %s, want %s", got, store.Gone)
			}
		})
	}
}

func TestRetryCountsTheAttemptsOfAJobThatWasSetAsideAnewUnlessTheyAreKept(t *testing.T) {
	pool, jobs := open(t)
	ids, _ := oneInEachState(t, pool, jobs)
	for _, tt := range []struct {
		state   store.State
		keep    bool
		attempt int
	}{{store.SetAside, false, 1}, {store.Retrying, false, 3}, {store.SetAside, true, 5}} {
		exec(t, pool, `update queue set attempt = 5, set_aside = true, dequeued_at = now() where id = $1`, ids[store.SetAside])
		if got := outcomeOf(t, jobs, store.Retry(tt.keep), ids[tt.state]); got != store.Retried {
			t.Fatalf("retry: got %s", got)
		}
		if got := one[int](t, pool, `select attempt from queue where id = $1`, ids[tt.state]); got != tt.attempt {
			t.Errorf("%s, keep %v: got attempt %d, want %d", tt.state, tt.keep, got, tt.attempt)
		}
	}
}

func TestACancelledJobSaysSo(t *testing.T) {
	_, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	outcomeOf(t, jobs, store.Cancel(), id)
	d, err := jobs.Find(t.Context(), id)
	check(t, err)
	if d.State != store.SetAside || d.LastError != "cancelled" || d.DequeuedAt.IsZero() {
		t.Errorf("got %+v, want it set aside as cancelled", d.Entry)
	}
	if job := get(t, jobs.Queue("apples")); job != nil {
		t.Errorf("got %v, want no job", job)
	}
}

// listenTo hears all that is said on the store's channel.
func listenTo(t *testing.T, pool *pgxpool.Pool, jobs *store.Store) (said func() []string) {
	t.Helper()
	ear := connect(t, pool)
	exec(t, ear, `listen `+jobs.Channel())
	return func() (payloads []string) {
		t.Helper()
		exec(t, pool, `select pg_notify($1, 'end')`, jobs.Channel())
		for {
			n, err := ear.WaitForNotification(t.Context())
			check(t, err)
			if n.Payload == "end" {
				slices.Sort(payloads)
				return payloads
			}
			payloads = append(payloads, n.Payload)
		}
	}
}

func TestOperationsTellThoseWhomTheyConcern(t *testing.T) {
	pool, jobs := open(t)
	ids, _ := oneInEachState(t, pool, jobs)
	said := listenTo(t, pool, jobs)
	for _, tt := range []struct {
		name string
		do   func()
		want []string
	}{
		{"cancel of a running job", func() { outcomeOf(t, jobs, store.Cancel(), ids[store.Running]) }, []string{"0 apples", fmt.Sprint("cancel ", ids[store.Running])}},
		{"cancel of a scheduled job", func() { outcomeOf(t, jobs, store.Cancel(), ids[store.Scheduled]) }, nil},
		{"retry of a job that was set aside", func() { outcomeOf(t, jobs, store.Retry(false), ids[store.SetAside]) }, []string{"0 apples"}},
		{"retry of a job that waits for its next attempt", func() { outcomeOf(t, jobs, store.Retry(false), ids[store.Retrying]) }, []string{"0 apples"}},
		{"move", func() { outcomeOf(t, jobs, store.Move(jobs.Queue("pears")), ids[store.Waiting]) }, []string{"0 pears"}},
		{"discard", func() { outcomeOf(t, jobs, store.Discard(), ids[store.Taken]) }, nil},
		// A claim may have met the lock of the retry, which changed nothing.
		{"retry of a job that is due already", func() { outcomeOf(t, jobs, store.Retry(false), ids[store.Waiting]) }, []string{"0 pears"}},
		{"pause", func() { _, err := jobs.Queue("apples").Pause(t.Context(), store.PauseOptions{}); check(t, err) }, []string{"pause apples"}},
		{"resume", func() { _, err := jobs.Queue("apples").Resume(t.Context()); check(t, err) }, []string{"0 apples"}},
	} {
		tt.do()
		if got := said(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: heard %q, want %q", tt.name, got, tt.want)
		}
	}
}

// all drains the results of an operation on many.
func all(t testing.TB, jobs *store.Store, op store.Operation, f store.Filter) map[store.Outcome]int {
	t.Helper()
	outcomes := map[store.Outcome]int{}
	for results, err := range jobs.OperateAll(t.Context(), op, f) {
		check(t, err)
		for _, r := range results {
			outcomes[r.Outcome]++
		}
	}
	return outcomes
}

func wantOutcomes(t testing.TB, what string, got, want map[store.Outcome]int) {
	t.Helper()
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s: outcomes (-want +got):\n%s", what, diff)
	}
}

func TestOperateAllTakesWhatItsFilterSelectsInManyBatches(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `insert into queue (q_name, data, task, schedule_at, enqueued_at)
		select case when i % 2 = 0 then 'apples' else 'pears' end, '1', case when i % 10 < 2 then 'eat' end,
		       case when i % 3 = 0 then now() + interval '1h' end, now() - i * interval '1h' - interval '10s' -- so none reaches an age that is asked for meanwhile
		from generate_series(1, 30000) i`)
	apples := jobs.Queue("apples")
	count := func(f store.Filter) (n int) {
		t.Helper()
		for got, err := range jobs.Count(t.Context(), f) {
			check(t, err)
			n = got
		}
		return n
	}
	for _, tt := range []struct {
		name   string
		filter store.Filter
		where  string
	}{
		{"all", store.Filter{}, `true`},
		{"a queue", store.Filter{Queue: apples}, `q_name = 'apples'`},
		{"a state", store.Filter{State: store.Scheduled}, `schedule_at > now()`},
		{"a state that none is in", store.Filter{State: store.Taken}, `false`},
		{"a task", store.Filter{Task: "eat", Queue: apples}, `q_name = 'apples' and task = 'eat'`},
		{"an age", store.Filter{OlderThan: 5 * time.Hour, State: store.Waiting}, `schedule_at is null and enqueued_at < now() - interval '5h'`},
	} {
		if got, want := count(tt.filter), one[int](t, pool, `select count(*) from queue where `+tt.where); got != want {
			t.Errorf("%s: counted %d jobs, want %d", tt.name, got, want)
		}
	}
	wantOutcomes(t, "move", all(t, jobs, store.Move(jobs.Queue("plums")), store.Filter{Queue: apples, State: store.Waiting}), map[store.Outcome]int{store.Moved: 10000})
	wantOutcomes(t, "cancel", all(t, jobs, store.Cancel(), store.Filter{Queue: apples}), map[store.Outcome]int{store.Cancelled: 5000})
	wantOutcomes(t, "retry", all(t, jobs, store.Retry(false), store.Filter{Queue: apples, State: store.SetAside, Task: "eat"}), map[store.Outcome]int{store.Retried: 1000})
	wantOutcomes(t, "discard", all(t, jobs, store.Discard(), store.Filter{Task: "eat"}), map[store.Outcome]int{store.Discarded: 6000})
	if got := count(store.Filter{}); got != 24000 {
		t.Errorf("in the end %d jobs are left, want 24000", got)
	}
	if got := column[string](t, pool, `select distinct q_name || ' ' || set_aside from queue where task is null order by 1`); !slices.Equal(got, []string{"apples true", "pears false", "plums false"}) {
		t.Errorf("in the end there are %q", got)
	}
}

// An endless producer must not make an operation endless.
func TestOperateAllLeavesWhatIsPutMeanwhile(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	_, err := store.PutMany(t.Context(), apples, count(10_000)) // a page
	check(t, err)
	seen := map[store.Outcome]int{}
	for results, err := range jobs.OperateAll(t.Context(), store.Discard(), store.Filter{Queue: apples}) {
		check(t, err)
		for _, r := range results {
			seen[r.Outcome]++
		}
		put(t, apples, "late")
	}
	wantOutcomes(t, "discard", seen, map[store.Outcome]int{store.Discarded: 10_000})
	if n, err := apples.Len(t.Context()); err != nil || n == 0 {
		t.Errorf("got %d, %v, want the late ones to stay", n, err)
	}
}

func TestAJobThatNoLongerIsWhatWasSelectedIsLeftAlone(t *testing.T) {
	pool, jobs := open(t)
	var ids []int64
	for range 3 {
		ids = append(ids, put(t, jobs.Queue("apples"), 1))
	}
	exec(t, pool, `update queue set set_aside = true, dequeued_at = now()`)
	// As if between the selection and its turn one was retried and another moved.
	outcomeOf(t, jobs, store.Retry(false), ids[0])
	outcomeOf(t, jobs, store.Move(jobs.Queue("pears")), ids[1])
	rows, err := pool.Query(t.Context(), `select id, outcome from pq_dispatch.discard($1, 'apples', 'set_aside') order by id`, ids)
	check(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[store.Result])
	check(t, err)
	want := []store.Result{{ID: ids[0], Outcome: store.Changed}, {ID: ids[1], Outcome: store.Changed}, {ID: ids[2], Outcome: store.Discarded}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("discard (-want +got):\n%s", diff)
	}
}

func TestALockedRowIsPassedOverAndReported(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	consumer := begin(t, pool) // such as one of Python's pq
	exec(t, consumer, `select from queue where id = $1 for update`, id)
	for _, op := range []store.Operation{store.Cancel(), store.Discard(), store.Retry(false), store.Move(jobs.Queue("pears"))} {
		if got := outcomeOf(t, jobs, op, id); got != store.RowLocked {
			t.Errorf("got %s, want %s", got, store.RowLocked)
		}
	}
	check(t, consumer.Rollback(t.Context()))
	if got := outcomeOf(t, jobs, store.Discard(), id); got != store.Discarded {
		t.Errorf("got %s, want %s", got, store.Discarded)
	}
}

func TestAJobThatAGetHasIsRunning(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	tx := begin(t, pool)
	if job := get(t, jobs.With(tx).Queue("apples")); job == nil || job.ID != id {
		t.Fatalf("got %v, want job %d", job, id)
	}
	if got := outcomeOf(t, jobs, store.Discard(), id); got != store.IsRunning {
		t.Errorf("discard: got %s, want %s", got, store.IsRunning)
	}
	d, err := jobs.Find(t.Context(), id)
	check(t, err)
	if d.State != store.Running || d.Holder == nil || d.Holder.IsDispatcher || d.Holder.PID != int(tx.Conn().PgConn().PID()) {
		t.Errorf("got %s, held by %+v, want it running in the session %d", d.State, d.Holder, tx.Conn().PgConn().PID())
	}
}

// Whatever the order in which they meet: a job is claimed or cancelled, never both.
func TestACancelAndAClaimNeverHaveTheSameJob(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(2000))
	check(t, err)
	outcomes := map[int64]store.Outcome{}
	var claimed []int64
	var wg sync.WaitGroup
	session := openSession(t, jobs)
	wg.Go(func() {
		for {
			claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 3})
			if err != nil {
				t.Error(err)
				return
			}
			if len(claims.Jobs)+len(claims.Gone) == 0 {
				n, err := apples.Len(t.Context())
				if err != nil {
					t.Error(err)
				}
				if n == 0 || err != nil {
					return
				}
				continue
			}
			claimed = append(claimed, idsOf(claims.Jobs)...)
			if done, err := jobs.Settle(t.Context(), runsOf(claims.Jobs), nil); err != nil || done != len(claims.Jobs) {
				t.Errorf("%d of %d completions were accepted, %v", done, len(claims.Jobs), err)
			}
			_, err = session.Claim(t.Context(), store.ClaimRequest{Release: append(idsOf(claims.Jobs), claims.Gone...), Ended: []int64{claims.Batch}})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for batch := range slices.Chunk(ids, 5) {
			results, err := jobs.Operate(t.Context(), store.Cancel(), batch...)
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range results {
				outcomes[r.ID] = r.Outcome
			}
		}
	})
	wg.Wait()
	both := 0
	for _, id := range claimed {
		// Busy: its completion was under way when the cancel's statement began, and over when it had the lock.
		if o := outcomes[id]; o != store.Asked && o != store.Gone && o != store.RowLocked {
			t.Errorf("job %d was claimed, and cancel said %s", id, o)
		}
		both++
		delete(outcomes, id)
	}
	for id, o := range outcomes {
		if o != store.Cancelled {
			t.Errorf("job %d was not claimed, and cancel said %s", id, o)
		}
	}
	t.Logf("%d jobs were claimed, %d cancelled", both, len(outcomes))
}

func TestARetryByTwoAtOnceHappensOnce(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	for range 50 {
		exec(t, pool, `update queue set set_aside = true, dequeued_at = now(), attempt = 7`)
		var outcomes [2]store.Outcome
		var wg sync.WaitGroup
		for i := range outcomes {
			wg.Go(func() {
				results, err := jobs.Operate(t.Context(), store.Retry(false), id)
				if err != nil {
					t.Error(err)
					return
				}
				outcomes[i] = results[0].Outcome
			})
		}
		wg.Wait()
		slices.Sort(outcomes[:])
		first, second := outcomes[0], outcomes[1]
		// The other one finds it due, or held by the first: by its advisory lock, or at the end of that by its row's.
		if first != store.Retried || second != store.IsWaiting && second != store.IsRunning {
			if second != store.Retried || first != store.RowLocked && first != store.Changed {
				t.Fatalf("got %s and %s, want that one has retried it", first, second)
			}
		}
		if got := stateOf(t, jobs, id); got != store.Waiting {
			t.Fatalf("got %s, want %s", got, store.Waiting)
		}
	}
}

// A6. Not even an operation on many jobs may fill the server's table of locks.
func TestOperationsTakeFewLocksOnASmallServer(t *testing.T) {
	_, jobs := openServer(t, map[string]string{"max_locks_per_transaction": "10", "max_connections": "10"})
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), count(2000)) // ten times what there is room for
	check(t, err)
	results, err := jobs.Operate(t.Context(), store.Cancel(), ids...)
	check(t, err)
	if len(results) != len(ids) || slices.ContainsFunc(results, func(r store.Result) bool { return r.Outcome != store.Cancelled }) {
		t.Errorf("got %d results, want %d that are cancelled", len(results), len(ids))
	}
	wantOutcomes(t, "discard", all(t, jobs, store.Discard(), store.Filter{}), map[store.Outcome]int{store.Discarded: len(ids)})
}

func TestPausesAreKeptAndEnd(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	paused := func() *store.Pause {
		t.Helper()
		o, err := apples.Overview(t.Context(), 10)
		check(t, err)
		return o.Paused
	}
	pause := func(o store.PauseOptions) time.Time {
		t.Helper()
		until, err := apples.Pause(t.Context(), o)
		check(t, err)
		return until
	}
	if paused() != nil {
		t.Fatal("a queue is paused that nobody has paused")
	}
	if until := pause(store.PauseOptions{Reason: "wasps\x00"}); !until.IsZero() {
		t.Errorf("paused until %v, want no end", until)
	}
	if p := paused(); p == nil || !p.Until.IsZero() || p.Reason != "wasps" || p.Since.IsZero() {
		t.Errorf("got %+v, want a pause without end, for wasps", p)
	}
	put(t, apples, "puts go on")
	end := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	if until := pause(store.PauseOptions{Until: end}); !until.Equal(end) {
		t.Errorf("paused until %v, want %v", until, end)
	}
	if p := paused(); p == nil || !p.Until.Equal(end) || p.Reason != "" {
		t.Errorf("got %+v, want a pause until %v", p, end)
	}
	_, err := apples.Pause(t.Context(), store.PauseOptions{Until: time.Now().Add(-time.Hour)})
	wantError(t, err, store.ErrTime)
	if p := paused(); p == nil || !p.Until.Equal(end) {
		t.Errorf("after a pause that was refused: got %+v, want the one before", p)
	}
	pause(store.PauseOptions{For: time.Hour})
	if got := one[bool](t, pool, `select until between now() + interval '59 min' and now() + interval '61 min' from pq_dispatch.pauses`); !got {
		t.Error("a pause for an hour does not end in an hour")
	}
	exec(t, pool, `update pq_dispatch.pauses set until = now() - interval '1s'`)
	if p := paused(); p != nil {
		t.Errorf("a pause that has ended is shown: %+v", p)
	}
	for _, want := range []bool{true, false} {
		if want {
			pause(store.PauseOptions{})
		}
		if was, err := apples.Resume(t.Context()); err != nil || was != want {
			t.Errorf("resume: got %v, %v, want %v", was, err, want)
		}
	}
}

func TestTheOverviewCountsAsTheCountDoes(t *testing.T) {
	pool, jobs := open(t)
	oneInEachState(t, pool, jobs)
	put(t, jobs.Queue("pears"), 1, store.ScheduleAt("1s"))
	exec(t, pool, `update queue set schedule_at = now() - interval '1h', enqueued_at = now() - interval '2h' where q_name = 'pears'`)
	_, err := jobs.Queue("empty").Pause(t.Context(), store.PauseOptions{})
	check(t, err)
	counts, err := jobs.Counts(t.Context())
	check(t, err)
	want := append(counts, store.Counts{Queue: "empty"})
	slices.SortFunc(want, func(a, b store.Counts) int { return cmp.Compare(a.Queue, b.Queue) })
	overviews, err := jobs.Overviews(t.Context(), 1000)
	check(t, err)
	var got []store.Counts
	for _, o := range overviews {
		got = append(got, o.Counts)
		if len(o.AtLeast) > 0 || (o.Paused != nil) != (o.Queue == "empty") {
			t.Errorf("got %+v, want it counted to the end, and only the empty one paused", o)
		}
	}
	near := cmpopts.EquateApprox(0, float64(time.Minute))
	if diff := gocmp.Diff(want, got, near, gocmp.Transformer("float", func(d time.Duration) float64 { return float64(d) })); diff != "" {
		t.Errorf("overview (-counts +overview):\n%s", diff)
	}
	names, err := jobs.QueueNames(t.Context(), 10)
	check(t, err)
	if !slices.Equal(names, []string{"apples", "pears"}) {
		t.Errorf("got the names %q", names)
	}
	if names, err = jobs.QueueNames(t.Context(), 1); err != nil || !slices.Equal(names, []string{"apples"}) {
		t.Errorf("got the names %q, %v, want one", names, err)
	}
}

func TestTheOverviewStopsCountingAndSaysSo(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `
		insert into queue (q_name, data, schedule_at, dequeued_at, set_aside)
		select 'apples', '1', case when i % 3 = 1 then now() + interval '1h' end, case when i % 3 = 2 then now() end, i % 6 = 2
		from generate_series(1, 30) i`)
	for countTo, want := range map[int]store.Overview{
		10: {Counts: store.Counts{Queue: "apples", Ready: 10, Scheduled: 10, SetAside: 5, Taken: 5}},
		4: {Counts: store.Counts{Queue: "apples", Ready: 4, Scheduled: 4, SetAside: 2, Taken: 3}, // the newest
			AtLeast: []string{"ready", "scheduled", "set_aside", "taken"}},
	} {
		got, err := jobs.Queue("apples").Overview(t.Context(), countTo)
		check(t, err)
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(store.Counts{}, "Oldest")); diff != "" {
			t.Errorf("counted to %d (-want +got):\n%s", countTo, diff)
		}
	}
}

func TestOverviewsOfQueuesAreOfTheseInTheirOrder(t *testing.T) {
	_, jobs := open(t)
	apples, pears, plums := jobs.Queue("apples"), jobs.Queue("pears"), jobs.Queue("plums")
	put(t, apples, 1)
	put(t, pears, 1)
	put(t, pears, 1)
	got, err := jobs.Overviews(t.Context(), 10, plums, pears)
	check(t, err)
	want := []store.Overview{{Counts: store.Counts{Queue: "plums"}}, {Counts: store.Counts{Queue: "pears", Ready: 2}}}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(store.Counts{}, "Oldest")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = jobs.Overviews(t.Context(), 10, plums, jobs.Queue(""))
	wantError(t, err, store.ErrQueueName)
}

func TestDispatchersAreShownWhileTheyLiveAndWhileTheyHaveClaims(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(5))
	check(t, err)
	busy, idle := openSession(t, jobs), openSession(t, jobs)
	claim(t, busy, apples, 2)
	claim(t, busy, apples, 1, ids[:2]...)
	list := func() []store.Dispatcher {
		t.Helper()
		got, err := jobs.Dispatchers(t.Context())
		check(t, err)
		return got
	}
	find := func(session *store.Session) store.Dispatcher {
		t.Helper()
		got := list()
		i := slices.IndexFunc(got, func(d store.Dispatcher) bool { return d.ID == session.ID() })
		if i < 0 {
			t.Fatalf("dispatcher %d is not among %+v", session.ID(), got)
		}
		return got[i]
	}
	if d := find(busy); !d.Alive || d.PID == 0 || d.Since.IsZero() || d.Jobs != 3 || d.Batches != 2 || d.Oldest <= 0 {
		t.Errorf("got %+v, want it alive with 3 jobs of 2 batches", d)
	}
	if d := find(idle); !d.Alive || d.Jobs != 0 || d.Batches != 0 || d.Oldest != 0 {
		t.Errorf("got %+v, want it alive without a job", d)
	}
	details, err := jobs.Find(t.Context(), ids[0])
	check(t, err)
	if h := details.Holder; h == nil || !h.IsDispatcher || h.Dispatcher != busy.ID() || h.ClaimedAt.IsZero() || h.ConnectedAt.IsZero() || h.PID != find(busy).PID {
		t.Errorf("got %+v, want it held by dispatcher %d", details.Holder, busy.ID())
	}
	kill(t, pool, busy)
	if d := find(busy); d.Alive || d.PID != 0 || d.Jobs != 3 || d.Batches != 2 {
		t.Errorf("got %+v, want it dead with 3 jobs of 2 batches", d)
	}
	if got := list(); len(got) != 2 || !got[0].Alive {
		t.Errorf("got %+v, want two, those that live first", got)
	}
	_, _, err = jobs.Bury(t.Context(), busy.ID(), 25)
	check(t, err)
	if got := list(); len(got) != 1 {
		t.Errorf("after its burial: got %+v, want one", got)
	}
}

func TestReadingNeedsSelectOnly(t *testing.T) {
	pool, jobs := open(t)
	ids, _ := oneInEachState(t, pool, jobs)
	role := "reader_" + strings.ToLower(rand.Text())
	exec(t, pool, `create role `+role)
	t.Cleanup(func() { // roles are the server's, which other tests share
		exec := func(sql string) {
			if _, err := pool.Exec(context.Background(), sql+role); err != nil {
				t.Error(err)
			}
		}
		exec(`drop owned by `)
		exec(`drop role `)
	})
	exec(t, pool, `grant usage on schema pq_dispatch to `+role+`; grant select on queue, pq_dispatch.ledger, pq_dispatch.pauses, pq_dispatch.schema_version to `+role)
	tx := begin(t, pool)
	exec(t, tx, `set local role `+role)
	reader := jobs.With(tx)
	page, err := reader.List(t.Context(), store.Filter{}, 10, "")
	check(t, err)
	if len(page.Jobs) != 6 {
		t.Errorf("got %d jobs, want 6", len(page.Jobs))
	}
	d, err := reader.Find(t.Context(), ids[store.Running])
	check(t, err)
	if d.Holder == nil || d.Holder.PID == 0 || !d.Holder.IsDispatcher {
		t.Errorf("got the holder %+v, want its pid at least", d.Holder)
	}
	_, err = reader.Overviews(t.Context(), 100)
	check(t, err)
	_, err = reader.Dispatchers(t.Context())
	check(t, err)
	if _, err := reader.Operate(t.Context(), store.Discard(), ids[store.Waiting]); err == nil {
		t.Error("a role that may only select has discarded a job")
	}
}

// Behind a pooler in transaction mode pgx does not learn the types of parameters.
func TestOperatorsWorkInTheModeForPoolers(t *testing.T) {
	direct, jobs := open(t)
	ids, _ := oneInEachState(t, direct, jobs)
	config := direct.Config()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	defer pool.Close()
	jobs = store.New(pool, store.Options{})
	first, err := jobs.List(t.Context(), store.Filter{Queue: jobs.Queue("apples"), OlderThan: time.Nanosecond}, 3, "")
	check(t, err)
	second, err := jobs.List(t.Context(), store.Filter{Queue: jobs.Queue("apples"), OlderThan: time.Nanosecond}, 3, first.Next)
	check(t, err)
	if len(first.Jobs) != 3 || len(second.Jobs) != 3 {
		t.Errorf("got pages of %d and %d jobs, want 3 each", len(first.Jobs), len(second.Jobs))
	}
	for state, id := range ids {
		if got := stateOf(t, jobs, id); got != state {
			t.Errorf("got %s, want %s", got, state)
		}
	}
	wantOutcomes(t, "move", all(t, jobs, store.Move(jobs.Queue("pears")), store.Filter{State: store.SetAside}), map[store.Outcome]int{store.Moved: 1})
	if got := outcomeOf(t, jobs, store.Retry(true), ids[store.SetAside]); got != store.Retried {
		t.Errorf("got %s, want %s", got, store.Retried)
	}
	_, err = jobs.Queue("apples").Pause(t.Context(), store.PauseOptions{For: time.Hour, Reason: "wasps"})
	check(t, err)
	all, err := jobs.Overviews(t.Context(), 10)
	check(t, err)
	if len(all) != 2 || all[0].Paused == nil || all[1].Ready != 1 {
		t.Errorf("got %+v, want a paused queue, and one with a job", all)
	}
	alive, err := jobs.Dispatchers(t.Context())
	check(t, err)
	if len(alive) != 1 {
		t.Errorf("got %+v, want one dispatcher", alive)
	}
	_, err = jobs.QueueNames(t.Context(), 5)
	check(t, err)
}
