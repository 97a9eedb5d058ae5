package dispatcher_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// TestNoPutIsMissedWithoutTheSweep puts in every way there is, against three dispatchers that come and
// go, with the sweep an hour away: only the wake-ups find the jobs.
func TestNoPutIsMissedWithoutTheSweep(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	queues := []string{"apples", "pears", "plums"}

	var mu sync.Mutex
	handled := map[int64]bool{}
	launch := func() *running {
		d := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: time.Hour, Concurrency: 1 + rand.IntN(4)}))
		for _, queue := range queues {
			d.Handle(queue, dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
				mu.Lock()
				defer mu.Unlock()
				handled[job.ID] = true
				return nil
			}))
		}
		return start(t, d)
	}
	dispatchers := []*running{launch(), launch(), launch()}

	var expected []int64
	var putters sync.WaitGroup
	expect := func(ids ...int64) {
		mu.Lock()
		defer mu.Unlock()
		expected = append(expected, ids...)
	}
	pause := func(most time.Duration) {
		timer := time.NewTimer(rand.N(most))
		<-timer.C
	}
	for range 6 {
		putters.Go(func() {
			for range 40 {
				q := jobs.Queue(queues[rand.IntN(len(queues))])
				var ids []int64
				err := error(nil)
				switch rand.IntN(6) {
				case 0: // alone
					var id int64
					id, err = q.Put(t.Context(), 1)
					ids = []int64{id}
				case 1: // many
					ids, err = store.PutMany(t.Context(), q, slices.Values(make([]int, 1+rand.IntN(20))))
				case 2: // in a transaction that takes its time, or is given up
					commit := rand.IntN(2) == 0
					var tx pgx.Tx
					if tx, err = pool.Begin(t.Context()); err != nil {
						break
					}
					var id int64
					if id, err = q.With(tx).Put(t.Context(), 1); err != nil {
						break
					}
					pause(20 * time.Millisecond)
					if commit {
						ids = []int64{id}
						err = tx.Commit(t.Context())
					} else {
						err = tx.Rollback(t.Context())
					}
				case 3: // scheduled
					var id int64
					id, err = q.Put(t.Context(), 1, store.ScheduleAt(rand.N(50*time.Millisecond)))
					ids = []int64{id}
				case 4: // in SQL
					var id int64
					err = pool.QueryRow(t.Context(), `select pq_dispatch.put($1, '1')`, q.Name()).Scan(&id)
					ids = []int64{id}
				case 5: // nothing for a while, so that all fall asleep
					pause(30 * time.Millisecond)
				}
				if err != nil {
					t.Error(err)
					return
				}
				expect(ids...)
			}
		})
	}
	for range 4 { // dispatchers leave, and others come
		pause(100 * time.Millisecond)
		i := rand.IntN(len(dispatchers))
		if err := dispatchers[i].end(); err != nil {
			t.Error(err)
		}
		dispatchers[i] = launch()
	}
	putters.Wait()
	eventually(t, "all jobs are handled", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !slices.ContainsFunc(expected, func(id int64) bool { return !handled[id] })
	})
	t.Logf("%d jobs", len(expected))
}

func TestADeathWakesThoseWhoSleptByTheDeadOnesPost(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	// One who has parked, in a session that will die.
	parked, err := jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := parked.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true, Want: 1}); err != nil || c.Parking != store.Parked {
		t.Fatalf("got %v, %v, want to be parked", c.Parking, err)
	}
	got := make(chan struct{}, 1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		got <- struct{}{}
		return nil
	}))
	start(t, d)
	eventually(t, "the dispatcher watches its neighbour", func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and not granted)`).Scan(&waits)
		return err == nil && waits
	})
	parked.Close(t.Context())
	eventually(t, "the dispatcher has taken the post", func() bool {
		var holds bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory'
			and classid = 'pq_dispatch.ledger'::regclass::oid and mode = 'ExclusiveLock')`).Scan(&holds)
		return err == nil && holds
	})
	put(t, apples, "Cox")
	receive(t, got, "the job")
}

func TestABusyDispatcherLetsPutsBeSilent(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	entered, proceed := make(chan struct{}, 100), make(chan struct{})
	handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 1}, func(context.Context, *dispatcher.Job) error {
		entered <- struct{}{}
		<-proceed
		return nil
	})
	put(t, apples, 1)
	receive(t, entered, "the first")
	put(t, apples, 2) // for which there is no slot
	eventually(t, "the post is given up", func() bool {
		var held bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory'
			and classid = 'pq_dispatch.ledger'::regclass::oid)`).Scan(&held)
		return err == nil && !held
	})
	close(proceed)
	receive(t, entered, "the second")
	put(t, apples, 3)
	receive(t, entered, "the third")
}

// A retry is an UPDATE, which notifies nobody. When it is due and its process has no room, a peer that
// sleeps must be told: be it that there was no room from the start, or that there was less than was due.
func TestAPeerTakesTheRetriesThatThereIsNoRoomFor(t *testing.T) {
	t.Run("no room at all", func(t *testing.T) { retriesWithoutRoom(t, 1) })
	t.Run("room for one of two", func(t *testing.T) { retriesWithoutRoom(t, 2) })
}

func retriesWithoutRoom(t *testing.T, count int) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	fail, proceed := make(chan struct{}), make(chan struct{})
	entered := make(chan string, 10)
	first := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour, Concurrency: count + 1}))
	first.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		entered <- "apple"
		if job.Attempt > 1 {
			<-proceed
			return nil
		}
		<-fail
		return retry.After(100*time.Millisecond, errSour)
	}))
	first.Handle("pears", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		entered <- "pear"
		<-proceed
		return nil
	}))
	start(t, first)
	for range count {
		put(t, apples, "sour")
	}
	put(t, pears, "long")
	for range count + 1 {
		receive(t, entered, "all slots are taken")
	}
	put(t, pears, "the next for a slot")

	got := make(chan int, 10)
	peer := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: time.Hour}))
	peer.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		got <- job.Attempt
		return nil
	}))
	start(t, peer)
	// The first has no reason to give up the wake lock of apples; the peer sleeps by it, or by its own.
	eventually(t, "the peer watches, so it has looked at everything", func() bool {
		var watches bool
		err := pool.QueryRow(t.Context(), `select count(*) = 2 from pg_locks where locktype = 'advisory' and not granted`).Scan(&watches)
		return err == nil && watches
	})
	close(fail)
	if attempt := receive(t, got, "a retry, by the peer"); attempt != 2 {
		t.Errorf("got attempt %d, want the retry", attempt)
	}
	close(proceed)
}
