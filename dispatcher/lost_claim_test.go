package dispatcher_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// A run fails, the database does not take that for a while, and meanwhile its lock session breaks: a peer runs the
// same attempt. If the failure were written then, the peer's completion would be refused, and the job run once more.
func TestAFailureWhoseClaimIsLostDoesNotTakeThePeersAttempt(t *testing.T) {
	url := migrated.Database(t)
	pool := poolAt(t, url)
	jobs := store.New(pool, store.Options{})
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	if _, err := pool.Exec(t.Context(), `
		create function refuse() returns trigger language plpgsql as $$ begin raise exception 'the disk is full'; end $$;
		create trigger refuse before update on queue for each row execute function refuse()`); err != nil {
		t.Fatal(err)
	}
	failing, entered, proceed := make(chan bool, 10), make(chan int, 10), make(chan bool)
	first := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: 100 * time.Millisecond}))
	again := dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		entered <- job.Attempt
		<-proceed
		return nil
	})
	var ran atomic.Bool
	first.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		if ran.Swap(true) {
			return again(ctx, job)
		}
		failing <- true
		return retry.After(100*time.Millisecond, errSour)
	}))
	first.Handle("pears", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error { return nil }))
	start(t, first)
	put(t, apples, "Cox")
	receive(t, failing, "the first run")

	peer := dispatcher.New(storeAt(t, url), quiet(dispatcher.Options{Sweep: 100 * time.Millisecond}))
	peer.Handle("apples", again)
	start(t, peer)
	eventually(t, "both have lit their beacons", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `
			select count(*)
			from pg_locks
			where locktype = 'advisory' and classid = $1 and objsubid = 2 and granted
			  and database = (select oid from pg_database where datname = current_database())`, beaconClass).Scan(&n)
		return err == nil && n == 2
	})
	var ended int
	if err := pool.QueryRow(t.Context(), `
		select count(pg_terminate_backend(k.pid))
		from pg_locks k, pq_dispatch.ledger l
		where k.locktype = 'advisory' and k.classid = $1 and k.objsubid = 2 and k.objid::bigint = l.dispatcher
		  and k.database = (select oid from pg_database where datname = current_database())`, beaconClass).Scan(&ended); err != nil || ended != 1 {
		t.Fatalf("ended %d lock sessions and got %v, want 1", ended, err)
	}
	attempt := receive(t, entered, "the next run, by the peer or by itself")
	if _, err := pool.Exec(t.Context(), `drop trigger refuse on queue`); err != nil {
		t.Fatal(err)
	}
	put(t, pears, "Conference") // whose outcome is written after that of the apple
	eventually(t, "the first has written its outcomes", func() bool {
		n, err := pears.Len(t.Context())
		return err == nil && n == 0
	})
	close(proceed)
	eventually(t, "the apple is done", func() bool {
		var left bool // be it due or not
		err := pool.QueryRow(t.Context(), `select exists (select from queue where q_name = 'apples' and dequeued_at is null)`).Scan(&left)
		return err == nil && !left
	})
	if more := len(entered) + len(failing); more > 0 {
		t.Errorf("the job ran %d times more after its attempt %d had done it", more, attempt)
	}
}
