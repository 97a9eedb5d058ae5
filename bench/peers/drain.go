// How fast jobs that do nothing are run, with a snapshot held open elsewhere and without.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// drained is how a drain went.
type drained struct {
	outcome
	jobs    int
	rate    float64
	elapsed time.Duration
}

// drain puts n jobs in one transaction beside workers that wait for them. The clock runs from the first handler entered
// until the last job's completion has been written; how soon that first one starts is another workload.
func (r *runner) drain(ctx context.Context, c *contender, processes, n int, heldXmin bool) (d drained, err error) {
	d = drained{outcome: outcome{figures: map[string]float64{}}, jobs: n}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if heldXmin {
			holder, err := t.db.snapshot(ctx)
			if err != nil {
				return err
			}
			defer holder.Close(context.WithoutCancel(ctx))
			if _, err := holder.Exec(ctx, `begin isolation level repeatable read; select 1`); err != nil {
				return err
			}
		}
		if err := t.workers.start(ctx, processes, t.settings); err != nil {
			return err
		}
		var before usage
		err := pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) (err error) {
			if err := t.fill(ctx, tx, 1, n); err != nil {
				return fmt.Errorf("fill the queue: %w", err)
			}
			if _, err := tx.Exec(ctx, `analyze `+c.table); err != nil { // as autovacuum would have done by then
				return err
			}
			before, err = t.db.usage(ctx)
			return err
		})
		if err != nil {
			return err
		}
		late, err := within(ctx, pickUp+t.scale.patience, func(ctx context.Context) error { return t.workers.awaitDone(ctx, 1) })
		if err != nil {
			return err
		}
		if late {
			return fmt.Errorf("no job was run within %v", pickUp)
		}
		bound := 2*t.scale.drain + t.scale.patience
		ended, err := within(ctx, bound, func(ctx context.Context) error {
			if err := t.workers.awaitDone(ctx, n); err != nil {
				return err
			}
			return t.finished(ctx)
		})
		if err != nil {
			return err
		}
		end := time.Now()
		left := 0
		if ended {
			if left, err = t.unfinished(ctx); err != nil {
				return err
			}
			d.note = fmt.Sprintf("ended after %v with %d of %d jobs done", bound, n-left, n)
		}
		after, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		first, _, _ := t.workers.Span()
		d.elapsed = end.Sub(first)
		d.rate = float64(n-left) / d.elapsed.Seconds()
		if done := t.workers.Done(); ended && done > 1 {
			// Of one job every 2 seconds 3 seconds see two.
			first, last, _ := t.workers.Span()
			d.rate = min(d.rate, float64(done-1)/last.Sub(first).Seconds())
		}
		d.figure("jobs_per_second", d.rate)
		d.figure("jobs", float64(n))
		if extra := t.workers.Done() - n; extra > 0 {
			d.figure("repeated_jobs", float64(extra))
		}
		d.cost(before, after, n-left)
		return nil
	})
	return d, err
}

// drainToScale chooses the number of jobs by how fast the contender was before; if it is too small, it drains again.
func (r *runner) drainToScale(ctx context.Context, c *contender, processes int) (d drained, err error) {
	for range 3 {
		n := firstDrain
		if rate, ok := r.rates[rateOf{c.ID, processes}]; ok {
			n = int(rate * r.scale.drain.Seconds())
		} else if rate, ok := r.rates[rateOf{c.ID, 1}]; ok {
			n = int(rate * r.scale.drain.Seconds())
		}
		n = min(max(n, fewestDrained), mostDrained)
		if d, err = r.drain(ctx, c, processes, n, false); err != nil {
			return d, err
		}
		r.rates[rateOf{c.ID, processes}] = d.rate
		if n == mostDrained || d.elapsed >= r.scale.drain/2 {
			break
		}
	}
	return d, nil
}

// xmin compares a drain with a snapshot held open with one of as many jobs without.
func (r *runner) xmin(ctx context.Context, c *contender, round int) (o outcome, err error) {
	plain, ok := r.plain[round][c.ID]
	if !ok {
		if plain, err = r.drainToScale(ctx, c, 1); err != nil {
			return o, err
		}
	}
	held, err := r.drain(ctx, c, 1, plain.jobs, true)
	if err != nil {
		return o, err
	}
	held.figure("ratio", held.rate/plain.rate)
	return held.outcome, nil
}
