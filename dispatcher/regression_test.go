// Sequences that once went wrong.

package dispatcher_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// A job that became due between the claim and the question for the next due time was in neither.
func TestJobsDueShortlyAfterOneAnotherAreBothRun(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	got := make(chan struct{}, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	}))
	start(t, d)
	for range 100 {
		gap := rand.N(1500 * time.Microsecond)
		if _, err := pool.Exec(t.Context(), `
			insert into queue (q_name, data, schedule_at)
			select 'apples', '1'::jsonb, clock_timestamp() + '10ms'::interval + i * $1::interval
			from generate_series(0, 1) i`, gap); err != nil {
			t.Fatal(err)
		}
		receive(t, got, "the first of a pair")
		receive(t, got, "the second of a pair")
	}
}

// A lock table that is full for everyone made a stop panic, and then ask without a pause.
func TestStoppingWhileTheLockTableIsFullEnds(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{Settings: map[string]string{
		"max_locks_per_transaction": "10", "max_connections": "20",
	}})
	url := server.URL("postgres")
	if err := migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	got := make(chan struct{}, 10)
	r := handleApples(t, jobs, dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	})
	put(t, jobs.Queue("apples"), 1)
	receive(t, got, "the job")
	eventually(t, "it is asleep", func() bool {
		var parked bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory'
			and classid = 'pq_dispatch.ledger'::regclass::oid and mode = 'ExclusiveLock')`).Scan(&parked)
		return err == nil && parked
	})
	glutton, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer glutton.Close(context.Background())
	for i := 0; err == nil; i++ {
		_, err = glutton.Exec(t.Context(), `select pg_advisory_lock(77, $1)`, i)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// A job whose handler outlived the session was kept from the next session's look, and then forgotten.
func TestAJobWhoseClaimWasLostIsLookedAtAgain(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	put(t, jobs.Queue("apples"), "Cox")
	entered, proceed := make(chan struct{}, 10), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	var runs atomic.Int32
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		entered <- struct{}{}
		if runs.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		<-proceed // it takes its time
		return ctx.Err()
	}))
	start(t, d)
	receive(t, entered, "the first run")
	if _, err := pool.Exec(t.Context(), terminateLockSession, beaconClass); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new session is asleep", func() bool {
		var parked bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory'
			and classid = 'pq_dispatch.ledger'::regclass::oid and mode = 'ExclusiveLock')`).Scan(&parked)
		return err == nil && parked
	})
	close(proceed)
	receive(t, entered, "the second run")
}

// One row that someone had locked held up the outcomes of all.
func TestALockedRowHoldsUpNoOtherOutcome(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	entered, proceed := make(chan struct{}, 100), make(chan struct{})
	handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 4}, func(context.Context, *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return nil
	})
	locked := put(t, apples, "locked")
	receive(t, entered, "it runs")
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `select from queue where id = $1 for update`, locked); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	for i := range 20 {
		put(t, apples, i)
	}
	left := func(n int) func() bool {
		return func() bool {
			got, err := apples.Len(t.Context())
			return err == nil && got == n
		}
	}
	eventually(t, "the others are done", left(1))
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done as well", left(0))
}

// What was claimed ahead for fast handlers was kept when they became slow.
func TestSlowHandlersHandBackWhatFastOnesHadClaimedAhead(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	const fast, slow = 6000, 500
	if _, err := store.PutMany(t.Context(), apples, func(yield func(bool) bool) {
		for i := range fast + slow {
			if !yield(i >= fast) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	entered, proceed := make(chan struct{}, slow), make(chan struct{})
	hoarder := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 2, Sweep: time.Hour}))
	hoarder.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if string(job.Data) == "true" {
			entered <- struct{}{}
			<-proceed
		}
		return nil
	}))
	start(t, hoarder)
	for range 2 {
		receive(t, entered, "a slow one")
	}
	// Nothing ends any more here, so only time can tell that it has become slow. An idle peer then gets
	// what is waiting.
	d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error { return nil }))
	start(t, d)
	eventually(t, "the peer has done the rest", func() bool {
		n, err := apples.Len(t.Context())
		return err == nil && n == 2 // that run here
	})
	eventually(t, "only their locks are held", func() bool { return len(jobLocks(t, pool)) == 2 })
	close(proceed)
}

// A process whose slots were all taken claimed the job of another queue ahead, by the rate of that
// queue's earlier jobs, and kept it from an idle peer.
func TestAFullProcessClaimsNothingAheadForAnotherQueue(t *testing.T) {
	url := migrated.Database(t)
	jobs := storeAt(t, url)
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	pear, long, proceed := make(chan struct{}, 2000), make(chan struct{}, 10), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 2, Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		long <- struct{}{}
		<-proceed
		return nil
	}))
	d.Handle("pears", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		pear <- struct{}{}
		return nil
	}))
	start(t, d)
	const fast = 2000
	if _, err := store.PutMany(t.Context(), pears, slices.Values(make([]int, fast))); err != nil {
		t.Fatal(err)
	}
	for range fast {
		receive(t, pear, "a fast one")
	}
	for range 2 {
		put(t, apples, "long")
	}
	for range 2 {
		receive(t, long, "a long one")
	}
	peer := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: time.Hour}))
	peer.Handle("pears", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		pear <- struct{}{}
		return nil
	}))
	start(t, peer)
	for i := range 20 {
		put(t, pears, i)
		receive(t, pear, "a pear, by the peer")
	}
	close(proceed)
}
