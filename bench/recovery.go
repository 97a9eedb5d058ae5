// recovery: how soon the jobs of a killed process run again.

package bench

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const recoveryProcesses = 3

// recovery kills the process that runs most of the jobs, and waits until they are run by others.
func recovery(ctx context.Context, h *harness) error {
	h.never("lost_jobs")
	h.atMost("first_rerun_p50_ms", 100)
	h.atMost("first_rerun_p99_ms", 500)
	first, all := newHistogram(), newHistogram()
	running, lost := 0, 0
	rounds := h.scale.Rounds // of one fleet: the others live on, as they would
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	s := settings{Concurrency: h.scale.Jobs, Starts: true, Hold: true}
	err := h.with(ctx, recoveryProcesses, s, func(f *fleet) error {
		for round := range rounds {
			h.show.step("round %d of %d", round+1, rounds)
			k, err := h.killOne(ctx, f)
			if err != nil {
				return err
			}
			first.record(k.first)
			all.record(k.all)
			running += k.running
			if lost, err = h.left(ctx); err != nil { // whatever is left ran out of attempts
				return err
			}
			if err := f.start(h, s); err != nil {
				return err
			}
			if err := f.AllReady(ctx, stalled); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.figure("kills", float64(rounds))
	h.figure("jobs_killed_per_kill", float64(running)/float64(rounds))
	h.figure("first_rerun_p50_ms", first.percentile(50))
	h.figure("first_rerun_p99_ms", first.percentile(99))
	h.figure("all_rerun_p50_ms", all.percentile(50))
	h.figure("all_rerun_max_ms", all.percentile(100))
	h.figure("lost_jobs", float64(lost))
	return nil
}

// killed is what came of a kill.
type killed struct {
	running    int           // jobs of the killed process
	first, all time.Duration // from the kill until the first of them was run again, and the last
}

// killOne puts jobs that are held, kills the process that runs most of them, and lets the others end when the
// killed one's jobs have been run again.
func (h *harness) killOne(ctx context.Context, f *fleet) (k killed, err error) {
	f.forgetStarts()
	if _, err := store.PutMany(ctx, h.queue, slices.Values(make([]int, h.scale.Jobs))); err != nil {
		return k, err
	}
	var victim *member
	err = f.await(ctx, func(members members) bool {
		started := 0
		for _, m := range members {
			started += len(m.Starts)
			if !m.Killed && (victim == nil || len(m.Starts) > len(victim.Starts)) {
				victim = m
			}
		}
		return started >= h.scale.Jobs
	})
	if err != nil {
		return k, err
	}
	at := time.Now()
	if err := f.Kill(ctx, victim); err != nil {
		return k, err
	}
	k.running = len(victim.Starts)
	err = f.await(ctx, func(members members) bool {
		var again []int64 // when they were run, in ns since 1970
		for _, m := range members {
			for _, s := range m.Starts {
				if m != victim && s.At >= at.UnixNano() && slices.ContainsFunc(victim.Starts, func(v start) bool { return v.ID == s.ID }) {
					again = append(again, s.At)
				}
			}
		}
		if len(again) < k.running {
			return false
		}
		k.first = time.Unix(0, slices.Min(again)).Sub(at)
		k.all = time.Unix(0, slices.Max(again)).Sub(at)
		return true
	})
	if err != nil {
		return k, errors.Join(err, errors.New("not all jobs of the killed process have been run again"))
	}
	f.release()
	return k, h.drained(ctx)
}
