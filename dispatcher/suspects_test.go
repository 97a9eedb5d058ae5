package dispatcher_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// There is always a witness in hand here until all are done, as where processes go on dying.
func TestASuspectHasItsTurnThoughThereAreAlwaysWitnesses(t *testing.T) {
	url := migrated.Database(t)
	pool, jobs := poolAt(t, url), storeAt(t, url)
	apples := jobs.Queue("apples")
	const n = 100
	suspect := put(t, apples, "suspect")
	_, err := store.PutMany(t.Context(), apples, func(yield func(string) bool) {
		for range n {
			if !yield("witness") {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `update queue set deaths = case when id = $1 then 2 else 1 end`, suspect)

	var mu sync.Mutex
	running, started, turn := map[bool]int{}, 0, 0 // by whether it is the suspect
	ended := make(chan struct{}, n+1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 2}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		mu.Lock()
		suspect := job.ID == suspect
		running[suspect]++
		started++
		if suspect {
			turn = started
		}
		if running[true] > 0 && running[false] > 0 {
			t.Error("a witness ran beside the suspect")
		}
		mu.Unlock()
		timer := time.NewTimer(50 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		mu.Lock()
		running[suspect]--
		mu.Unlock()
		ended <- struct{}{}
		return nil
	}))
	start(t, d)
	for range n + 1 {
		receive(t, ended, "the end of a job")
	}
	if turn == 1 || turn > n {
		t.Errorf("the suspect was the %d. of %d to run, want it after some witnesses, and before others", turn, n+1)
	}
}
