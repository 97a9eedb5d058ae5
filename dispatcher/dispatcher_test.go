package dispatcher_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// migrated is a database with the queue table in it. What a test leaves in it, locks or
// connections, fails the test.
var migrated = pgtest.Template{Setup: migrate}

func migrate(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}

// newStore is a store in a database of the test's own.
func newStore(t *testing.T) *store.Store {
	t.Helper()
	return storeAt(t, migrated.Database(t))
}

// storeAt is a store with a pool of its own, as another process would have.
func storeAt(t *testing.T, url string) *store.Store {
	t.Helper()
	return store.New(poolAt(t, url), store.Options{})
}

func poolAt(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// quiet are options whose dispatcher logs nothing.
func quiet(o dispatcher.Options) dispatcher.Options {
	o.Logger = slog.New(slog.DiscardHandler)
	return o
}

// running is a dispatcher at work.
type running struct {
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

// start runs a dispatcher until the end of the test, or until it is ended; then no goroutine may be
// left of it.
func start(t *testing.T, d *dispatcher.Dispatcher) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, stop: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- d.Run(ctx)
		close(r.done)
	}()
	t.Cleanup(func() { r.end() })
	return r
}

// end stops it, waits for it, and returns what Run returned.
func (r *running) end() error {
	r.stop()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run did not return")
		return nil
	}
}

// patience is how long a test waits for what must happen. No test passes or fails by how long
// something took.
const patience = 60 * time.Second

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func put(t *testing.T, q *store.Queue, data any, options ...store.PutOption) int64 {
	t.Helper()
	id, err := q.Put(t.Context(), data, options...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// row is what the tests look at of a job in the table.
type row struct {
	Attempt   int
	LastError string
	SetAside  bool
}

// rowOf reads a job's row; false if there is none.
func rowOf(t *testing.T, pool *pgxpool.Pool, id int64) (r row, exists bool) {
	t.Helper()
	err := pool.QueryRow(t.Context(),
		`select attempt, coalesce(last_error, ''), set_aside from queue where id = $1`, id,
	).Scan(&r.Attempt, &r.LastError, &r.SetAside)
	if err != nil && err.Error() != "no rows in result set" {
		t.Fatal(err)
	}
	return r, err == nil
}

func TestHandlersRunWhatIsPut(t *testing.T) {
	jobs := newStore(t)
	defer pgtest.NoGoroutineIsLeft(t, 40, goleak.IgnoreCurrent()) // the pool's own stay
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	put(t, apples, "before")

	type handled struct {
		queue, data string
		attempt     int
	}
	got := make(chan handled, 10)
	handler := dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		var data string
		err := job.Decode(&data)
		got <- handled{job.Queue, data, job.Attempt}
		return err
	})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	d.Handle("apples", handler)
	d.Handle("pears", handler)
	r := start(t, d)

	if h := receive(t, got, "the job put before"); h != (handled{"apples", "before", 1}) {
		t.Errorf("got %v, want the apple put before the start", h)
	}
	put(t, pears, "after")
	if h := receive(t, got, "the job put after"); h != (handled{"pears", "after", 1}) {
		t.Errorf("got %v, want the pear put after the start", h)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v, want nil after a graceful stop", err)
	}
	counts, err := jobs.Counts(t.Context())
	if err != nil || len(counts) != 0 {
		t.Errorf("got the counts %v, %v, want none: done jobs are deleted", counts, err)
	}
}

func TestJobsOfEveryWriterAreDispatched(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	got := make(chan int64, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		got <- job.ID
		return nil
	}))
	start(t, d)
	for _, statement := range []string{
		`select pq_dispatch.put('apples', '{"kind": "Cox"}')`,
		`select pq_dispatch.put('apples', '1', schedule_at => now() + '50ms', expected_at => now())`,
		`insert into queue (q_name, data, schedule_at, expected_at) values ('apples', '[]', null, null) returning id`, // as pq does
	} {
		var id int64
		if err := pool.QueryRow(t.Context(), statement).Scan(&id); err != nil {
			t.Fatal(err)
		}
		if handled := receive(t, got, statement); handled != id {
			t.Errorf("%s: handled job %d, want %d", statement, handled, id)
		}
	}
}

func TestJobsRunInOrder(t *testing.T) {
	jobs := newStore(t)
	apples := jobs.Queue("apples")
	now := time.Now()
	put(t, apples, "5th")
	put(t, apples, "3rd", store.ExpectedAt(now.Add(time.Hour)))
	put(t, apples, "4th", store.ExpectedAt(now.Add(2*time.Hour)), store.ScheduleAt(-time.Second))
	put(t, apples, "6th", store.ScheduleAt(-time.Hour)) // due for long, but put later
	put(t, apples, "1st", store.ExpectedAt(now.Add(-time.Hour)))
	put(t, apples, "2nd", store.ExpectedAt(now.Add(-time.Hour))) // the same time: by id

	got := make(chan string, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		var data string
		err := job.Decode(&data)
		got <- data
		return err
	}))
	start(t, d)
	var order []string
	for range 6 {
		order = append(order, receive(t, got, "a job"))
	}
	if want := []string{"1st", "2nd", "3rd", "4th", "5th", "6th"}; !slices.Equal(order, want) {
		t.Errorf("got the order %v, want %v", order, want)
	}
}

func TestScheduledJobsAreNeverEarly(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")

	type result struct {
		early    bool
		lateness time.Duration
	}
	got := make(chan result, 100)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		var early bool
		err := pool.QueryRow(ctx, `select clock_timestamp() < $1`, job.ScheduleAt).Scan(&early)
		got <- result{early, job.Lateness}
		return err
	}))
	start(t, d)
	const n = 50
	for i := range n {
		put(t, apples, i, store.ScheduleAt(time.Duration(i*7)*time.Millisecond))
	}
	var late []time.Duration
	for range n {
		r := receive(t, got, "a scheduled job")
		if r.early {
			t.Error("a job was handled before its schedule_at")
		}
		late = append(late, r.lateness)
	}
	slices.Sort(late)
	t.Logf("lateness p50 %v, max %v", late[n/2], late[n-1])
}

func TestConcurrencyIsNeverExceeded(t *testing.T) {
	jobs := newStore(t)
	var mu sync.Mutex
	now, most := map[string]int{}, map[string]int{}
	enter := func(delta int, names ...string) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range names {
			now[name] += delta
			most[name] = max(most[name], now[name])
		}
	}
	var handled sync.WaitGroup
	handler := dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		defer handled.Done()
		enter(+1, job.Queue, "process")
		defer enter(-1, job.Queue, "process")
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
		return nil
	})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{
		Concurrency: 6,
		Queue:       dispatcher.QueueOptions{Concurrency: 5},
		Queues:      map[string]dispatcher.QueueOptions{"pears": {Concurrency: 2}},
	}))
	for _, name := range []string{"apples", "pears"} {
		d.Handle(name, handler)
		if _, err := store.PutMany(t.Context(), jobs.Queue(name), slices.Values(make([]int, 200))); err != nil {
			t.Fatal(err)
		}
	}
	handled.Add(400)
	start(t, d)
	handled.Wait()
	want := map[string]int{"apples": 5, "pears": 2, "process": 6}
	for name, limit := range want {
		if most[name] > limit {
			t.Errorf("%s: got %d handlers at once, want at most %d", name, most[name], limit)
		}
	}
	t.Logf("at most %v", most)
}

func TestManyDispatchersShareTheWork(t *testing.T) {
	url := migrated.Database(t)
	jobs := storeAt(t, url)
	const n = 3000
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, n)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	runs := map[int64]int{}
	var handled sync.WaitGroup
	handled.Add(n)
	for range 4 {
		d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Concurrency: 20}))
		d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			mu.Lock()
			defer mu.Unlock()
			if runs[job.ID]++; runs[job.ID] == 1 {
				handled.Done()
			}
			return nil
		}))
		start(t, d)
	}
	handled.Wait()
	eventually(t, "the queue is empty", func() bool {
		n, err := jobs.Queue("apples").Len(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	for _, id := range ids {
		if runs[id] != 1 {
			t.Errorf("job %d ran %d times, want once", id, runs[id])
		}
	}
}

func TestMistakesAreReturnedByRun(t *testing.T) {
	jobs := newStore(t)
	ok := dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error { return nil })
	eat := store.Task[string]{Queue: "apples", Name: "eat"}
	run := func(context.Context, *dispatcher.Job, string) error { return nil }
	for name, test := range map[string]struct {
		options  dispatcher.Options
		register func(*dispatcher.Dispatcher)
		is       error
		says     string
	}{
		"no handler":     {register: func(d *dispatcher.Dispatcher) {}, says: "no handler is registered"},
		"nil handler":    {register: func(d *dispatcher.Dispatcher) { d.Handle("apples", nil) }, says: "is nil"},
		"nil func":       {register: func(d *dispatcher.Dispatcher) { d.Handle("apples", dispatcher.HandlerFunc(nil)) }, says: "is nil"},
		"nil task":       {register: func(d *dispatcher.Dispatcher) { dispatcher.HandleTask(d, eat, nil) }, says: "is nil"},
		"nameless task":  {register: func(d *dispatcher.Dispatcher) { dispatcher.HandleTask(d, store.Task[string]{Queue: "apples"}, run) }, says: "has no name"},
		"two handlers":   {register: func(d *dispatcher.Dispatcher) { d.Handle("apples", ok); d.Handle("apples", ok) }, says: "two handlers"},
		"two codecs":     {register: func(d *dispatcher.Dispatcher) { d.Handle("apples", ok); d.Handle("apples/gob", ok) }, says: "one codec"},
		"empty name":     {register: func(d *dispatcher.Dispatcher) { d.Handle("", ok) }, is: store.ErrQueueName, says: "empty"},
		"unknown codec":  {register: func(d *dispatcher.Dispatcher) { d.Handle("apples/xml", ok) }, is: store.ErrCodec, says: "known are gob, json"},
		"concurrency":    {options: dispatcher.Options{Concurrency: -1}, says: "Concurrency is -1"},
		"grace":          {options: dispatcher.Options{Grace: -time.Second}, says: "Grace is -1s"},
		"sweep":          {options: dispatcher.Options{Sweep: -time.Second}, says: "Sweep is -1s"},
		"queue timeout":  {options: dispatcher.Options{Queue: dispatcher.QueueOptions{Timeout: -1}}, says: "Queue.Timeout"},
		"queue attempts": {options: dispatcher.Options{Queues: map[string]dispatcher.QueueOptions{"apples": {MaxAttempts: -1}}}, says: `Queues["apples"].MaxAttempts`},
		"unknown queue":  {options: dispatcher.Options{Queues: map[string]dispatcher.QueueOptions{"aples": {}}}, says: "handled are apples"},
	} {
		t.Run(name, func(t *testing.T) {
			d := dispatcher.New(jobs, test.options)
			if test.register == nil {
				d.Handle("apples", ok)
			} else {
				test.register(d)
			}
			err := d.Run(t.Context())
			if test.is == nil {
				test.is = dispatcher.ErrConfig
			}
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want an error that matches %q and says %q", err, test.is, test.says)
			}
		})
	}
}

func TestADatabaseThatCannotBeWorkedWithEndsRunAtOnce(t *testing.T) {
	ok := dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error { return nil })
	t.Run("unmigrated", func(t *testing.T) {
		d := dispatcher.New(storeAt(t, pgtest.Database(t)), quiet(dispatcher.Options{}))
		d.Handle("apples", ok)
		if err := d.Run(t.Context()); !errors.Is(err, store.ErrNotMigrated) {
			t.Errorf("got %v, want %v", err, store.ErrNotMigrated)
		}
	})
	t.Run("newer schema", func(t *testing.T) {
		pool := poolAt(t, migrated.Database(t))
		if _, err := pool.Exec(t.Context(), `insert into pq_dispatch.schema_version (version, name, queue) values (99, 'x', '"public"."queue"')`); err != nil {
			t.Fatal(err)
		}
		d := dispatcher.New(store.New(pool, store.Options{}), quiet(dispatcher.Options{}))
		d.Handle("apples", ok)
		if err := d.Run(t.Context()); !errors.Is(err, store.ErrNewerSchema) {
			t.Errorf("got %v, want %v", err, store.ErrNewerSchema)
		}
	})
	t.Run("one connection", func(t *testing.T) {
		pool := poolAt(t, migrated.Database(t))
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		d := dispatcher.New(store.New(conn.Conn(), store.Options{}), quiet(dispatcher.Options{}))
		d.Handle("apples", ok)
		if err := d.Run(t.Context()); !errors.Is(err, dispatcher.ErrConfig) {
			t.Errorf("got %v, want %v", err, dispatcher.ErrConfig)
		}
	})
}
