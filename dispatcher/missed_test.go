package dispatcher_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// deafen ends the listener's connection, and keeps it from another one until it is let go.
type deafen struct {
	pool *pgxpool.Pool
	shut atomic.Bool
}

// store is one whose dispatcher can be made deaf.
func (d *deafen) store() *store.Store {
	return store.New(d.pool, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		if d.shut.Load() {
			return nil, errors.New("kept from it by the test")
		}
		return pgx.ConnectConfig(ctx, d.pool.Config().ConnConfig.Copy())
	}})
}

// while does something that the dispatcher cannot hear of.
func (d *deafen) while(t *testing.T, dispatcher *dispatcher.Dispatcher, f func()) {
	t.Helper()
	listens := func() bool {
		state, err := dispatcher.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return state.Listening
	}
	d.shut.Store(true)
	if n := terminate(t, d.pool, "listen %"); n != 1 {
		t.Fatalf("ended %d listeners, want 1", n)
	}
	eventually(t, "it does not listen", func() bool { return !listens() })
	f()
	d.shut.Store(false)
	eventually(t, "it listens again", listens)
}

func TestACancelThatWasNotHeardIsFoundWhenTheListenerIsBack(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	deaf := deafen{pool: pool}
	jobs := deaf.store()
	apples := jobs.Queue("apples")
	g := newGated()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", g)
	startListening(t, d)
	ids, err := store.PutMany(t.Context(), apples, slices.Values([]int{1, 2}))
	if err != nil {
		t.Fatal(err)
	}
	victim, other := ids[0], ids[1]
	receive(t, g.entered, "a job")
	receive(t, g.entered, "another")
	deaf.while(t, d, func() {
		if got := operate(t, jobs, store.Cancel(), victim); got != "asked" {
			t.Errorf("got %q, want it to be asked for", got)
		}
	})
	if err := receive(t, g.causes, "the end of its context"); err != dispatcher.ErrCancelled {
		t.Errorf("its context ended by %v, want %v", err, dispatcher.ErrCancelled)
	}
	setAside := func() bool { r, exists := rowOf(t, pool, victim); return exists && r.SetAside }
	eventually(t, "it is set aside", setAside)

	// The batch of both stands in the ledger, for the other: no reason to cancel a later run.
	eventually(t, "its lock is released and it is retried", func() bool { return operate(t, jobs, store.Retry(false), victim) == "retried" })
	if job := receive(t, g.entered, "its next run"); job.ID != victim {
		t.Errorf("got job %d, want %d", job.ID, victim)
	}
	deaf.while(t, d, func() {
		if got := operate(t, jobs, store.Cancel(), other); got != "asked" {
			t.Errorf("got %q, want it to be asked for", got)
		}
	})
	receive(t, g.causes, "the end of the other's context")
	g.proceed <- struct{}{}
	eventually(t, "the later run is done", func() bool { _, exists := rowOf(t, pool, victim); return !exists })
	if len(g.causes) > 0 {
		t.Errorf("the later run's context ended by %v", <-g.causes)
	}
}
