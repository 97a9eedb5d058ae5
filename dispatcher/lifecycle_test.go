package dispatcher_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestStoppingLetsHandlersFinish(t *testing.T) {
	jobs := newStore(t)
	put(t, jobs.Queue("apples"), "Cox")
	entered, proceed := make(chan struct{}), make(chan struct{})
	r := handleApples(t, jobs, dispatcher.QueueOptions{}, func(ctx context.Context, _ *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return ctx.Err() // the context must not have ended
	})
	receive(t, entered, "the handler")
	r.stop()
	close(proceed)
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if n, err := jobs.Queue("apples").Len(t.Context()); err != nil || n != 0 {
		t.Errorf("got %d jobs left, %v, want none: it was finished within the grace", n, err)
	}
}

func TestStoppingHandsUnfinishedJobsBackUncounted(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	cause := make(chan error, 1)
	entered := make(chan struct{}, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Grace: time.Millisecond}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		entered <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}))
	r := start(t, d)
	id := put(t, apples, "Cox")
	receive(t, entered, "the handler")

	// A peer that would find the job only by being told: its sweep is an hour away.
	got := make(chan int, 1)
	peer := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: time.Hour}))
	peer.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if job.ID == id {
			got <- job.Attempt
		}
		return nil
	}))
	start(t, peer)

	if err := r.end(); err != nil {
		t.Errorf("Run returned %v, want nil: the handler obeyed", err)
	}
	if err := receive(t, cause, "the cause"); !errors.Is(err, dispatcher.ErrStopping) {
		t.Errorf("the handler's context ended by %v, want %v", err, dispatcher.ErrStopping)
	}
	if attempt := receive(t, got, "the peer's run"); attempt != 1 {
		t.Errorf("the peer got attempt %d, want 1: the first was not counted", attempt)
	}
}

// Else a job that hangs would survive each deployment uncounted.
func TestARunWhoseTimeoutHasPassedCountsThoughTheDispatcherStops(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	apples := store.New(pool, store.Options{}).Queue("apples")
	d := dispatcher.New(store.New(pool, store.Options{}), quiet(dispatcher.Options{
		Concurrency: 2, Grace: time.Millisecond,
		Queues: map[string]dispatcher.QueueOptions{"apples": {Timeout: time.Millisecond}},
	}))
	late, entered, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		<-ctx.Done()
		close(late)
		<-stopped
		return ctx.Err()
	}))
	d.Handle("pears", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		close(entered)
		<-ctx.Done()
		close(stopped)
		return ctx.Err()
	}))
	r := start(t, d)
	id := put(t, apples, "Cox")
	put(t, store.New(pool, store.Options{}).Queue("pears"), "Conference")
	receive(t, late, "the timeout")
	receive(t, entered, "the other handler")
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if row, _ := rowOf(t, pool, id); row.Attempt != 2 {
		t.Errorf("got %+v, want attempt 2", row)
	}
}

func TestAHandlerThatIgnoresItsContextIsNamed(t *testing.T) {
	jobs := newStore(t)
	put(t, jobs.Queue("apples"), "Cox")
	entered, proceed := make(chan struct{}), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Grace: time.Millisecond}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return nil
	}))
	r := start(t, d)
	receive(t, entered, "the handler")
	err := r.end()
	close(proceed)
	if !errors.Is(err, dispatcher.ErrStuck) || !strings.Contains(err.Error(), "of apples") {
		t.Errorf("got %v, want an error that matches %q and names the queue", err, dispatcher.ErrStuck)
	}
}

// terminate ends the connections of the database whose last statement matches.
func terminate(t *testing.T, pool *pgxpool.Pool, lastStatement string) int {
	t.Helper()
	var n int
	err := pool.QueryRow(t.Context(), `
		select count(pg_terminate_backend(pid))
		from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid() and query like $1`, lastStatement).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lockSession finds the session that holds a beacon.
const terminateLockSession = `
	select count(pg_terminate_backend(pid))
	from pg_locks
	where locktype = 'advisory' and classid = $1 and objsubid = 2
	  and database = (select oid from pg_database where datname = current_database())`

func TestABrokenLockSessionEndsTheHandlersContexts(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	id := put(t, jobs.Queue("apples"), "Cox")
	entered := make(chan int, 10)
	var cause atomic.Value
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(ctx context.Context, job *dispatcher.Job) error {
		entered <- job.Attempt
		if cause.Load() != nil {
			return nil
		}
		<-ctx.Done()
		cause.Store(context.Cause(ctx))
		return ctx.Err()
	})
	receive(t, entered, "the first run")
	var n int
	if err := pool.QueryRow(t.Context(), terminateLockSession, beaconClass).Scan(&n); err != nil || n != 1 {
		t.Fatalf("ended %d sessions, %v, want 1", n, err)
	}
	receive(t, entered, "the second run, under a new session")
	if err, _ := cause.Load().(error); !errors.Is(err, dispatcher.ErrSessionLost) {
		t.Errorf("the handler's context ended by %v, want %v", err, dispatcher.ErrSessionLost)
	}
	eventually(t, "the job is done", func() bool {
		_, exists := rowOf(t, pool, id)
		return !exists
	})
}

func TestAJobIsNotRunBesideItselfByTheProcessThatLostItsSession(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	put(t, jobs.Queue("apples"), "Cox")
	var now, most atomic.Int32
	entered, proceed := make(chan struct{}, 10), make(chan struct{})
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		entered <- struct{}{}
		<-proceed // deaf to its context
		return nil
	})
	receive(t, entered, "the first run")
	if _, err := pool.Exec(t.Context(), terminateLockSession, beaconClass); err != nil {
		t.Fatal(err)
	}
	// The new session is at work when it runs another job.
	put(t, jobs.Queue("apples"), "Boskoop")
	receive(t, entered, "the other job")
	close(proceed)
	eventually(t, "both are done", func() bool {
		n, err := jobs.Queue("apples").Len(t.Context())
		return err == nil && n == 0
	})
	if n := most.Load(); n != 2 {
		t.Errorf("got %d handlers at once, want 2, one a job", n)
	}
}

const beaconClass = 0x70716265

func TestEveryConnectionMayBreakAndNothingIsLost(t *testing.T) {
	url := migrated.Database(t)
	jobs := storeAt(t, url)
	const n = 2000
	var handled sync.Map
	var runs atomic.Int64
	var left sync.WaitGroup
	left.Add(n)
	for range 2 {
		d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Concurrency: 20, Queue: dispatcher.QueueOptions{MaxAttempts: 1000}}))
		d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			runs.Add(1)
			if _, again := handled.LoadOrStore(job.ID, true); !again {
				left.Done()
			}
			timer := time.NewTimer(time.Millisecond)
			<-timer.C
			return nil
		}))
		start(t, d)
	}
	if _, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, n))); err != nil {
		t.Fatal(err)
	}
	admin := poolAt(t, url)
	all := make(chan struct{})
	go func() {
		left.Wait()
		close(all)
	}()
	// Break all that there is, ten times. Each time some jobs must have been handled since the last,
	// so that the dispatchers are at work and not only on their way back.
	broken := 0
	for range 10 {
		before := runs.Load()
		eventually(t, "jobs are being handled", func() bool { return runs.Load() > before+20 || runs.Load() >= n })
		broken += terminate(t, admin, "%")
	}
	if broken == 0 {
		t.Error("no connection was broken: the test has shown nothing")
	}
	receive(t, all, "all jobs")
	eventually(t, "the queue is empty", func() bool {
		n, err := jobs.Queue("apples").Len(t.Context())
		return err == nil && n == 0
	})
}

func TestTheServerMayRestart(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{})
	url := server.URL("postgres")
	if err := migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	jobs := storeAt(t, url)
	apples := jobs.Queue("apples")
	got := make(chan int64, 10)
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(_ context.Context, job *dispatcher.Job) error {
		got <- job.ID
		return nil
	})
	want := put(t, apples, "before")
	if id := receive(t, got, "the job before"); id != want {
		t.Errorf("got job %d, want %d", id, want)
	}
	for _, mode := range []devpg.Mode{devpg.Fast, devpg.Immediate} {
		if err := server.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a put works again", func() bool {
			id, err := apples.Put(t.Context(), "after")
			want = id
			return err == nil
		})
		// A completion may have been cut off with the server, so an earlier job may come again.
		for receive(t, got, "the job after the restart") != want {
		}
	}
}

func TestTheFirstConnectMayFail(t *testing.T) {
	url := migrated.Database(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	var attempts atomic.Int32
	jobs := store.New(poolAt(t, url), store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		if attempts.Add(1) <= 4 {
			return nil, errors.New("the server is not there yet")
		}
		return pgx.ConnectConfig(ctx, config)
	}})
	got := make(chan struct{}, 1)
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	})
	put(t, jobs.Queue("apples"), "Cox")
	receive(t, got, "the job")
}

func TestAStopWithoutADatabaseEnds(t *testing.T) {
	jobs := store.New(poolAt(t, migrated.Database(t)), store.Options{Connect: func(context.Context) (*pgx.Conn, error) {
		return nil, errors.New("no server")
	}})
	r := handleApples(t, jobs, dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error { return nil })
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestJobsOfADeadDispatcherRunAgainWithTheirAttemptCounted(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	first := put(t, apples, "first")
	last := put(t, apples, "last", store.MaxAttempts(1))

	session, err := jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10})
	if err != nil || len(claims.Jobs) != 2 {
		t.Fatalf("claimed %v, %v, want both jobs", claims.Jobs, err)
	}
	session.Close(t.Context()) // without a word: as kill -9 would

	got := make(chan *dispatcher.Job, 10)
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(_ context.Context, job *dispatcher.Job) error {
		if job.ID == last || job.Attempt == 1 {
			return dispatcher.Snooze(time.Millisecond) // it was claimed before the dead one was found
		}
		got <- job
		return nil
	})
	if job := receive(t, got, "the job"); job.ID != first || job.Attempt != 2 {
		t.Errorf("got %v, want the second attempt of job %d", job.Job, first)
	}
	eventually(t, "the other is set aside", func() bool {
		row, _ := rowOf(t, pool, last)
		return row.SetAside && strings.Contains(row.LastError, "died") && row.Attempt == 1
	})
	eventually(t, "the ledger is empty", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `select count(*) from pq_dispatch.ledger`).Scan(&n)
		return err == nil && n == 0
	})
}
