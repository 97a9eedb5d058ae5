// Jobs that are put at a rate: how soon each starts. And how fast they can be put.

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/load"
)

// bearable is a load at a low rate, lower still for a contender that is slower, for as long as that takes: what is asked
// is how soon it starts a job that it has the time to start.
func (r *runner) bearable(c *contender, rate float64, duration time.Duration) load.Load {
	const least = 4 // jobs
	if drained, ok := r.rates[rateOf{c.ID, 1}]; ok && 0.8*drained < rate {
		rate = 0.8 * drained
		duration = min(max(duration, time.Duration(least/rate*float64(time.Second))), r.scale.longest)
	}
	return at(rate, duration)
}

// load puts single jobs at a rate, whatever becomes of them, and measures from when each should have been put.
func (r *runner) load(ctx context.Context, c *contender, l load.Load) (o outcome, err error) {
	o.figures = map[string]float64{}
	warmup := max(1, l.Calls()/10) // statements are prepared in it
	run, put := 0, 0
	var elapsed time.Duration
	var late bool
	var workers *fleet
	var before, after usage
	var own histogram // of the puts themselves: a server that stalls shows in them
	var mu sync.Mutex // of own
	err = r.try(ctx, c, settings{Measure: measureStamp}, func(ctx context.Context, t *trial) error {
		workers = t.workers
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		if before, err = t.db.usage(ctx); err != nil {
			return err
		}
		start := time.Now()
		late, err = within(ctx, 2*l.Duration+t.scale.patience, func(ctx context.Context) (err error) {
			put, err = l.Run(ctx, func(ctx context.Context, n int, due time.Time) error {
				j := job{ID: int64(n + 1)}
				if n >= warmup {
					j.Stamp = due.UnixNano()
				}
				began := time.Now()
				err := t.put(ctx, j, time.Time{})
				mu.Lock()
				defer mu.Unlock()
				own.record(time.Since(began))
				return err
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		elapsed, run = time.Since(start), t.workers.Done()
		ended, err := within(ctx, l.Duration+t.scale.patience, func(ctx context.Context) error { return t.workers.awaitDone(ctx, put) })
		if err != nil {
			return err
		}
		total := t.workers.Done()
		if late || ended {
			o.note = fmt.Sprintf("%d of %d jobs put, %d run when it was ended", put, l.Calls(), total)
		}
		if !ended {
			if _, err := within(ctx, time.Second+t.scale.patience, t.finished); err != nil { // so that the cost is all there
				return err
			}
		}
		if after, err = t.db.usage(ctx); err != nil {
			return err
		}
		o.cost(before, after, total)
		return nil
	})
	if err != nil {
		return o, err
	}
	o.pickups(own.delays(), "", "", "put_p99_ms", "put_p999_ms")
	delays, _ := workers.delays()
	o.pickups(delays, "pickup_p50_ms", "pickup_p95_ms", "pickup_p99_ms", "pickup_p999_ms")
	o.figure("jobs_per_second", achieved(l, run, elapsed, o.figures["pickup_p50_ms"]))
	return o, nil
}

// schedule puts jobs that become due one after another, all of them beforehand. Each is stamped with when it is due, so
// that none measures from the time as its library reads it, which may be in whole ms.
func (r *runner) schedule(ctx context.Context, c *contender, due load.Load) (o outcome, err error) {
	o.figures = map[string]float64{}
	var workers *fleet
	run := 0
	err = r.try(ctx, c, settings{Measure: measureStamp}, func(ctx context.Context, t *trial) error {
		workers = t.workers
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		first := time.Now().Add(r.scale.lead).Truncate(time.Millisecond) // what all of them can tell
		now := at(float64(due.Calls())*1000, time.Millisecond)
		_, err := now.Run(ctx, func(ctx context.Context, n int, _ time.Time) error {
			at := first.Add(due.Due(n))
			return t.put(ctx, job{ID: int64(n + 1), Stamp: at.UnixNano()}, at)
		})
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		if !time.Now().Before(first) {
			return fmt.Errorf("the first job was due before all were put, in %v", r.scale.lead)
		}
		bound := time.Until(first) + due.Duration + r.scale.late
		ended, err := within(ctx, bound, func(ctx context.Context) error { return t.workers.awaitDone(ctx, due.Calls()) })
		run = t.workers.Done()
		if ended {
			o.note = fmt.Sprintf("%d of %d jobs run when it was ended, %v after the last was due", run, due.Calls(), r.scale.late)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	delays, early := workers.delays()
	o.pickups(delays, "lateness_p50_ms", "", "lateness_p99_ms", "")
	o.figure("early", float64(early))
	return o, nil
}

// enqueue puts single jobs from all connections as fast as they can, beside a worker.
func (r *runner) enqueue(ctx context.Context, c *contender) (o outcome, err error) {
	o.figures = map[string]float64{}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		warmed, err := t.putFor(ctx, r.scale.enqueue/4) // statements are prepared in it
		if err != nil {
			return err
		}
		before, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		n, err := t.putFor(ctx, r.scale.enqueue)
		if err != nil {
			return err
		}
		elapsed := time.Since(start)
		after, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		o.figure("puts_per_second", float64(n)/elapsed.Seconds())
		o.figure("backlog_jobs", float64(max(0, warmed+n-t.workers.Done())))
		o.cost(before, after, n)
		return nil
	})
	return o, err
}

// putFor puts from all connections at once until the time is over.
func (t *trial) putFor(ctx context.Context, d time.Duration) (put int, err error) {
	put, err = load.Flood(putters, d, func(n int64) error { return t.put(ctx, job{ID: n}, time.Time{}) })
	if err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	return put, nil
}
