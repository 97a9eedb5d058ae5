// backlog: whether jobs that wait slow those that run.

package bench

import (
	"context"
	"fmt"
)

const (
	usualBacklog = 100_000
	longRunning  = 2000
)

// backlog compares the rate at which a dispatcher runs jobs of a short queue with that of a long one,
// of a short one beside many that are scheduled for later, and of one whose first jobs are being run.
func backlog(ctx context.Context, h *harness) error {
	ready := min(usualBacklog, h.scale.Jobs/5)
	scheduled := h.scale.Jobs / 5
	inFlight := min(longRunning, ready/5)

	floor, err := h.claimRate(ctx, "the floor", ready, 0, 0, ready)
	if err != nil {
		return err
	}
	h.floor("jobs_per_second", floor)
	for _, c := range []struct {
		name                   string
		n                      int
		ready, later, inFlight int
	}{
		{"ready", h.scale.Jobs, h.scale.Jobs, 0, 0},
		{"scheduled", scheduled, ready, scheduled, 0},
		{"in_flight", inFlight, ready, 0, inFlight},
	} {
		h.atLeast(c.name+"_ratio", 0.9)
		rate, err := h.claimRate(ctx, c.name, c.ready, c.later, c.inFlight, ready)
		if err != nil {
			return err
		}
		h.figure(c.name+"_jobs", float64(c.n))
		h.figure(c.name+"_jobs_per_second", rate)
		h.figure(c.name+"_ratio", rate/floor)
	}
	return nil
}

// claimRate is how many jobs a second one process runs, over half of the usual backlog.
func (h *harness) claimRate(ctx context.Context, what string, ready, later, inFlight, usual int) (rate float64, err error) {
	h.show.step("round %d: %s", h.round+1, what)
	if err := h.prepare(ctx, "enable"); err != nil {
		return 0, err
	}
	var holders, all *fleet
	if inFlight > 0 {
		holders, err = h.newFleet(ctx, 1, settings{Concurrency: inFlight, Hold: true, Starts: true})
		if err != nil {
			return 0, err
		}
		defer func() {
			if stopErr := holders.Stop(); err == nil {
				err = stopErr
			}
		}()
		if err := h.putLongRunning(ctx, holders, inFlight); err != nil {
			return 0, err
		}
	}
	if err := h.fillBy(ctx, h.pool, later, `now() + interval '1 day' + i * interval '1 ms'`); err != nil {
		return 0, err
	}
	if err := h.fill(ctx, ready); err != nil {
		return 0, err
	}
	if err := h.settle(ctx); err != nil {
		return 0, err
	}
	err = h.with(ctx, 1, settings{}, func(f *fleet) error { // it begins at once
		all = f
		return f.awaitDone(ctx, h, what, usual/2)
	})
	if err != nil {
		return 0, err
	}
	return all.rate(), nil
}

// putLongRunning puts jobs that stand before all others and waits until they are run.
func (h *harness) putLongRunning(ctx context.Context, holders *fleet, n int) error {
	_, err := h.pool.Exec(ctx, `
		insert into `+h.jobs.Table()+` (q_name, data, expected_at)
		select $1, '0', now()
		from generate_series(1, $2::int)`, queueName, n)
	if err != nil {
		return fmt.Errorf("put long-running jobs: %w", err)
	}
	err = holders.await(ctx, func(all members) bool { return len(all[0].Starts) >= n })
	if err != nil {
		return fmt.Errorf("have %d jobs in flight, for which max_locks_per_transaction may be too small: %w", n, err)
	}
	return nil
}
