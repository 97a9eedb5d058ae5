package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// adopt has a running dispatcher work as set says.
func adopt(t *testing.T, d *dispatcher.Dispatcher, jobs *store.Store, o dispatcher.Options, set func(next *dispatcher.Dispatcher)) {
	t.Helper()
	next := dispatcher.New(jobs, quiet(o))
	set(next)
	if err := d.Adopt(t.Context(), next); err != nil {
		t.Fatal(err)
	}
}

// gated is a handler that says which job it runs, and goes on when told, or when its context ends, by an error.
type gated struct {
	entered chan *dispatcher.Job
	proceed chan struct{}
	causes  chan error
}

func newGated() *gated {
	return &gated{make(chan *dispatcher.Job, 1000), make(chan struct{}), make(chan error, 1000)}
}

func (g *gated) Handle(ctx context.Context, job *dispatcher.Job) error {
	g.entered <- job
	select {
	case <-g.proceed:
		return nil
	case <-ctx.Done():
		g.causes <- context.Cause(ctx)
		return ctx.Err()
	}
}

// operate does one thing to one job.
func operate(t *testing.T, jobs *store.Store, op store.Operation, id int64) store.Outcome {
	t.Helper()
	results, err := jobs.Operate(t.Context(), op, id)
	if err != nil || len(results) != 1 {
		t.Fatalf("got %v, %v, want one result", results, err)
	}
	return results[0].Outcome
}

// startListening runs a dispatcher that hears from now on what it is told: a word that nobody hears is lost.
func startListening(t *testing.T, d *dispatcher.Dispatcher) *running {
	t.Helper()
	r := start(t, d)
	eventually(t, "it listens", func() bool {
		s, err := d.State(t.Context())
		return err == nil && s.Listening
	})
	return r
}

// isLeft waits until no more than these jobs are left in the queue.
func isLeft(t *testing.T, q *store.Queue, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d jobs are left", n), func() bool {
		got, err := q.Len(t.Context())
		return err == nil && got == n
	})
}

func TestStateTellsWhatADispatcherDoes(t *testing.T) {
	jobs := newStore(t)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 5}))
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.State(soon); err == nil {
		t.Error("before Run: got no error")
	}
	g := newGated()
	d.Handle("apples", g)
	r := start(t, d)
	eventually(t, "it listens and holds a session", func() bool {
		s, err := d.State(t.Context())
		return err == nil && s == dispatcher.State{Listening: true, Holding: true}
	})
	put(t, jobs.Queue("apples"), 1)
	receive(t, g.entered, "a job")
	r.stop()
	eventually(t, "it is stopping, and waits for the handler", func() bool {
		s, err := d.State(t.Context())
		return err == nil && s.Stopping && s.Handlers == 1
	})
	close(g.proceed)
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if _, err := d.State(t.Context()); !errors.Is(err, dispatcher.ErrNotRunning) {
		t.Errorf("after the end: got %v, want %v", err, dispatcher.ErrNotRunning)
	}
	next := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	next.Handle("apples", g)
	if err := d.Adopt(t.Context(), next); !errors.Is(err, dispatcher.ErrNotRunning) {
		t.Errorf("after the end: got %v, want %v", err, dispatcher.ErrNotRunning)
	}
}

func TestWhatCannotBeAdoptedChangesNothing(t *testing.T) {
	jobs := newStore(t)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	got := make(chan string, 10)
	say := func(what string) dispatcher.HandlerFunc {
		return func(context.Context, *dispatcher.Job) error {
			got <- what
			return nil
		}
	}
	d.Handle("apples", say("old"))
	start(t, d)
	good := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	good.Handle("apples", say("new"))
	for name, next := range map[string]*dispatcher.Dispatcher{
		"one without handlers":  dispatcher.New(jobs, quiet(dispatcher.Options{})),
		"one with bad options":  dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: -1})),
		"itself":                d,
		"one of no concurrency": dispatcher.New(jobs.With(connectionOf(t, jobs)), quiet(dispatcher.Options{})),
	} {
		if err := d.Adopt(t.Context(), next); !errors.Is(err, dispatcher.ErrConfig) {
			t.Errorf("%s: got %v, want an error that matches %q", name, err, dispatcher.ErrConfig)
		}
		put(t, jobs.Queue("apples"), 1)
		if who := receive(t, got, "a job"); who != "old" {
			t.Errorf("after %s: the %s handler ran", name, who)
		}
	}
	if err := d.Adopt(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if err := d.Adopt(t.Context(), good); !errors.Is(err, dispatcher.ErrConfig) {
		t.Errorf("the same one again: got %v, want an error that matches %q", err, dispatcher.ErrConfig)
	}
	put(t, jobs.Queue("apples"), 1)
	if who := receive(t, got, "a job"); who != "new" {
		t.Errorf("the %s handler ran, want the adopted one", who)
	}
}

// connectionOf is one connection as a database.
func connectionOf(t *testing.T, jobs *store.Store) store.DB {
	t.Helper()
	conn, err := jobs.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestConcurrencyIsLoweredBelowWhatRunsAndRaisedAgain(t *testing.T) {
	jobs := newStore(t)
	apples := jobs.Queue("apples")
	g := newGated()
	handle := func(next *dispatcher.Dispatcher) { next.Handle("apples", g) }
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 4, Sweep: time.Hour}))
	handle(d)
	start(t, d)
	if _, err := store.PutMany(t.Context(), apples, slices.Values(make([]int, 20))); err != nil {
		t.Fatal(err)
	}
	enter := func(n int) {
		t.Helper()
		for range n {
			receive(t, g.entered, "a job")
		}
	}
	atWork := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d are at work", n), func() bool {
			s, err := d.State(t.Context())
			return err == nil && s.Handlers == n
		})
	}
	enter(4)
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 2, Sweep: time.Hour}, handle)
	g.proceed <- struct{}{}
	g.proceed <- struct{}{}
	atWork(2) // no other is started
	g.proceed <- struct{}{}
	enter(1) // but now
	if s, err := d.State(t.Context()); err != nil || s.Handlers != 2 || len(g.entered) > 0 {
		t.Errorf("got %d at work, %d more entered, %v, want 2", s.Handlers, len(g.entered), err)
	}
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 10, Sweep: time.Hour, Queue: dispatcher.QueueOptions{Concurrency: 3}}, handle)
	enter(1) // the queue's own bound
	atWork(3)
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 10, Sweep: time.Hour}, handle)
	enter(7)
	atWork(10)
	close(g.proceed)
	isLeft(t, apples, 0)
	atWork(0)
}

func TestAQueueIsLeftWhileItsJobsRunAndTakenUpAgain(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	g, p := newGated(), newGated()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
	both := func(next *dispatcher.Dispatcher) {
		next.Handle("apples", g)
		next.Handle("pears", p)
	}
	both(d)
	start(t, d)
	first := put(t, apples, 1)
	if job := receive(t, g.entered, "the first apple"); job.ID != first {
		t.Fatalf("got %v, want job %d", job, first)
	}
	pear := put(t, pears, 1)
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 2, Sweep: time.Hour}, func(next *dispatcher.Dispatcher) { next.Handle("pears", p) })
	if job := receive(t, p.entered, "the pear"); job.ID != pear {
		t.Fatalf("got %v, want job %d", job, pear)
	}
	second := put(t, apples, 2) // nobody here handles it now
	p.proceed <- struct{}{}
	isLeft(t, pears, 0)
	eventually(t, "only the first apple is held", func() bool { return slices.Equal(jobLocks(t, pool), []int64{first}) })
	if len(g.entered) > 0 {
		t.Fatalf("got %v of a queue that was left", <-g.entered)
	}
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 2, Sweep: time.Hour}, both) // the first goes on still
	if job := receive(t, g.entered, "the second apple"); job.ID != second {
		t.Fatalf("got %v, want job %d, and not twice the first", job, second)
	}
	// Left once more, and forgotten when the last has ended.
	adopt(t, d, jobs, dispatcher.Options{Sweep: time.Hour}, func(next *dispatcher.Dispatcher) { next.Handle("pears", p) })
	close(g.proceed)
	isLeft(t, apples, 0)
	eventually(t, "no lock is held", func() bool { return len(jobLocks(t, pool)) == 0 })
	put(t, apples, 3)
	put(t, pears, 2)
	receive(t, p.entered, "the second pear")
	adopt(t, d, jobs, dispatcher.Options{Sweep: time.Hour}, both)
	receive(t, g.entered, "the third apple")
	close(p.proceed)
	isLeft(t, apples, 0)
}

// Every moment is the wrong one: while it sweeps, claims, parks, hands back, reconnects, stops.
func TestAdoptAtAnyMomentLosesNothing(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	names := []string{"apples", "pears", "plums", "quinces"}
	var mu sync.Mutex
	at, runs := map[int64]bool{}, map[int64]int{}
	handler := dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		mu.Lock()
		if at[job.ID] {
			t.Errorf("%v is run twice at once", job)
		}
		at[job.ID] = true
		runs[job.ID]++
		mu.Unlock()
		defer func() {
			mu.Lock()
			delete(at, job.ID)
			mu.Unlock()
		}()
		timer := time.NewTimer(time.Duration(job.ID%3) * time.Millisecond)
		<-timer.C
		return nil
	})
	options := func(i int) dispatcher.Options {
		return dispatcher.Options{Concurrency: 1 + i*7%20, Sweep: time.Duration(1+i%3) * time.Millisecond, Queue: dispatcher.QueueOptions{Concurrency: 1 + i%5}}
	}
	d := dispatcher.New(jobs, quiet(options(0)))
	for _, name := range names {
		d.Handle(name, handler)
	}
	r := start(t, d)
	var putting sync.WaitGroup
	const n = 3000
	putting.Go(func() {
		for i := range n {
			if _, err := jobs.Queue(names[i%len(names)]).Put(t.Context(), i); err != nil {
				t.Error(err)
			}
		}
	})
	var over atomic.Bool
	go func() { putting.Wait(); over.Store(true) }()
	rounds := 0
	for ; !over.Load(); rounds++ {
		adopt(t, d, jobs, options(rounds), func(next *dispatcher.Dispatcher) {
			for j, name := range names {
				if j == 0 || (rounds+j)%3 > 0 {
					next.Handle(name, handler)
				}
			}
		})
		if rounds%5000 == 50 {
			if _, err := pool.Exec(t.Context(), terminateLockSession, beaconClass); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("adopted %d times", rounds)
	adopt(t, d, jobs, dispatcher.Options{}, func(next *dispatcher.Dispatcher) {
		for _, name := range names {
			next.Handle(name, handler)
		}
	})
	for _, name := range names {
		isLeft(t, jobs.Queue(name), 0)
	}
	eventually(t, "no lock is held, and nothing is in the ledger", func() bool {
		var entries int
		err := pool.QueryRow(t.Context(), `select count(*) from pq_dispatch.ledger`).Scan(&entries)
		return err == nil && entries == 0 && len(jobLocks(t, pool)) == 0
	})
	mu.Lock()
	if len(runs) != n {
		t.Errorf("%d jobs have run, want %d", len(runs), n)
	}
	mu.Unlock()
	r.stop()
	next := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	next.Handle("apples", handler)
	if err := d.Adopt(t.Context(), next); err != nil && !errors.Is(err, dispatcher.ErrNotRunning) {
		t.Errorf("while it stops: got %v", err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestAdoptBeforeTheFirstSession(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	open := make(chan struct{})
	jobs := store.New(pool, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		select {
		case <-open:
			return pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	g, p := newGated(), newGated()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1}))
	d.Handle("apples", g)
	start(t, d)
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 2}, func(next *dispatcher.Dispatcher) { next.Handle("pears", p) })
	if s, err := d.State(t.Context()); err != nil || s.Holding {
		t.Fatalf("got %+v, %v, want it without a session: the test has shown nothing", s, err)
	}
	put(t, jobs.Queue("apples"), 1)
	for i := range 3 {
		put(t, jobs.Queue("pears"), i)
	}
	close(open)
	receive(t, p.entered, "a pear")
	receive(t, p.entered, "a pear")
	close(p.proceed)
	isLeft(t, jobs.Queue("pears"), 0)
	if len(g.entered) > 0 {
		t.Errorf("got %v of a queue that was left", <-g.entered)
	}
}

// What was claimed ahead under one codec is not given to who expects another.
func TestAQueueWhoseCodecChangesHandsBackWhatWaits(t *testing.T) {
	jobs := newStore(t)
	g := newGated()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
	first := make(chan struct{})
	fast := 2000
	var ran atomic.Int32
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		if ran.Add(1) == int32(fast) { // by then the next ones are claimed ahead
			g.entered <- job
			<-first
		}
		return nil
	}))
	start(t, d)
	var last []int64
	if _, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, fast))); err != nil {
		t.Fatal(err)
	}
	// As gob, which is not what the queue was registered with at first.
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples/gob"), slices.Values(make([]int, 50)))
	if err != nil {
		t.Fatal(err)
	}
	last = ids
	receive(t, g.entered, "the last of the fast ones")
	decoded := make(chan error, len(last))
	adopt(t, d, jobs, dispatcher.Options{Concurrency: 4, Sweep: time.Hour}, func(next *dispatcher.Dispatcher) {
		next.Handle("apples/gob", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			var n int
			err := job.Decode(&n)
			decoded <- err
			return err
		}))
	})
	close(first)
	for range last {
		if err := receive(t, decoded, "a job of the new codec"); err != nil {
			t.Fatal(err)
		}
	}
	isLeft(t, jobs.Queue("apples"), 0)
}

func TestCancelEndsAJobWhereverItIs(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	g, other := newGated(), newGated()
	launch := func(h dispatcher.Handler) *running {
		d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
		d.Handle("apples", h)
		return startListening(t, d)
	}
	launch(g)
	mine := put(t, apples, "runs")
	receive(t, g.entered, "it")
	launch(other)
	theirs := put(t, apples, "runs at the other")
	receive(t, other.entered, "it")
	waiting := put(t, apples, "waits in the table")

	cancelled := func(what string, id int64, want store.Outcome) {
		t.Helper()
		if got := operate(t, jobs, store.Cancel(), id); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	setAside := func(id int64) {
		t.Helper()
		eventually(t, "it is set aside", func() bool {
			r, exists := rowOf(t, pool, id)
			return exists && r.SetAside && r.LastError != ""
		})
	}
	cancelled("one that nobody knows", 4711, "gone")
	cancelled("one that waits", waiting, "cancelled")
	setAside(waiting)
	cancelled("one that runs at the other", theirs, "asked")
	if err := receive(t, other.causes, "the end of its context"); err != dispatcher.ErrCancelled {
		t.Errorf("its context ended by %v, want %v", err, dispatcher.ErrCancelled)
	}
	setAside(theirs)
	if len(g.causes) > 0 {
		t.Errorf("another job's context ended by %v", <-g.causes)
	}
	cancelled("one that runs", mine, "asked")
	receive(t, g.causes, "the end of its context")
	setAside(mine)
	done := put(t, apples, "done")
	select {
	case <-g.entered:
		g.proceed <- struct{}{}
	case <-other.entered:
		other.proceed <- struct{}{}
	case <-time.After(patience):
		t.Fatal("waited in vain for the next job")
	}
	isLeft(t, apples, 0)
	cancelled("one that is done", done, "gone")
}

// One that is cancelled while it waits for a slot is not forgotten when what waits is handed back.
func TestAJobCancelledWhileItWaitsForASlotIsSetAsideAtOnce(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	// What is claimed ahead goes back within a second of the last job's end: if the victim has, there is another round.
	const fast, rounds = 3000, 20
	entered, proceed := make(chan int64, 1), make(chan struct{})
	var ran atomic.Int32
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour, Grace: time.Minute}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		if ran.Add(1)%fast == 0 {
			entered <- job.ID
			<-proceed
		}
		return nil
	}))
	r := startListening(t, d)
	if _, err := store.PutMany(t.Context(), apples, slices.Values(make([]int, fast*rounds))); err != nil {
		t.Fatal(err)
	}
	// One that goes back just when it is cancelled may be held by nobody who hears of it.
	heard := func(id int64) bool {
		t.Helper()
		isSetAside := func() bool { row, exists := rowOf(t, pool, id); return exists && row.SetAside }
		eventually(t, "it is set aside, or handed back", func() bool { return isSetAside() || !slices.Contains(jobLocks(t, pool), id) })
		return isSetAside()
	}
	var victim int64
	for round := 1; victim == 0; round++ {
		running := receive(t, entered, "the last of the fast ones")
		locks := jobLocks(t, pool)
		next := slices.IndexFunc(locks, func(id int64) bool { return id > running }) // the last ones go back first
		if next >= 0 && operate(t, jobs, store.Cancel(), locks[next]) == "asked" && heard(locks[next]) {
			victim = locks[next]
		} else if round == rounds-1 {
			t.Fatal("none was cancelled while it waited for the slot")
		} else {
			proceed <- struct{}{}
		}
	}
	eventually(t, "it is set aside, while the slot is taken", func() bool {
		row, exists := rowOf(t, pool, victim)
		return exists && row.SetAside && row.LastError == "cancelled"
	})
	r.stop()
	close(proceed)
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if row, exists := rowOf(t, pool, victim); !exists || !row.SetAside {
		t.Errorf("got %+v, want it set aside still", row)
	}
}

func TestACancelledJobWhoseSessionBreaksIsSetAsideAllTheSame(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	entered, causes, proceed := make(chan int64, 10), make(chan error, 10), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		entered <- job.ID
		<-ctx.Done()
		causes <- context.Cause(ctx)
		<-proceed // it takes its time
		return ctx.Err()
	}))
	startListening(t, d)
	setAside := func(id int64) {
		t.Helper()
		eventually(t, "it is set aside", func() bool {
			r, exists := rowOf(t, pool, id)
			return exists && r.SetAside
		})
	}
	cancelled, other := put(t, jobs.Queue("apples"), 1), put(t, jobs.Queue("apples"), 2)
	receive(t, entered, "a job")
	receive(t, entered, "another job")
	operate(t, jobs, store.Cancel(), cancelled)
	if err := receive(t, causes, "the end of its context"); err != dispatcher.ErrCancelled {
		t.Fatalf("its context ended by %v, want %v", err, dispatcher.ErrCancelled)
	}
	if _, err := pool.Exec(t.Context(), terminateLockSession, beaconClass); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, causes, "the end of the other's context"); err != dispatcher.ErrSessionLost {
		t.Fatalf("the other's context ended by %v, want %v", err, dispatcher.ErrSessionLost)
	}
	proceed <- struct{}{}
	proceed <- struct{}{}
	setAside(cancelled)
	if id := receive(t, entered, "the other, again: its claim was lost"); id != other {
		t.Errorf("got job %d, want %d", id, other)
	}
	operate(t, jobs, store.Cancel(), other)
	receive(t, causes, "the end of its context")
	proceed <- struct{}{}
	setAside(other)
}

func TestAPauseHoldsWhatWaitsAndItsEndWakes(t *testing.T) {
	for _, end := range []string{"its time", "a shorter one", "resume"} {
		t.Run(end, func(t *testing.T) {
			pool := poolAt(t, migrated.Database(t))
			jobs := store.New(pool, store.Options{})
			apples := jobs.Queue("apples")
			g := newGated()
			d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
			d.Handle("apples", g)
			start(t, d)
			running := put(t, apples, "runs on")
			receive(t, g.entered, "it")
			pause := func(o store.PauseOptions) {
				t.Helper()
				if _, err := apples.Pause(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			if end == "its time" {
				pause(store.PauseOptions{For: 1500 * time.Millisecond})
			} else {
				pause(store.PauseOptions{For: time.Hour})
			}
			held := put(t, apples, "waits")
			g.proceed <- struct{}{} // what runs goes on
			eventually(t, "the running one is done", func() bool {
				_, exists := rowOf(t, pool, running)
				return !exists
			})
			eventually(t, "the dispatcher is asleep, or its time has come first", func() bool {
				return isAsleep(t, pool) || end == "its time" && len(g.entered) > 0
			})
			switch end {
			case "resume":
				if was, err := apples.Resume(t.Context()); err != nil || !was {
					t.Fatalf("resume: got %v, %v", was, err)
				}
			case "a shorter one":
				pause(store.PauseOptions{For: 300 * time.Millisecond})
			}
			if job := receive(t, g.entered, "the job that waited"); job.ID != held {
				t.Errorf("got %v, want job %d", job, held)
			}
			var paused bool
			if err := pool.QueryRow(t.Context(), `select pq_dispatch.paused('apples')`).Scan(&paused); err != nil || paused {
				t.Errorf("it was started while the queue was paused: %v, %v", paused, err)
			}
			close(g.proceed)
			isLeft(t, apples, 0)
		})
	}
}

// standStill has the statement that cause brings about stand still, in what gate puts in its way, until goOn is called.
func standStill(t *testing.T, pool *pgxpool.Pool, gate string, cause func()) (goOn func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	exec(t, tx, `select pg_advisory_xact_lock(4711)`)
	exec(t, pool, gate)
	cause()
	eventually(t, "it stands still", func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and objid = 4711 and not granted)`).Scan(&waits)
		return err == nil && waits
	})
	return func() {
		t.Helper()
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	inAClaim = ` -- when it has its jobs
		create function stand_still() returns trigger language plpgsql as $$
		begin
		  perform pg_advisory_xact_lock(4711);
		  return new;
		end $$;
		create trigger stand_still before insert on pq_dispatch.ledger for each row execute function stand_still()`
	inASweep = `
		create or replace function pq_dispatch.lock_budget() returns integer language plpgsql as $$
		begin
		  perform pg_advisory_xact_lock(4711);
		  return 1000;
		end $$`
)

func TestASweepUnderWayMayBeOfQueuesThatAreLeft(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	// A job that is due, and that nobody can have: a sweep finds work in the second queue.
	other := connect(t, pool)
	exec(t, other, `select pg_advisory_lock(pq_dispatch.lock_class(), pq_dispatch.lock_key($1))`, put(t, jobs.Queue("pears"), 1))
	g := newGated()
	options := dispatcher.Options{Sweep: 10 * time.Millisecond}
	d := dispatcher.New(jobs, quiet(options))
	for _, name := range []string{"apples", "pears", "plums"} {
		d.Handle(name, g)
	}
	start(t, d)
	eventually(t, "it has a session", func() bool {
		s, err := d.State(t.Context())
		return err == nil && s.Holding
	})
	goOn := standStill(t, pool, inASweep, func() {})
	adopt(t, d, jobs, options, func(next *dispatcher.Dispatcher) { next.Handle("plums", g) })
	goOn()
	plum := put(t, jobs.Queue("plums"), 1)
	if job := receive(t, g.entered, "the plum"); job.ID != plum {
		t.Errorf("got %v, want job %d", job, plum)
	}
	close(g.proceed)
	isLeft(t, jobs.Queue("plums"), 0)
}

func TestAQueueWhoseCodecChangesHandsBackWhatAClaimUnderWayBrings(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		t.Errorf("the old handler got %v", job)
		return nil
	}))
	start(t, d)
	asleep(t, pool)
	goOn := standStill(t, pool, inAClaim, func() { put(t, jobs.Queue("apples/gob"), 5) })
	decoded := make(chan error, 10)
	adopt(t, d, jobs, dispatcher.Options{Sweep: time.Hour}, func(next *dispatcher.Dispatcher) {
		next.Handle("apples/gob", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			var n int
			err := job.Decode(&n)
			decoded <- err
			return err
		}))
	})
	goOn()
	if err := receive(t, decoded, "the job"); err != nil {
		t.Error(err)
	}
	isLeft(t, jobs.Queue("apples"), 0)
}

// The answer to a claim may come after the word of a pause, though it is older.
func TestAPauseHandsBackWhatAClaimUnderWayBrings(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	a, p := newGated(), newGated()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", a)
	d.Handle("pears", p)
	startListening(t, d)
	pear := put(t, pears, 1)
	receive(t, p.entered, "the pear")
	asleep(t, pool)
	goOn := standStill(t, pool, inAClaim, func() { put(t, apples, 1) })
	if _, err := apples.Pause(t.Context(), store.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	operate(t, jobs, store.Cancel(), pear) // heard after the pause
	receive(t, p.causes, "the end of the pear's context")
	goOn()
	eventually(t, "nothing is held", func() bool { return len(jobLocks(t, pool)) == 0 })
	if len(a.entered) > 0 {
		t.Fatalf("got %v while its queue was paused", <-a.entered)
	}
	if _, err := apples.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	receive(t, a.entered, "the apple")
	close(a.proceed)
	isLeft(t, apples, 0)
}

func TestAPauseHandsBackWhatIsClaimedAhead(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	const fast, rounds = 3000, 20
	entered, proceed := make(chan int64, 1), make(chan struct{})
	var ran atomic.Int32
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if ran.Add(1)%fast == 0 {
			entered <- job.ID
			<-proceed
		}
		return nil
	}))
	startListening(t, d)
	more := func(n int) {
		t.Helper()
		if _, err := store.PutMany(t.Context(), apples, slices.Values(make([]int, n))); err != nil {
			t.Fatal(err)
		}
	}
	more(2 * fast)
	running := receive(t, entered, "the last of the fast ones")
	// What is claimed ahead goes back within a second of the last job's end: if it has, there is another round.
	for round := 1; len(jobLocks(t, pool)) < 2; round++ {
		if round == rounds {
			t.Fatal("none was claimed ahead")
		}
		more(fast)
		proceed <- struct{}{}
		running = receive(t, entered, "the last of the fast ones")
	}
	if _, err := apples.Pause(t.Context(), store.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "only the running one is held", func() bool { return slices.Equal(jobLocks(t, pool), []int64{running}) })
	close(proceed)
	isLeft(t, apples, fast)
	eventually(t, "nothing is held", func() bool { return len(jobLocks(t, pool)) == 0 })
	if _, err := apples.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	isLeft(t, apples, 0)
}
