package dispatcher_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// A connection whose server side is gone while nobody tells the client is silent like one that has nothing to say.
func TestALockSessionThatEndedUnnoticedIsGivenUp(t *testing.T) {
	address := migrated.Database(t)
	pool := poolAt(t, address)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	between, err := proxy.New(u.Host, proxy.Options{Roles: []proxy.Role{{Name: "lock session", Says: "light"}}})
	if err != nil {
		t.Fatal(err)
	}
	through, err := between.URL(address)
	if err != nil {
		t.Fatal(err)
	}
	jobs := store.New(poolAt(t, through), store.Options{})
	t.Cleanup(func() { between.Close() }) // before the pool: pgx takes its time over connections that are half open
	entered, ended := make(chan bool, 2), make(chan error, 1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Concurrency: 1, Sweep: 100 * time.Millisecond}))
	runs := 0
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
		runs++
		entered <- true
		if runs > 1 {
			return nil
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}))
	start(t, d)
	beacon := func() (id int64) { // of the database: others share the server
		err := pool.QueryRow(t.Context(), `
			select coalesce(max(objid::bigint), 0)
			from pg_locks
			where locktype = 'advisory' and classid = $1 and objsubid = 2
			  and database = (select oid from pg_database where datname = current_database())`, beaconClass).Scan(&id)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	eventually(t, "its beacon is lit", func() bool { return beacon() != 0 })

	// With nothing in hand, the sweep tells.
	first := beacon()
	if n := between.HalfOpen(proxy.InRole("lock session")); n != 1 {
		t.Fatalf("broke %d lock sessions, want 1", n)
	}
	eventually(t, "it has a new session", func() bool { now := beacon(); return now != 0 && now != first })

	// While a handler runs, another connection is asked.
	put(t, store.New(pool, store.Options{}).Queue("apples"), 1)
	receive(t, entered, "the handler")
	between.HalfOpen(nil)
	if err := receive(t, ended, "the end of the handler's context"); !errors.Is(err, dispatcher.ErrSessionLost) {
		t.Errorf("the context ended with %v, want ErrSessionLost", err)
	}
	receive(t, entered, "the job's second run")
}
