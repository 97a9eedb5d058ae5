package store_test

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

	"github.com/pq-dispatch/pq-dispatch/store"
)

// eventually waits until a query's answer is true.
func eventually(t testing.TB, db store.DB, sql string, args ...any) {
	t.Helper()
	until(t, sql, func() bool { return one[bool](t, db, sql, args...) })
}

// until waits for what comes true by itself.
func until(t testing.TB, what string, isTrue func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !isTrue() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// listening is a session of this database that waits for notifications.
const listening = `from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and classid = 'pq_dispatch.ledger'::regclass::oid
	and database = (select oid from pg_database where datname = current_database())`

// waiting is a Get in a goroutine of its own.
type waiting struct {
	done chan struct{}
	job  *store.Job
	err  error
}

func startGet(ctx context.Context, q *store.Queue, timeout time.Duration) *waiting {
	w := &waiting{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.job, w.err = q.Get(ctx, timeout)
	}()
	return w
}

func (w *waiting) want(t testing.TB, id int64) {
	t.Helper()
	<-w.done
	if w.err != nil || w.job == nil || w.job.ID != id {
		t.Fatalf("got %v, %v, want job %d", w.job, w.err, id)
	}
}

func TestGetWithoutATimeoutDoesNotWait(t *testing.T) {
	_, jobs := open(t)
	if job, err := jobs.Queue("apples").Get(t.Context(), 0); job != nil || err != nil {
		t.Fatalf("got %v, %v, want neither", job, err)
	}
}

func TestGetWaitsUntilAJobIsPut(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	conn := connect(t, pool)
	tx := begin(t, connect(t, pool))
	for name, q := range map[string]*store.Queue{
		"pool":        apples,
		"connection":  store.New(conn, store.Options{}).Queue("apples"),
		"transaction": apples.With(tx),
	} {
		get := startGet(t.Context(), q, store.Forever)
		eventually(t, pool, `select exists (select `+listening+`)`)
		until(t, "a waiting Get keeps no connection of the pool", func() bool { return pool.Stat().AcquiredConns() == 0 })
		put(t, jobs.Queue("pears"), "not this")
		get.want(t, put(t, apples, name))
		eventually(t, pool, `select not exists (select `+listening+`)`)
	}
	check(t, tx.Commit(t.Context()))
	put(t, store.New(conn, store.Options{}).Queue("apples"), "the connection is usable")
	wantCount(t, pool, 4)
}

// tracer counts queries.
type tracer struct{ n atomic.Int64 }

func (c *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestGetDoesNotPoll(t *testing.T) {
	pool, _ := open(t)
	config := pool.Config()
	queries := &tracer{}
	config.ConnConfig.Tracer = queries
	traced, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	defer traced.Close()
	job, err := store.New(traced, store.Options{}).Queue("apples").Get(t.Context(), time.Second)
	if job != nil || err != nil {
		t.Fatalf("got %v, %v, want neither", job, err)
	}
	// A look; the next due time and a look, before and after it has parked, and last; to park, to unpark.
	if n := queries.n.Load(); n > 9 {
		t.Errorf("a Get that waited in vain made %d queries, want at most 9", n)
	}
}

func TestManyWaitersShareOneListeningConnection(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	const n = 20
	gets := make([]*waiting, n)
	for i := range gets {
		gets[i] = startGet(t.Context(), apples, store.Forever)
	}
	eventually(t, pool, `select count(*) = 1 `+listening)
	var ids []int64
	for i := range n {
		ids = append(ids, put(t, apples, i))
	}
	var got []int64
	for _, get := range gets {
		<-get.done
		if get.err != nil || get.job == nil {
			t.Fatalf("got %v, %v, want a job", get.job, get.err)
		}
		got = append(got, get.job.ID)
	}
	slices.Sort(got)
	wantIDs(t, "get", got, ids...)
	eventually(t, pool, `select count(*) = 0 `+listening)
}

func TestGetHearsOfAJobThatWasPutWhileItsConnectionWasGone(t *testing.T) {
	pool, jobs := open(t)
	get := startGet(t.Context(), jobs.Queue("apples"), store.Forever)
	eventually(t, pool, `select exists (select `+listening+`)`)
	tx := begin(t, pool)
	exec(t, tx, `set local pq_dispatch.notify = off`)
	id := put(t, jobs.With(tx).Queue("apples"), 1)
	check(t, tx.Commit(t.Context()))
	exec(t, pool, `select pg_terminate_backend(pid) `+listening)
	get.want(t, id)
}

func TestGetReturnsAScheduledJobWhenItIsDueAndNotBefore(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	clock := connect(t, pool)
	one[time.Time](t, clock, `select clock_timestamp()`) // prepared, so that it answers at once
	const n = 50
	for i := range n {
		put(t, apples, i, store.ScheduleAt(time.Duration(50+10*i)*time.Millisecond))
	}
	var late time.Duration
	for range n {
		job, err := apples.Get(t.Context(), store.Forever)
		check(t, err)
		now := one[time.Time](t, clock, `select clock_timestamp()`)
		if now.Before(job.ScheduleAt) {
			t.Fatalf("got %v at %v, before its time", job, now)
		}
		late = max(late, now.Sub(job.ScheduleAt))
	}
	t.Logf("at most %v late", late)
}

func TestASchedulePutWhileGetWaitsIsHeard(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	put(t, apples, "later", store.ScheduleAt("1h"))
	get := startGet(t.Context(), apples, store.Forever)
	eventually(t, pool, `select exists (select `+listening+`)`)
	get.want(t, put(t, apples, "sooner", store.ScheduleAt("20ms")))
}

func TestGetEndsWithItsContext(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	cause := errors.New("shutting down")

	ended, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := apples.Get(ended, store.Forever)
	wantError(t, err, cause)

	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	get := startGet(ctx, apples, store.Forever)
	eventually(t, pool, `select exists (select `+listening+`)`)
	cancel(cause)
	<-get.done
	wantError(t, get.err, cause)
	if get.job != nil {
		t.Errorf("got %v beside the error", get.job)
	}
}

func TestJobsEndsAtItsTimeout(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(5))
	check(t, err)
	var got []int64
	for job, err := range apples.Jobs(t.Context(), 0) {
		check(t, err)
		got = append(got, job.ID)
		if len(got) == 2 {
			break
		}
	}
	wantIDs(t, "before the break", got, ids[:2]...)
	for job, err := range apples.Jobs(t.Context(), 20*time.Millisecond) {
		check(t, err)
		got = append(got, job.ID)
	}
	wantIDs(t, "after the break", got, ids...)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := 0
	for job, err := range apples.Jobs(ctx, store.Forever) {
		if errs++; job != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, %v, want the error alone", job, err)
		}
	}
	if errs != 1 {
		t.Errorf("the error was yielded %d times, want once", errs)
	}
}

// Where no one listens for it, a job is found all the same when a Get begins.
func TestWaitersComeAndGo(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if _, err := apples.Get(t.Context(), time.Millisecond); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// While one silent put takes its time, another that commits must not wait for it.
func TestGetLooksWhileItCannotPark(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	long := begin(t, pool)
	put(t, apples.With(long), "long")
	get := startGet(t.Context(), apples, store.Forever)
	eventually(t, pool, `select count(*) = 1 from pg_stat_activity where datname = current_database() and query like '%"park"%' and pid <> pg_backend_pid()`)
	get.want(t, put(t, apples, "short"))
	check(t, long.Rollback(t.Context()))
}

// slowToSay answers the second question for the next due time only when that has passed.
type slowToSay struct {
	*pgxpool.Pool
	t         *testing.T
	questions int
}

func (s *slowToSay) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if strings.Contains(sql, `"next_due"`) {
		if s.questions++; s.questions == 2 {
			eventually(s.t, s.Pool, `select count(*) = 0 from queue where schedule_at > clock_timestamp()`)
		}
	}
	return s.Pool.QueryRow(ctx, sql, args...)
}

// A job that became due between the look and the question for the next due time was in neither.
func TestGetMissesNoJobThatBecomesDueMeanwhile(t *testing.T) {
	pool, _ := open(t)
	config := pool.Config().ConnConfig
	jobs := store.New(&slowToSay{Pool: pool, t: t}, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, config)
	}})
	apples := jobs.Queue("apples")
	id := put(t, apples, 1, store.ScheduleAt(300*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second) // less than it takes to look without being told
	defer cancel()
	if job, err := apples.Get(ctx, store.Forever); err != nil || job.ID != id {
		t.Errorf("got %v, %v, want job %d", job, err, id)
	}
}
