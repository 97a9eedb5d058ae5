package dispatcher_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// jobLocks lists the jobs whose locks are held, by anyone.
func jobLocks(t *testing.T, pool *pgxpool.Pool) []int64 {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		select objid::bigint from pg_locks
		where locktype = 'advisory' and classid = 'queue'::regclass::oid and objsubid = 2
		  and database = (select oid from pg_database where datname = current_database())
		order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestTheLocksAreThoseOfTheJobsInHand(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, 30)))
	if err != nil {
		t.Fatal(err)
	}
	entered, proceed := make(chan struct{}, 30), make(chan struct{})
	r := handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 10}, func(context.Context, *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return nil
	})
	for range 10 {
		receive(t, entered, "a handler")
	}
	// Nothing has been handled yet, so there is no rate to prefetch by.
	if got, want := jobLocks(t, pool), ids[:10]; !slices.Equal(got, want) {
		t.Errorf("while 10 run: got locks on %v, want %v", got, want)
	}
	close(proceed)
	for range 20 {
		receive(t, entered, "the other jobs")
	}
	eventually(t, "no lock is left", func() bool { return len(jobLocks(t, pool)) == 0 })
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestASmallLockTableIsSharedAndNeverFilled(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{Settings: map[string]string{
		"max_locks_per_transaction": "10",
		"max_connections":           "20",
	}})
	url := server.URL("postgres")
	if err := migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	const n = 600
	if _, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, n))); err != nil {
		t.Fatal(err)
	}
	var handled, most atomic.Int64
	r := handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 100}, func(ctx context.Context, _ *dispatcher.Job) error {
		if handled.Add(1)%50 == 0 {
			var locks int64
			if err := pool.QueryRow(ctx, `select count(*) from pg_locks where locktype = 'advisory' and classid = 'queue'::regclass::oid`).Scan(&locks); err != nil {
				return err // a bystander's statement must not suffer
			}
			most.Store(max(most.Load(), locks))
		}
		return nil
	})
	eventually(t, "all are done", func() bool {
		n, err := jobs.Queue("apples").Len(t.Context())
		if err != nil {
			t.Fatalf("a bystander suffers: %v", err)
		}
		return n == 0
	})
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if got, budget := most.Load(), int64(10*20/2); got > budget {
		t.Errorf("got %d locks at once, want at most %d", got, budget)
	}
	if got := handled.Load(); got != n {
		t.Errorf("got %d runs, want %d", got, n)
	}
}

// The budget that it had left was one job at a time, until the next sweep.
func TestOnceTheLockTableHasRoomAsManyRunAsBefore(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	const n = 16
	log := &syncBuffer{}
	d := dispatcher.New(jobs, dispatcher.Options{
		Sweep: time.Hour, Logger: slog.New(slog.NewTextHandler(log, nil)), Queue: dispatcher.QueueOptions{Concurrency: n},
	})
	entered, proceed := make(chan struct{}, 2*n), make(chan struct{})
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return nil
	}))
	start(t, d)
	defer close(proceed)
	asleep(t, pool)
	makeRoom := fillTable(t, pool)
	if _, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, 2*n))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is told of", func() bool { return strings.Contains(log.String(), "lock table is full") })
	makeRoom()
	for range n {
		receive(t, entered, "as many as there are slots")
	}
}

// fillTable has each claim fail as when the server's lock table is full.
func fillTable(t *testing.T, pool *pgxpool.Pool) (makeRoom func()) {
	t.Helper()
	exec(t, pool, `
		create function full_table() returns trigger language plpgsql as $$
		begin
		  raise exception 'out of shared memory' using errcode = 'out_of_memory';
		end
		$$`)
	exec(t, pool, `create trigger full_table before insert on pq_dispatch.ledger execute function full_table()`)
	return func() { exec(t, pool, `drop trigger full_table on pq_dispatch.ledger`) }
}

// What was handed back meanwhile was not struck from the ledger, and so counted as lost in a crash.
func TestStoppingInThePauseAfterAFullLockTableHandsBackUncounted(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	log := &syncBuffer{}
	d := dispatcher.New(jobs, dispatcher.Options{Grace: time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil))})
	entered := make(chan struct{}, 10)
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	r := start(t, d)
	put(t, jobs.Queue("apples"), "Cox")
	receive(t, entered, "the job")
	fillTable(t, pool)
	put(t, jobs.Queue("apples"), "Boskoop")
	eventually(t, "it is told of", func() bool { return strings.Contains(log.String(), "lock table is full") })
	if err := r.end(); err != nil {
		t.Error(err)
	}
	var batches int
	if err := pool.QueryRow(t.Context(), `select count(*) from pq_dispatch.ledger`).Scan(&batches); err != nil {
		t.Fatal(err)
	}
	if batches != 0 {
		t.Errorf("got %d batches in the ledger, which whoever buries the dispatcher takes for lost", batches)
	}
}

// A18.
func TestADispatcherNeedsThreeSessionsWhateverItHandles(t *testing.T) {
	url := migrated.Database(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	const name = "dispatcher's own"
	config.RuntimeParams["application_name"] = name
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, config)
	}})
	var handled atomic.Int64
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	const queues = 40
	for i := range queues {
		queue := fmt.Sprint("queue ", i)
		put(t, jobs.Queue(queue), i)
		d.Handle(queue, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
			handled.Add(1)
			return nil
		}))
	}
	handleApples(t, storeAt(t, url), dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error { return nil })
	start(t, d)
	eventually(t, "all is handled, the peer is watched, and there are three sessions", func() bool {
		var sessions int // one that the ring has just left may take a moment to end
		var watches bool
		if err := pool.QueryRow(t.Context(), `
			select count(*), coalesce(bool_or(query like '%"watch"%' and wait_event = 'advisory'), false)
			from pg_stat_activity where application_name = $1`, name).Scan(&sessions, &watches); err != nil {
			t.Fatal(err)
		}
		return watches && handled.Load() == queues && sessions == 3
	})
}

// statements counts the sweeps since anything else was sent to the server.
type statements struct{ sweeps atomic.Int64 }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, `"sweep"`) {
		s.sweeps.Add(1)
	} else {
		s.sweeps.Store(0)
	}
	return ctx
}
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	s.sweeps.Store(0)
	return ctx
}
func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func TestAnIdleDispatcherOnlySweeps(t *testing.T) {
	config, err := pgxpool.ParseConfig(migrated.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	sent := &statements{}
	config.ConnConfig.Tracer = sent
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	jobs := store.New(pool, store.Options{})
	handled := make(chan struct{}, 1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: 50 * time.Millisecond}))
	for _, queue := range []string{"apples", "pears", "plums"} {
		d.Handle(queue, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
			handled <- struct{}{}
			return nil
		}))
	}
	start(t, d)
	put(t, jobs.Queue("apples"), "Cox")
	receive(t, handled, "the job")
	eventually(t, "ten sweeps follow one another", func() bool { return sent.sweeps.Load() >= 10 })
}

func TestASweepFindsWhatWasNotNotified(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	got := make(chan struct{}, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: 50 * time.Millisecond}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	}))
	start(t, d)
	put(t, jobs.Queue("apples"), "Cox")
	receive(t, got, "the first: the dispatcher is at work")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `set local pq_dispatch.notify = off`); err != nil {
			return err
		}
		_, err := jobs.Queue("apples").With(tx).Put(t.Context(), "Boskoop", store.ScheduleAt(10*time.Millisecond))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, got, "the silent one")
}

func TestForgedNotificationsAreHarmless(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	got := make(chan struct{}, 10)
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	})
	put(t, jobs.Queue("apples"), "Cox")
	receive(t, got, "the first: the dispatcher is at work")
	for _, payload := range []string{"", " ", "x", "0", "0 nobody", "-1 apples", "99999999999999999999 apples", "9223372036854775807 apples", "abc apples", "0 apples\x01"} {
		if _, err := pool.Exec(t.Context(), `select pg_notify('pq_dispatch', $1)`, payload); err != nil {
			if _, ok := err.(*pgconn.PgError); !ok {
				t.Fatal(err)
			}
		}
	}
	put(t, jobs.Queue("apples"), "Boskoop")
	receive(t, got, "the second")
}
