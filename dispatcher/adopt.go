// How a running dispatcher is told to work otherwise: by its process, or by an operator.

package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ErrNotRunning is matched by the errors of methods that need [Dispatcher.Run] to be under way.
var ErrNotRunning = errors.New("the dispatcher is not running")

// State is what a dispatcher is doing, for probes.
type State struct {
	Listening bool // for notifications; without, jobs wait for the next sweep
	Holding   bool // a lock session, without which nothing is claimed
	Stopping  bool
	Handlers  int // at work
}

// State asks the loop. An error means that Run is not under way or that ctx ended before the loop had
// answered: it is stuck.
func (d *Dispatcher) State(ctx context.Context) (s State, err error) {
	err = d.command(ctx, func(l *loop) {
		s = State{
			Listening: l.listener.State().Connected,
			Holding:   l.session != nil,
			Stopping:  l.stopping,
			Handlers:  l.slots.atWork(),
		}
	})
	return s, err
}

// Adopt has a running dispatcher work with the handlers and options of next, which is one over the same
// store that has not been started and is not used after. It takes effect all at once, or not at all: on an error, which
// matches [ErrConfig] if next was at fault, everything is as before. The Logger stays.
//
// Running handlers go on. Of a queue that next does not know, no more jobs are claimed, and those
// that wait are handed back.
func (d *Dispatcher) Adopt(ctx context.Context, next *Dispatcher) error {
	if next.started {
		return fmt.Errorf("dispatcher: %w: it has been started, or adopted, already: make another one with New", ErrConfig)
	}
	if err := next.configure(); err != nil {
		return err
	}
	return d.command(ctx, func(l *loop) { l.adopt(next) })
}

// command has the loop call f.
func (d *Dispatcher) command(ctx context.Context, f func(*loop)) error {
	done := make(chan struct{})
	select {
	case d.commands <- func(l *loop) { f(l); close(done) }:
	case <-d.ended:
		return fmt.Errorf("dispatcher: %w", ErrNotRunning)
	case <-ctx.Done():
		return fmt.Errorf("dispatcher: waiting for the loop: %w", context.Cause(ctx))
	}
	<-done // the loop has it in hand
	return nil
}

func (l *loop) adopt(next *Dispatcher) {
	d := l.d
	next.started = true
	more := next.options.Concurrency - d.options.Concurrency
	logger := d.options.Logger
	d.options = next.options
	d.options.Logger = logger
	d.maxAttempts.Store(next.maxAttempts.Load())
	l.horizon = max(minHorizon, 2*d.options.Sweep)
	l.sweeps.Reset(d.options.Sweep)
	for name, q := range d.queues {
		if next.queues[name] == nil {
			q.leaving, q.suspect = true, time.Time{}
			l.handBack(q, 0)
			if q.bucket != nil && q.asleep {
				q.asleep = false
				l.unpark(q.bucket)
			}
			delete(d.queues, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(next.queues)) {
		fresh := next.queues[name]
		if i := slices.IndexFunc(l.queues, func(q *queue) bool { return q.name == name }); i >= 0 {
			q, how := l.queues[i], fresh.how.Load()
			if q.how.Load().spelling != how.spelling { // what waits is to be read by the old codec, and handled by who expects the new one
				l.handBack(q, 0)
			}
			q.how.Store(how)
			l.slots.resizeLine(q, how.options.Concurrency)
			q.leaving = false
			fresh = q
		} else {
			l.queues = append(l.queues, fresh)
			l.slots.enter(fresh)
		}
		fresh.wanted = true
		d.queues[name] = fresh
	}
	l.slots.resize(more) // not before what goes back has gone
	l.hints.know(d.queues)
	l.retire()
}

// retire forgets the queues that were left and have no job in hand any more.
func (l *loop) retire() {
	l.queues = slices.DeleteFunc(l.queues, func(q *queue) bool {
		if !q.leaving || len(q.hand.claims) > 0 {
			return false
		}
		l.slots.leave(q)
		if q.bucket != nil {
			q.bucket.queues = slices.DeleteFunc(q.bucket.queues, func(other *queue) bool { return other == q })
		}
		return true
	})
}

// cancel ends the context of a job's handler, or keeps a job that waits for a slot from being started. It concerns what
// was claimed by then, and tells whether that is in hand.
func (l *loop) cancel(id int64, by time.Time) (held bool) {
	for _, q := range l.queues {
		if c := q.hand.claims[id]; c != nil && !c.claimedAt.After(by) {
			c.ctx.get().cancel(ErrCancelled)
			l.slots.skip(c)
			held = true
		}
	}
	return held
}

// obey carries out what operators have said on the channel.
func (l *loop) obey(heard *hints) {
	for _, id := range heard.cancelled {
		if !l.cancel(id, time.Now()) && l.asking {
			l.early = append(l.early, id) // the claim under way may have locked it
		}
	}
	for q := range heard.paused {
		l.handBack(q, 0)
		q.halted = true
		q.wanted = true // for the claim that finds it paused, and says until when
	}
}

func (d *Dispatcher) names() string { return strings.Join(slices.Sorted(maps.Keys(d.queues)), ", ") }
