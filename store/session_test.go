package store_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func openSession(t testing.TB, jobs *store.Store) *store.Session {
	t.Helper()
	session, err := jobs.OpenSession(t.Context())
	check(t, err)
	t.Cleanup(func() { session.Close(t.Context()) })
	return session
}

func claim(t testing.TB, session *store.Session, q *store.Queue, want int, held ...int64) store.Claims {
	t.Helper()
	claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: q, Want: want, Held: held, Witnesses: true, Suspects: true})
	check(t, err)
	return claims
}

// release gives up all that a claim took.
func release(t testing.TB, session *store.Session, claims store.Claims) {
	t.Helper()
	_, err := session.Claim(t.Context(), store.ClaimRequest{
		Release: append(idsOf(claims.Jobs), claims.Gone...),
		Ended:   []int64{claims.Batch},
	})
	check(t, err)
}

func idsOf(jobs []*store.Job) []int64 {
	ids := make([]int64, len(jobs))
	for i, job := range jobs {
		ids[i] = job.ID
	}
	return ids
}

// wantClaims compares without regard to order, which within a batch is not promised.
func wantClaims(t testing.TB, got store.Claims, want ...int64) {
	t.Helper()
	ids := idsOf(got.Jobs)
	slices.Sort(ids)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(ids, want) || len(got.Gone) > 0 {
		t.Fatalf("claimed the jobs %v (and found gone %v), want %v", ids, got.Gone, want)
	}
}

// settle writes outcomes that must all be accepted.
func settle(t testing.TB, jobs *store.Store, done []store.Run, back ...store.Return) {
	t.Helper()
	accepted, err := jobs.Settle(t.Context(), done, back)
	check(t, err)
	if want := len(done) + len(back); accepted != want {
		t.Fatalf("%d outcomes of %d were accepted", accepted, want)
	}
}

// locks are the keys of the advisory locks of a class in this database, by how many sessions hold
// them and not how often.
const locks = `
	select objid::bigint from pg_locks
	where locktype = 'advisory' and objsubid = 2 and granted
	  and database = (select oid from pg_database where datname = current_database())
	  and classid = $1 order by 1`

// jobLocks are the jobs that are locked.
func jobLocks(t testing.TB, db store.DB) []int64 {
	t.Helper()
	return column[int64](t, db, locks, one[int64](t, db, `select 'queue'::regclass::oid::bigint`))
}

// A1. The row is read in a snapshot from before the lock.
func TestAJobThatWasFinishedBetweenReadingAndLockingIsNotReturned(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	// The claim stands still between its reading of the first job and of the second, as long as this
	// lock is held: by a function in the way of the lock's key.
	gate := begin(t, pool)
	exec(t, pool, `
		alter function pq_dispatch.lock_key(bigint) rename to real_key;
		create function pq_dispatch.lock_key(id bigint) returns integer language plpgsql volatile as $$
		begin
		  if current_setting('test.gate', true) = 'on' then
		    perform set_config('test.gate', 'off', false);
		    perform pg_advisory_lock(4711);
		    perform pg_advisory_unlock(4711);
		  end if;
		  return pq_dispatch.real_key(id);
		end $$`)
	first, second := put(t, apples, 1), put(t, apples, 2)
	config := pool.Config().ConnConfig
	config.RuntimeParams["test.gate"] = "on"
	slow := openSession(t, store.New(pool, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, config) }}))
	quick := openSession(t, jobs)

	exec(t, gate, `select pg_advisory_xact_lock(4711)`)
	done := make(chan store.Claims)
	go func() {
		claims, err := slow.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10})
		if err != nil {
			t.Error(err)
		}
		done <- claims
	}()
	eventually(t, pool, `select exists (select from pg_locks where locktype = 'advisory' and not granted)`)
	claims := claim(t, quick, apples, 1)
	wantClaims(t, claims, first)
	settle(t, jobs, []store.Run{{ID: first, Attempt: 1}})
	release(t, quick, claims)
	check(t, gate.Rollback(t.Context()))

	got := <-done
	wantIDs(t, "claim", idsOf(got.Jobs), second)
	wantIDs(t, "gone", got.Gone, first)
	wantIDs(t, "locks", jobLocks(t, pool), first, second)
	release(t, slow, got)
	wantIDs(t, "locks after the release", jobLocks(t, pool))
	settle(t, jobs, []store.Run{{ID: second, Attempt: 1}})
}

// A2. Every default that could come from the role, the database or the connection is overruled.
func TestTheLockSessionOverrulesDefaults(t *testing.T) {
	pool, jobs := open(t)
	config := pool.Config().ConnConfig
	maps.Copy(config.RuntimeParams, map[string]string{"default_transaction_isolation": "serializable", "default_transaction_read_only": "on",
		"statement_timeout": "1s", "lock_timeout": "1s", "idle_session_timeout": "1s"})
	var conn *pgx.Conn
	session := openSession(t, store.New(pool, store.Options{Connect: func(ctx context.Context) (_ *pgx.Conn, err error) {
		conn, err = pgx.ConnectConfig(ctx, config)
		return conn, err
	}}))
	for name, want := range map[string]string{"transaction_isolation": "read committed", "transaction_read_only": "off",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0", "tcp_keepalives_idle": "5", "tcp_user_timeout": "20000"} {
		if got := one[string](t, conn, `show `+name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	id := put(t, jobs.Queue("apples"), 1)
	wantClaims(t, claim(t, session, jobs.Queue("apples"), 1), id)
}

// A3, A4, A5.
func TestASessionHoldsExactlyTheLocksOfItsClaims(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(100))
	check(t, err)
	one, two := openSession(t, jobs), openSession(t, jobs)

	first := claim(t, one, apples, 10)
	wantClaims(t, first, ids[:10]...)
	wantIDs(t, "locks", jobLocks(t, pool), ids[:10]...)
	second := claim(t, one, apples, 5, ids[:10]...)
	wantClaims(t, second, ids[10:15]...)
	other := claim(t, two, apples, 10)
	wantClaims(t, other, ids[15:25]...)
	wantIDs(t, "locks", jobLocks(t, pool), ids[:25]...)
	if got := claim(t, one, jobs.Queue("pears"), 10); len(got.Jobs) > 0 {
		t.Fatalf("claimed %v from an empty queue", got.Jobs)
	}

	settle(t, jobs, runsOf(first.Jobs))
	wantIDs(t, "locks, completed", jobLocks(t, pool), ids[:25]...) // until they are released
	release(t, one, first)
	wantIDs(t, "locks, released", jobLocks(t, pool), ids[10:25]...)
	// One release gives up a lock for good: it was taken once.
	if _, err := one.Claim(t.Context(), store.ClaimRequest{Release: ids[:1]}); err == nil {
		t.Error("released a lock that was not held: got no error")
	}
	next := claim(t, one, apples, 1000, ids[10:15]...)
	wantClaims(t, next, ids[25:]...)
	release(t, one, next)
	release(t, one, second)
	release(t, two, other)
	wantIDs(t, "locks at the end", jobLocks(t, pool))
	if n := len(column[int64](t, pool, `select batch from pq_dispatch.ledger`)); n > 0 {
		t.Errorf("%d rows are left in the ledger", n)
	}
}

func runsOf(jobs []*store.Job) []store.Run {
	runs := make([]store.Run, len(jobs))
	for i, job := range jobs {
		runs[i] = store.Run{ID: job.ID, Attempt: job.Attempt}
	}
	return runs
}

// Ids that are 2^32 apart share a lock.
func TestJobsThatShareALockRunOneAfterTheOther(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	const first, twin = 7, 7 + 1<<32
	exec(t, pool, `insert into queue (id, q_name, data) values ($1, 'apples', '1'), ($2, 'apples', '2'), (-1, 'apples', '3')`, first, twin)
	one, two := openSession(t, jobs), openSession(t, jobs)
	got := claim(t, one, apples, 2)
	wantClaims(t, got, -1, first)
	if got := claim(t, two, apples, 2); len(got.Jobs)+len(got.Gone) > 0 {
		t.Fatalf("claimed %v, of which the lock is held", got)
	}
	both := claim(t, one, apples, 2, -1, first)
	wantClaims(t, both, twin)
	release(t, one, both)
	if got := claim(t, two, apples, 2); len(got.Jobs) > 0 {
		t.Fatalf("claimed %v, of which the lock is still held once", got.Jobs)
	}
	release(t, one, got)
	wantIDs(t, "locks", jobLocks(t, pool))
	got = claim(t, two, apples, 3)
	wantClaims(t, got, -1, first, twin)
	release(t, two, got)
	wantIDs(t, "locks", jobLocks(t, pool))
}

// A7.
func TestTheLockClassCanBeSet(t *testing.T) {
	pool := openEmpty(t)
	jobs := store.New(pool, store.Options{LockClass: -77})
	check(t, jobs.Migrate(t.Context()))
	id := put(t, jobs.Queue("apples"), 1)
	exec(t, pool, `select pg_advisory_lock('queue'::regclass::oid::int, $1)`, int32(id)) // the application's own
	session := openSession(t, jobs)
	wantClaims(t, claim(t, session, jobs.Queue("apples"), 1), id)
	wantIDs(t, "locks of the class", column[int64](t, pool, locks, int64(1<<32-77)), id)
	pool.Reset()
}

func TestAClaimTellsWhenTheNextJobIsDue(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	if got := claim(t, session, apples, 1); got.NextDue >= 0 || got.Now.IsZero() {
		t.Errorf("got %+v, want no next job", got)
	}
	put(t, apples, 1, store.ScheduleAt("1h"))
	put(t, jobs.Queue("pears"), 1, store.ScheduleAt("1m"))
	put(t, jobs.Queue("far"), 1, store.ScheduleAt(100*365*24*time.Hour))
	if got := claim(t, session, apples, 1).NextDue; got < 50*time.Minute || got > time.Hour {
		t.Errorf("got %v until the next job, want an hour", got)
	}
	survey, err := jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples, jobs.Queue("none"), jobs.Queue("pears"), jobs.Queue("far")})
	outlooks, dead := survey.Outlooks, survey.Dead
	check(t, err)
	if len(outlooks) != 4 || len(dead) > 0 || outlooks[0].Due || outlooks[1].NextDue >= 0 || outlooks[0].NextDue < 50*time.Minute ||
		outlooks[2].NextDue > time.Minute || outlooks[3].NextDue < 24*time.Hour {
		t.Errorf("got %+v, %v", outlooks, dead)
	}
	put(t, apples, 2)
	put(t, jobs.Queue("pears"), 2, store.ScheduleAt(-time.Second))
	survey, err = jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples, jobs.Queue("pears"), jobs.Queue("none")})
	outlooks = survey.Outlooks
	check(t, err)
	if !outlooks[0].Due || !outlooks[1].Due || outlooks[2].Due {
		t.Errorf("got %+v, want jobs due in the first two", outlooks)
	}
}

func TestASessionNoticesThatItsConnectionBreaks(t *testing.T) {
	pool, jobs := open(t)
	session := openSession(t, jobs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, session.Wait(ctx), context.Canceled)
	id := put(t, jobs.Queue("apples"), 1)
	wantClaims(t, claim(t, session, jobs.Queue("apples"), 1), id) // it is usable still
	broken := make(chan error)
	go func() { broken <- session.Wait(t.Context()) }()
	exec(t, pool, `select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and classid = $1`, uint32(sql.BeaconClass))
	if err := <-broken; err == nil {
		t.Error("got no error")
	}
	eventually(t, pool, `select not exists (select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))`)
}

// A14.
func TestAJobThatCannotBeDecodedDoesNotSpoilItsBatch(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples/gob")
	exec(t, pool, `insert into queue (q_name, data, metadata) values ('apples', '{"not": "gob"}', '"odd"'), ('apples', '"!"', null)`)
	id := put(t, apples, order{1})
	got := claim(t, openSession(t, jobs), apples, 10)
	if len(got.Jobs) != 3 {
		t.Fatalf("got %v, want all three", got.Jobs)
	}
	for _, job := range got.Jobs {
		var o order
		err := job.Decode(&o)
		if job.ID == id && err != nil || job.ID != id && !errors.Is(err, store.ErrDecode) {
			t.Errorf("%v: got %v", job, err)
		}
	}
}
