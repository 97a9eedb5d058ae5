// fairness: how evenly processes share jobs, and whether an urgent one goes first.

package bench

import (
	"context"
	"slices"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	fairProcesses = 2
	fairSlots     = 10 // of each
	fairWork      = 100 * time.Millisecond
	fairJobs      = 400 // so that all slots are busy for 2 s at best

	urgentTrials = 10
)

// fairness compares the time that slow jobs take with the best possible one, which is reached only if
// no process hoards what another one could run. Then it puts urgent jobs into a long queue.
func fairness(ctx context.Context, h *harness) error {
	h.atMost("makespan_ratio", 1.1)
	h.atMost("urgent_overtaken_max", fairProcesses)                    // what each was claiming just then
	h.atMost("buffered_urgent_overtaken_max", fairProcesses*fairSlots) // a slot cannot look before it is free
	if err := h.makespan(ctx); err != nil {
		return err
	}
	if err := h.urgent(ctx, "urgent_", fairWork, fairProcesses*fairSlots); err != nil {
		return err
	}
	// Jobs so short that processes hold some in reserve.
	return h.urgent(ctx, "buffered_urgent_", time.Millisecond, h.scale.Jobs/urgentTrials/2)
}

func (h *harness) makespan(ctx context.Context) error {
	h.show.step("round %d: %d slow jobs", h.round+1, fairJobs)
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	var all *fleet
	var start time.Time
	err := h.with(ctx, fairProcesses, settings{Concurrency: fairSlots, Work: fairWork}, func(f *fleet) error {
		all = f
		start = time.Now()
		if _, err := store.PutMany(ctx, h.queue, slices.Values(make([]int, fairJobs))); err != nil {
			return err
		}
		return f.awaitDone(ctx, h, "slow jobs", fairJobs)
	})
	if err != nil {
		return err
	}
	ideal := fairWork * fairJobs / (fairProcesses * fairSlots)
	_, end, _ := all.Span()
	h.floor("makespan_ms", milliseconds(ideal))
	h.figure("makespan_ms", milliseconds(end.Sub(start)))
	h.figure("makespan_ratio", end.Sub(start).Seconds()/ideal.Seconds())
	least, most := fairJobs, 0
	all.Look(func(members members) {
		for _, m := range members {
			least, most = min(least, m.Latest.Done), max(most, m.Latest.Done)
		}
	})
	h.figure("jobs_of_one_process_min", float64(least))
	h.figure("jobs_of_one_process_max", float64(most))
	return nil
}

// urgent puts one urgent job after another into a queue of many, each after some more ordinary ones
// have been run, and counts those that start between its put and its start.
func (h *harness) urgent(ctx context.Context, prefix string, work time.Duration, between int) error {
	h.show.step("round %d: an urgent one of many", h.round+1)
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	var trials []trial
	var all *fleet
	s := settings{Concurrency: fairSlots, Work: work, Starts: true}
	err := h.with(ctx, fairProcesses, s, func(f *fleet) error {
		all = f
		if err := h.fill(ctx, h.scale.Jobs); err != nil {
			return err
		}
		for i := range urgentTrials {
			if err := f.awaitDone(ctx, h, "urgent jobs", (i+1)*between); err != nil {
				return err
			}
			t := trial{called: time.Now()}
			id, err := h.queue.Put(ctx, 0, store.ExpectedAt(-time.Hour))
			if err != nil {
				return err
			}
			t.put, t.id = time.Now(), id
			trials = append(trials, t)
			if err := f.await(ctx, func(members members) bool {
				return slices.ContainsFunc(members, func(m *member) bool { return started(m.Starts, id) != 0 })
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	delays := newHistogram()
	most := 0
	var starts []start
	all.Look(func(members members) { starts = members.Starts() })
	for _, t := range trials {
		at := started(starts, t.id)
		delays.record(time.Unix(0, at).Sub(t.called))
		most = max(most, startsBetween(starts, t.put.UnixNano(), at))
	}
	h.figure(prefix+"start_p50_ms", delays.percentile(50))
	h.figure(prefix+"start_max_ms", delays.percentile(100))
	h.figure(prefix+"overtaken_max", float64(most))
	return nil
}

// trial is an urgent job, and when its put was called and returned.
type trial struct {
	id          int64
	called, put time.Time
}

// started is when a job was, in ns since 1970; 0: not yet.
func started(starts []start, id int64) int64 {
	if i := slices.IndexFunc(starts, func(s start) bool { return s.ID == id }); i >= 0 {
		return starts[i].At
	}
	return 0
}

// startsBetween counts them.
func startsBetween(starts []start, from, to int64) (n int) {
	for _, s := range starts {
		if s.At > from && s.At < to {
			n++
		}
	}
	return n
}
