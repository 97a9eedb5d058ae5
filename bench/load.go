// Load that arrives when it does, however slow the queue is: an open loop.

package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// load is calls at a steady rate. A call whose time comes while all callers are busy starts late,
// and is told when it should have started: latency counted from then on leaves nothing out.
type load struct {
	Rate     float64 // calls a second
	Duration time.Duration
	Callers  int // calls at a time, at most
}

// calls is how many there will be.
func (l load) calls() int { return int(l.Rate * l.Duration.Seconds()) }

// due is when a call should start, after the first one. Not a sum of intervals, whose error would add up.
func (l load) due(call int) time.Duration {
	return time.Duration(float64(call) * float64(time.Second) / l.Rate)
}

// run makes the calls and returns when all have ended, or at the first error, or when ctx ends. late
// holds how much later than due calls started.
func (l load) run(ctx context.Context, call func(ctx context.Context, n int, due time.Time) error) (late *histogram, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late = newHistogram()
	var mu sync.Mutex // of late
	var next atomic.Int64
	var callers sync.WaitGroup
	start := time.Now()
	for range l.Callers {
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
				case <-ctx.Done():
					return
				}
				mu.Lock()
				late.record(time.Since(due))
				mu.Unlock()
				if err := call(ctx, n, due); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	callers.Wait()
	return late, context.Cause(ctx)
}
