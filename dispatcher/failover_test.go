package dispatcher_test

import (
	"context"
	"errors"
	"slices"
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

// beacons lists the dispatchers that live.
func beacons(t *testing.T, pool *pgxpool.Pool) []int64 {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		select objid::bigint from pg_locks
		where locktype = 'advisory' and classid = $1 and objsubid = 2 and granted order by 1`, beaconClass)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// tally counts what became of numbered jobs. Numbers and not ids: a put that fails tells no id.
type tally struct {
	mu        sync.Mutex
	runs      map[int]int
	committed []int // their put was reported as committed
	unknown   int   // their put failed, which tells nothing
}

func (y *tally) ran(number int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.runs[number]++
}

// put notes what a put was told.
func (y *tally) put(number int, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err != nil {
		y.unknown++
		return
	}
	y.committed = append(y.committed, number)
}

// done is how many puts were committed, and the first of them that has not run.
func (y *tally) done() (committed, waiting int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	i := slices.IndexFunc(y.committed, func(n int) bool { return y.runs[n] == 0 })
	if i < 0 {
		return len(y.committed), 0
	}
	return len(y.committed), y.committed[i]
}

// TestAFailoverToAStandbyLosesNothing has dispatchers at work, and jobs put all the while, by way of an
// address that names two servers. The primary is gone in an instant and never comes back; its standby
// takes over.
func TestAFailoverToAStandbyLosesNothing(t *testing.T) {
	primary := pgtest.Server(t, devpg.Options{})
	if err := migrate(t.Context(), primary.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, devpg.ErrNoBaseBackup) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := primary.Synchronous(t.Context()); err != nil {
		t.Fatal(err)
	}
	url := devpg.FailoverURL("postgres", primary, standby)

	// Two dispatchers, each with a job that runs until its claim is lost.
	const dispatchers = 2
	seen := &tally{runs: map[int]int{}}
	entered, causes := make(chan int, dispatchers), make(chan error, dispatchers)
	var lost atomic.Bool // later runs of these two end at once
	var started []*running
	for range dispatchers {
		d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{
			Concurrency: 20,
			Queues:      map[string]dispatcher.QueueOptions{"long": {Concurrency: 1}},
		}))
		d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			var number int
			err := job.Decode(&number)
			seen.ran(number)
			return err
		}))
		d.Handle("long", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
			var number int
			if err := job.Decode(&number); err != nil {
				return err
			}
			seen.ran(number)
			if lost.Load() {
				return nil
			}
			entered <- number
			<-ctx.Done()
			lost.Store(true)
			causes <- context.Cause(ctx)
			return ctx.Err()
		}))
		started = append(started, start(t, d))
	}
	jobs := storeAt(t, url)
	for i := range dispatchers {
		number := -1 - i
		put(t, jobs.Queue("long"), number)
		seen.put(number, nil)
	}
	for range dispatchers {
		receive(t, entered, "a job that goes on until its claim is lost")
	}

	// Jobs are put all the while, and no put is repeated: one that fails may have committed or not.
	putting, enough := context.WithCancel(t.Context())
	var putters sync.WaitGroup
	defer putters.Wait()
	defer enough()
	var numbers atomic.Int64
	for range 4 {
		putters.Go(func() {
			pause := time.NewTicker(time.Millisecond) // a server that is down refuses thousands a second
			defer pause.Stop()
			for putting.Err() == nil {
				number := int(numbers.Add(1))
				_, err := jobs.Queue("apples").Put(t.Context(), number)
				seen.put(number, err)
				<-pause.C
			}
		})
	}
	const load = 300
	under := func(want int) func() bool {
		return func() bool {
			committed, _ := seen.done()
			return committed >= want
		}
	}
	eventually(t, "there is load on the primary", under(load))
	old := beacons(t, poolAt(t, primary.URL("postgres")))
	if len(old) != dispatchers {
		t.Fatalf("got the beacons %v on the primary, want %d", old, dispatchers)
	}

	if err := primary.Stop(t.Context(), devpg.Immediate); err != nil {
		t.Fatal(err)
	}
	for range dispatchers {
		if err := receive(t, causes, "the end of a handler's context"); !errors.Is(err, dispatcher.ErrSessionLost) {
			t.Errorf("a handler's context ended by %v, want %v", err, dispatcher.ErrSessionLost)
		}
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _ := seen.done()
	eventually(t, "there is load on the new primary", under(before+load))
	enough()
	putters.Wait()

	eventually(t, "what was committed has run", func() bool {
		_, waiting := seen.done()
		return waiting == 0
	})
	pool := poolAt(t, standby.URL("postgres"))
	eventually(t, "no job is left, those included whose put failed though it had committed", func() bool {
		var n int
		if err := pool.QueryRow(t.Context(), `select count(*) from queue`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	// One of them may have done all of it before the other was back.
	eventually(t, "both have lit beacons on the new primary", func() bool { return len(beacons(t, pool)) == dispatchers })
	for _, id := range beacons(t, pool) {
		if slices.Contains(old, id) {
			t.Errorf("beacon %d of the old primary is on the new one; want a fresh one", id)
		}
	}
	for _, r := range started {
		if err := r.end(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	}
	eventually(t, "no advisory lock is held or waited for", func() bool {
		var n int
		if err := pool.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	if conn, err := pgx.Connect(t.Context(), primary.URL("postgres")); err == nil {
		conn.Close(t.Context())
		t.Error("the old primary is back: the test has shown nothing")
	}
	committed, _ := seen.done()
	t.Logf("%d puts committed, %d failed", committed, seen.unknown)
	if seen.unknown == 0 {
		t.Error("no put failed: the test has shown nothing")
	}
}

// launchPeer runs a dispatcher of another process, which finds out by itself in an hour at the earliest.
func launchPeer(t *testing.T, url string, concurrency int, h dispatcher.HandlerFunc) {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "peer"
	jobs := store.New(poolAt(t, url), store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, config)
	}})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: concurrency, Sweep: time.Hour}))
	d.Handle("apples", h)
	start(t, d)
}

// peerSleeps waits until the peer has asked for nothing for a hundred times as long as it looks around
// before it sleeps, and someone has parked: else it is only slow.
func peerSleeps(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, "the peer sleeps", func() bool {
		if !isAsleep(t, pool) {
			return false
		}
		var sleeps bool
		err := pool.QueryRow(t.Context(), `
			select exists (
			  select from pg_stat_activity join pg_locks using (pid)
			  where application_name = 'peer' and classid = $1 and objsubid = 2 and locktype = 'advisory'
			    and state = 'idle' and state_change < clock_timestamp() - '100ms'::interval)`, beaconClass).Scan(&sleeps)
		return err == nil && sleeps
	})
}

func TestAStopHandsRunningJobsToAPeerThatSleeps(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	const slots = 10
	entered := make(chan struct{}, slots)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: slots, Grace: time.Millisecond, Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	r := start(t, d)
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values(make([]int, slots)))
	if err != nil {
		t.Fatal(err)
	}
	for range slots {
		receive(t, entered, "a handler")
	}
	got := make(chan *dispatcher.Job, 2*slots)
	launchPeer(t, url, slots, func(_ context.Context, job *dispatcher.Job) error {
		got <- job
		return nil
	})
	peerSleeps(t, pool)
	stopped := time.Now()
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v, want nil: the handlers obeyed", err)
	}
	var ran []int64
	for range slots {
		job := receive(t, got, "a job of the one that stopped")
		if job.Attempt != 1 {
			t.Errorf("got %v, want its attempt not counted", job)
		}
		ran = append(ran, job.ID)
	}
	t.Logf("handed over within %v", time.Since(stopped))
	if slices.Sort(ran); !slices.Equal(ran, ids) {
		t.Errorf("the peer ran the jobs %v, want %v", ran, ids)
	}
}

func TestAStopHandsWhatIsClaimedAheadToAPeerInOrderAndAtOnce(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	for _, sql := range []string{ // to tell what the stop hands back from what was handed back before
		`create table released (ids bigint[])`,
		`alter function pq_dispatch.release(bigint[]) rename to real_release`,
		`create function pq_dispatch.release(ids bigint[]) returns bigint language plpgsql as $$
		 begin
		   insert into public.released values (ids);
		   return pq_dispatch.real_release(ids);
		 end $$`,
	} {
		exec(t, pool, sql)
	}
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	got := make(chan int64, 10_000)
	busy, free := make(chan struct{}, 1), make(chan struct{})
	first := put(t, apples, "keeps the peer busy")
	launchPeer(t, url, 1, func(_ context.Context, job *dispatcher.Job) error {
		if job.ID == first {
			busy <- struct{}{}
			<-free
		}
		got <- job.ID
		return nil
	})
	receive(t, busy, "the job that keeps the peer busy")

	// Fast ones, by whose rate others are claimed ahead; one that goes on; and some that are few enough to be
	// claimed at once. Were more left, the first would look for urgent ones again and again, and find each time that
	// its handlers have become slower, until it gives back what it holds.
	const fast, rest = 3000, 5
	ids, err := store.PutMany(t.Context(), apples, slices.Values(make([]int, fast+1+rest)))
	if err != nil {
		t.Fatal(err)
	}
	long := ids[fast]
	entered, proceed := make(chan struct{}, 1), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: time.Hour}))
	previous := first // the jobs before the long one run in their order, whatever is handed back meanwhile
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if job.ID <= long && job.ID != previous+1 {
			t.Errorf("job %d ran after job %d", job.ID, previous)
		}
		previous = job.ID
		if job.ID == long {
			entered <- struct{}{}
			<-proceed
		}
		return nil
	}))
	r := start(t, d)
	receive(t, entered, "the long one")
	close(free)
	eventually(t, "the peer has done all that is left to it", func() bool {
		n, err := apples.Len(t.Context())
		locked := jobLocks(t, pool)
		return err == nil && n == len(locked) && locked[0] == long
	})
	peerSleeps(t, pool)
	for range len(got) {
		<-got
	}
	ahead := jobLocks(t, pool) // with the long one
	if len(ahead) < 2 || ahead[0] != long {
		t.Skipf("the first has claimed %v, not job %d and some ahead: handlers were too slow here for that", ahead, long)
	}

	stopped := time.Now()
	r.stop()
	var handed []int64
	for len(handed) < len(ahead[1:]) {
		if id := receive(t, got, "a job claimed ahead by the one that stops"); slices.Contains(ahead, id) {
			handed = append(handed, id)
		}
	}
	t.Logf("%d jobs handed over and run within %v", len(ahead)-1, time.Since(stopped))
	select {
	case err := <-r.done:
		t.Errorf("Run returned %v, want it to wait for the job that goes on", err)
	default:
	}
	close(proceed)
	if err := r.end(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	eventually(t, "no job is left", func() bool {
		n, err := apples.Len(t.Context())
		return n == 0 && err == nil
	})
	for range len(got) {
		if id := <-got; slices.Contains(ahead, id) {
			t.Errorf("the peer got job %d too", id)
		}
	}
	if !slices.Equal(handed, ahead[1:]) {
		var atOnce bool
		if err := pool.QueryRow(t.Context(), `select exists (select from released where ids @> $1)`, ahead[1:]).Scan(&atOnce); err != nil {
			t.Fatal(err)
		}
		if !atOnce {
			t.Skipf("the peer got the jobs %v, as some of %v had been handed back before the stop: it came too late here", handed, ahead[1:])
		}
		t.Errorf("the peer got the jobs %v, want %v", handed, ahead[1:])
	}
}
