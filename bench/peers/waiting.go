// What takes long and little: the jobs of a killed process, and a worker with nothing to do.

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// recovery kills a process that runs jobs, while another one lives, and waits until that one runs them. alone is
// held as long as the machine should be ours: from the start until a moment after the kill.
func (r *runner) recovery(ctx context.Context, c *contender, alone *sync.Mutex) (o outcome, err error) {
	o.figures = map[string]float64{}
	alone.Lock()
	release := sync.OnceFunc(alone.Unlock)
	defer release()
	if err := ctx.Err(); err != nil {
		return o, err
	}
	err = r.try(ctx, c, settings{Starts: true}, func(ctx context.Context, t *trial) error {
		holding := t.settings
		holding.Hold = true
		if err := t.workers.start(ctx, 1, holding); err != nil {
			return err
		}
		for id := range int64(heldJobs) {
			if err := t.put(ctx, job{ID: id + 1}, time.Time{}); err != nil {
				return fmt.Errorf("put: %w", err)
			}
		}
		victim := t.workers.member(0)
		started := func(n int) func(context.Context) error {
			return func(ctx context.Context) error {
				return t.workers.Await(ctx, 0, func(members) bool { return len(victim.Starts) >= n })
			}
		}
		late, err := within(ctx, pickUp+t.scale.patience, started(1))
		if err != nil {
			return err
		}
		if late {
			return fmt.Errorf("no job was run within %v", pickUp)
		}
		if _, err := within(ctx, time.Second, started(heldJobs)); err != nil { // or as many as it runs at once
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		var held []run
		t.workers.Look(func(members) { held = slices.Clone(victim.Starts) })
		at := time.Now()
		if err := t.workers.Kill(ctx, victim); err != nil {
			return err
		}
		var again []float64 // ms
		rerun := func(ctx context.Context) error {
			return t.workers.Await(ctx, 0, func(all members) bool {
				again = reruns(held, all[1].Starts, at)
				return len(again) == len(held)
			})
		}
		ended, err := within(ctx, t.scale.moment, rerun)
		release()
		if err == nil && ended {
			_, err = within(ctx, t.scale.recovery-time.Since(at), rerun)
		}
		if err != nil {
			return err
		}
		o.figure("held_jobs", float64(len(held)))
		if 2*len(again) < len(held) {
			o.figure("rerun_more_than_ms", float64(t.scale.recovery.Milliseconds()))
		} else {
			o.figure("rerun_p50_ms", again[(len(again)-1)/2])
		}
		if len(again) < len(held) {
			o.note = fmt.Sprintf("%d of %d jobs were run again within %v", len(again), len(held), t.scale.recovery)
		}
		return nil
	})
	return o, err
}

// reruns is how long after the kill each held job was run again, sorted, in ms; only its first run counts.
func reruns(held, starts []run, kill time.Time) (ms []float64) {
	seen := map[int64]bool{}
	for _, s := range starts {
		isHeld := slices.ContainsFunc(held, func(h run) bool { return h.ID == s.ID })
		if isHeld && !seen[s.ID] && s.At >= kill.UnixNano() {
			seen[s.ID] = true
			ms = append(ms, float64(s.At-kill.UnixNano())/float64(time.Millisecond))
		}
	}
	slices.Sort(ms)
	return ms
}

// idle counts the queries of a worker that has nothing to do.
func (r *runner) idle(ctx context.Context, c *contender) (o outcome, err error) {
	o.figures = map[string]float64{}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		pass := func(d time.Duration) error {
			_, err := within(ctx, d, func(ctx context.Context) error { return t.workers.awaitDone(ctx, 1) })
			return err
		}
		if err := pass(t.scale.rest); err != nil {
			return err
		}
		before, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := pass(t.scale.idle); err != nil {
			return err
		}
		elapsed := time.Since(start)
		after, err := t.db.usage(ctx)
		o.figure("queries_per_minute", (after.queries-before.queries)/elapsed.Minutes())
		return err
	})
	return o, err
}
