// Load that arrives when it does, however slow the queue is: an open loop.

package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// putters is how many connections put at once.
const putters = 16

// load is calls at a steady rate. A call whose time comes while all callers are busy starts late, and is told when it should
// have started: latency counted from then on leaves nothing out.
type load struct {
	rate     float64 // calls a second
	duration time.Duration
}

// calls is how many there are to be.
func (l load) calls() int { return int(l.rate * l.duration.Seconds()) }

// due is when a call should start, after the first one. Not a sum of intervals, whose error would add up.
func (l load) due(call int) time.Duration {
	return time.Duration(float64(call) * float64(time.Second) / l.rate)
}

// run makes the calls and returns how many, when all have ended; or at the first error, or when ctx ends.
func (l load) run(ctx context.Context, call func(ctx context.Context, n int, due time.Time) error) (made int, err error) {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var callers sync.WaitGroup
	start := time.Now()
	for range putters {
		callers.Go(func() {
			timer := time.NewTimer(0)
			defer timer.Stop()
			for {
				n := int(next.Add(1)) - 1
				if n >= l.calls() {
					return
				}
				due := start.Add(l.due(n))
				timer.Reset(time.Until(due))
				select {
				case <-timer.C:
				case <-within.Done():
					return
				}
				if err := call(within, n, due); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	callers.Wait()
	return int(done.Load()), context.Cause(within)
}

// achieved is the jobs run per second, of those run when the last call had returned, after elapsed. Of a queue that keeps up
// some are still on their way then: as many as come in while one is, which takes medianMS. That is taken off the time, up to
// a fifth of it, unless the calls themselves came too late.
func (l load) achieved(run int, elapsed time.Duration, medianMS float64) float64 {
	seconds := elapsed.Seconds()
	if seconds <= 1.05*l.duration.Seconds() {
		seconds = l.duration.Seconds() - min(medianMS/1000, l.duration.Seconds()/5)
	}
	return min(float64(run)/seconds, l.rate)
}
