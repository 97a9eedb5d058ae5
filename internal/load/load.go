// Package load makes calls: at a rate, however slow what is called, or as fast as that allows.
package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Load is calls at a steady rate. A call whose time comes while all callers are busy starts late, and is told when it should
// have started: latency counted from then on leaves nothing out.
type Load struct {
	Rate     float64 // calls a second
	Duration time.Duration
	Callers  int // calls at a time, at most
}

// Calls is how many there will be.
func (l Load) Calls() int { return int(l.Rate * l.Duration.Seconds()) }

// Due is when a call should start, after the first one. Not a sum of intervals, whose error would add up.
func (l Load) Due(call int) time.Duration {
	return time.Duration(float64(call) * float64(time.Second) / l.Rate)
}

// Run makes the calls, numbered from 0, and returns how many have succeeded when all have ended; or at the first error, or
// when ctx ends, with its cause.
func (l Load) Run(ctx context.Context, call func(ctx context.Context, n int, due time.Time) error) (made int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var callers sync.WaitGroup
	start := time.Now()
	for range l.Callers {
		callers.Go(func() {
			timer := time.NewTimer(0)
			defer timer.Stop()
			for {
				n := int(next.Add(1)) - 1
				if n >= l.Calls() {
					return
				}
				due := start.Add(l.Due(n))
				timer.Reset(time.Until(due))
				select {
				case <-timer.C:
				case <-ctx.Done():
					return
				}
				if err := call(ctx, n, due); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	callers.Wait()
	return int(done.Load()), context.Cause(ctx)
}

// Flood makes calls for a time, numbered from 1, each caller one after another until it has an error. It returns how many have
// succeeded when all have ended, and the errors.
func Flood(callers int, d time.Duration, call func(n int64) error) (made int, err error) {
	var next, done atomic.Int64
	errs := make([]error, callers)
	var all sync.WaitGroup
	start := time.Now()
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil && time.Since(start) < d {
				if errs[i] = call(next.Add(1)); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(done.Load()), errors.Join(errs...)
}
