// A cancel that comes too late for the run, and in time for the job.

package dispatcher_test

import (
	"context"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Where the release of what has ended stands still.
const (
	beforeItLooks = `
		alter function pq_dispatch.release(bigint[]) rename to real_release;
		create function pq_dispatch.release(ids bigint[]) returns integer language plpgsql as $$
		begin
		  perform pg_advisory_xact_lock(4711);
		  return pq_dispatch.real_release(ids);
		end $$`
	beforeItUnlocks = ` -- having looked
		alter function pq_dispatch.catch_up(bigint[]) rename to real_catch_up;
		create function pq_dispatch.catch_up(ids bigint[]) returns void language plpgsql as $$
		begin
		  perform pq_dispatch.real_catch_up(ids);
		  perform pg_advisory_xact_lock(4711);
		end $$`
)

// The lock of a job that is to be retried is held still when its run is over, so that the cancel is said to be asked for.
func TestACancelThatComesBetweenTheEndOfARunAndThatOfItsClaimIsNotLost(t *testing.T) {
	t.Run("before the release looks", func(t *testing.T) { cancelLate(t, beforeItLooks) })
	t.Run("before it unlocks", func(t *testing.T) { cancelLate(t, beforeItUnlocks) })
}

func cancelLate(t *testing.T, gate string) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	entered, proceed := make(chan int64, 10), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		entered <- job.ID
		<-proceed
		return retry.After(time.Hour, errSour)
	}))
	startListening(t, d)
	id := put(t, apples, 1)
	receive(t, entered, "the job")
	goOn := standStill(t, pool, gate, func() { close(proceed) })
	if got := operate(t, jobs, store.Cancel(), id); got != "asked" {
		t.Errorf("got %q, want it asked for", got)
	}
	goOn()
	eventually(t, "it is set aside", func() bool {
		r, exists := rowOf(t, pool, id)
		return exists && r.SetAside
	})
}
