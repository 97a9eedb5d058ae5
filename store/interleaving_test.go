package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// The statements of one who puts and one who goes to sleep, as they are sent for real, in every order in
// which they can reach the server. In each, the job must be found by the last look, or announced, or the
// sleeper must know that it may not sleep yet.
func TestNoInterleavingLosesAWakeUp(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	putter := []string{"begin", "put", "end"}
	sleeper := []string{"park", "look"}
	for _, order := range merges(putter, sleeper) {
		for _, end := range []string{"commit", "rollback"} {
			for _, peer := range []bool{false, true} {
				name := fmt.Sprintf("%s, %s, a peer parked: %v", strings.Join(order, " "), end, peer)
				t.Run(name, func(t *testing.T) {
					exec(t, pool, `delete from queue`)
					// Whoever was parked before has closed its session, but the server may still be ending it.
					eventually(t, pool, `select not exists (select from pg_locks where locktype = 'advisory')`)
					session := openSession(t, jobs)
					if peer {
						other := openSession(t, jobs)
						if c, err := other.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true, Want: 1}); err != nil || c.Parking != store.Parked {
							t.Fatalf("the peer got %v, %v, want to be parked", c.Parking, err)
						}
					}
					ear := connect(t, pool)
					exec(t, ear, `listen `+jobs.Channel())

					var tx pgx.Tx
					var parking store.Parking
					found := false
					for _, step := range order {
						switch step {
						case "begin":
							tx = begin(t, pool)
						case "put":
							put(t, apples.With(tx), "Cox")
						case "end":
							if end == "commit" {
								check(t, tx.Commit(t.Context()))
							} else {
								check(t, tx.Rollback(t.Context()))
							}
						case "park":
							c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true})
							check(t, err)
							parking = c.Parking
						case "look":
							c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1})
							check(t, err)
							found = len(c.Jobs) == 1
						}
					}
					announced := heard(t, ear, jobs) // after all that could be announced
					exists := end == "commit"
					switch {
					case found && !exists:
						t.Error("a job that was rolled back was found")
					case announced && !exists:
						t.Error("a job that was rolled back was announced")
					case exists && !found && !announced && parking.Safe():
						t.Errorf("lost: parking said %q, the look found nothing, and nothing was announced", parking)
					case peer && parking != store.Peer:
						t.Errorf("got %q beside a parked peer, want %q", parking, store.Peer)
					}
				})
			}
		}
	}
}

// merges lists all the orders of two sequences that keep each one's own.
func merges(a, b []string) [][]string {
	if len(a) == 0 || len(b) == 0 {
		return [][]string{slices.Concat(a, b)}
	}
	var all [][]string
	for _, rest := range merges(a[1:], b) {
		all = append(all, slices.Concat(a[:1], rest))
	}
	for _, rest := range merges(a, b[1:]) {
		all = append(all, slices.Concat(b[:1], rest))
	}
	return all
}

// heard tells whether a job was announced so far.
func heard(t *testing.T, ear *pgx.Conn, jobs *store.Store) (announced bool) {
	t.Helper()
	exec(t, ear, `select pg_notify($1, 'end')`, jobs.Channel())
	for {
		n, err := ear.WaitForNotification(t.Context())
		check(t, err)
		if n.Payload == "end" {
			return announced
		}
		announced = announced || n.Payload == "0 apples"
	}
}

func TestASilentPutIsNoticedBeforeSleep(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	park := func() store.Parking {
		t.Helper()
		c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true, Want: 1})
		check(t, err)
		return c.Parking
	}
	tx := begin(t, pool)
	put(t, apples.With(tx), "Cox")
	if got := park(); got != store.Busy {
		t.Errorf("while a silent put is under way: got %q, want %q", got, store.Busy)
	}
	check(t, tx.Rollback(t.Context()))
	if got := park(); got != store.Parked {
		t.Errorf("after it: got %q, want %q", got, store.Parked)
	}
}

func TestUnparkingTellsThoseWhoSleepByIt(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ear := connect(t, pool)
	exec(t, ear, `listen `+jobs.Channel())
	session := openSession(t, jobs)
	buckets, err := session.Buckets(t.Context(), []*store.Queue{apples})
	check(t, err)
	_, err = session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true})
	check(t, err)
	_, err = session.Claim(t.Context(), store.ClaimRequest{Unpark: buckets})
	check(t, err)
	n, err := ear.WaitForNotification(t.Context())
	check(t, err)
	if want := fmt.Sprint("bucket ", buckets[0]); n.Payload != want {
		t.Errorf("heard %q, want %q", n.Payload, want)
	}
	other := openSession(t, jobs)
	if c, err := other.Claim(t.Context(), store.ClaimRequest{Queue: apples, Park: true}); err != nil || c.Parking != store.Parked {
		t.Errorf("another session got %q, %v, want the post", c.Parking, err)
	}
}

func TestATransactionThatPutsIntoManyQueuesHoldsFewLocks(t *testing.T) {
	pool, _ := open(t)
	tx := begin(t, pool)
	exec(t, tx, `insert into queue (q_name, data) select 'q' || i, '1' from generate_series(1, 10000) i`)
	if n := one[int](t, pool, `select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'`); n == 0 || n > 64 {
		t.Errorf("got %d locks for 10000 queues, want 1 to 64", n)
	}
	check(t, tx.Rollback(t.Context()))
}

func TestAWatchSeesTheNeighboursDeath(t *testing.T) {
	pool, jobs := open(t)
	first := openSession(t, jobs)
	watch, err := jobs.OpenWatch(t.Context())
	check(t, err)
	t.Cleanup(func() { watch.Close(t.Context()) })
	if _, err := watch.Next(t.Context(), first.ID(), func() {}); err != store.ErrAlone {
		t.Fatalf("got %v, want %v", err, store.ErrAlone)
	}
	second, err := jobs.OpenSession(t.Context())
	check(t, err)
	dead := make(chan int32, 1)
	go func() {
		id, err := watch.Next(t.Context(), first.ID(), func() {})
		if err != nil {
			t.Error(err)
		}
		dead <- id
	}()
	eventually(t, pool, `select exists (select from pg_locks where locktype = 'advisory' and not granted)`)
	second.Close(t.Context())
	if id := <-dead; id != second.ID() {
		t.Errorf("saw the death of %d, want %d", id, second.ID())
	}
}
