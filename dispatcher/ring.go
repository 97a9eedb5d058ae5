package dispatcher

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// ring watches the next dispatcher in the ring of those that live, so that a death is noticed when it
// happens. It has a connection of its own while there is another dispatcher, and none while alone.
type ring struct {
	d     *Dispatcher
	hints *hints
	self  atomic.Int32  // this dispatcher's id; 0 while its lock session is broken
	poke  chan struct{} // of capacity 1: who lives may have changed
}

func newRing(d *Dispatcher, h *hints) *ring {
	return &ring{d: d, hints: h, poke: make(chan struct{}, 1)}
}

// changed makes the ring look anew at who lives.
func (r *ring) changed() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// run returns when ctx ends.
func (r *ring) run(ctx context.Context) {
	delays := retry.Reconnect()
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		select {
		case <-r.poke:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		switch err := r.watch(ctx); {
		case errors.Is(err, store.ErrAlone):
			// Whoever there was may have died before the watch began, and parked.
			r.hints.lookAtAll()
			fallthrough
		case err == nil:
			delays.Reset()
			timer.Reset(never)
		default:
			timer.Reset(delays.NextBackOff()) // the sweep stands in meanwhile
		}
	}
}

// watch stays at the neighbour's side until it is alone, something changes, or ctx ends.
func (r *ring) watch(ctx context.Context) error {
	self := r.self.Load()
	if self == 0 {
		return nil
	}
	w, err := r.d.jobs.OpenWatch(ctx)
	if err != nil {
		return err
	}
	defer w.Close(ctx)
	for {
		dead, err := r.next(ctx, w, self)
		if err != nil || dead == 0 {
			return err
		}
		if err := r.d.bury(ctx, dead, patience); err != nil {
			return err
		}
		// Some slept because the dead one was parked. All must look, and take its post.
		if err := r.d.jobs.WakeAll(ctx); err != nil {
			return err
		}
	}
}

// next is the dead neighbour's id, or 0 if something has changed.
func (r *ring) next(ctx context.Context, w *store.Watch, self int32) (dead int32, err error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		dead, err = w.Next(waiting, self, r.hints.lookAtAll)
	}()
	select {
	case <-done:
		return dead, err
	case <-r.poke:
		cancel()
		<-done
		r.changed() // for run to begin anew, on another connection
		return 0, nil
	}
}

// patience is how long a death is waited for, whose first lock has come free, until all of them have: the
// server takes them back one after another, and may be held up.
const patience = time.Second

// bury counts the attempts of the jobs that a dead dispatcher was running. It uses the pool, not the
// lock session, on which the locks of our own jobs would be granted again.
func (d *Dispatcher) bury(ctx context.Context, dead int32, patience time.Duration) error {
	timer := time.NewTimer(never)
	defer timer.Stop()
	told := false
	for wait := time.Millisecond; ; wait *= 2 {
		buried, left, err := d.jobs.Bury(ctx, dead, int(d.maxAttempts.Load()))
		if err != nil {
			return err
		}
		if buried && !told {
			told = true
			d.log.Info("another dispatcher has ended; the jobs that it had in hand are free", "dispatcher", dead)
		}
		if buried && left == 0 || wait > patience {
			return nil
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
