// The dispatcher processes of a benchmark, as their parent sees them.

package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/proc"
	"github.com/pq-dispatch/pq-dispatch/internal/workers"
)

// stalled is how long nothing may happen while something is waited for.
const stalled = time.Minute

type (
	members = workers.Members[message]
	member  = workers.Member[message]
	start   = workers.Run
)

// fleet is some dispatcher processes.
type fleet struct{ *workers.Fleet[message] }

// newFleet starts processes, n with the same settings, and returns when they run jobs.
func (h *harness) newFleet(ctx context.Context, n int, s settings) (*fleet, error) {
	f := &fleet{workers.New[message](h.options.Exec, patience)}
	for range n {
		if err := f.start(h, s); err != nil {
			return nil, errors.Join(err, f.Stop())
		}
	}
	return f.allReady(ctx)
}

// allReady waits until each process runs jobs. On an error it stops them.
func (f *fleet) allReady(ctx context.Context) (*fleet, error) {
	if err := f.AllReady(ctx, stalled); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the dispatchers' first jobs: %w", err), f.Stop())
	}
	return f, nil
}

// start starts one more process.
func (f *fleet) start(h *harness, s settings) error {
	s.DatabaseURL, s.Schema = h.url, h.schema
	// Unlike any other process of the benchmark: one that is busy must not claim another one's first job.
	h.started++
	s.Name = fmt.Sprintf("dispatcher %d", h.started)
	if s.Queues == nil {
		s.Queues = []string{queueName}
	}
	if h.options.Profile != "" {
		s.Profile = filepath.Join(h.options.Profile, fmt.Sprintf("%s-%d.pprof", h.report.Bench, h.started))
	}
	return f.Start(s.Name, s)
}

// await waits until a condition holds, but not for ever.
func (f *fleet) await(ctx context.Context, holds func(members) bool) error {
	return f.Await(ctx, stalled, holds)
}

// awaitDone waits until so many handlers have returned.
func (f *fleet) awaitDone(ctx context.Context, h *harness, what string, n int) error {
	done := 0
	err := f.await(ctx, func(all members) bool {
		done = all.Done()
		h.show.at(what, done, n)
		return done >= n
	})
	if err != nil {
		return fmt.Errorf("%s, %d of %d jobs run: %w", what, done, n, err)
	}
	return nil
}

// rate is the handlers that have returned per second between the first one's start and the latest one's end.
func (f *fleet) rate() (rate float64) {
	f.Look(func(all members) {
		first, last, _ := all.Span()
		rate = float64(all.Done()) / last.Sub(first).Seconds()
	})
	return rate
}

// delays of all processes, how many were below 0, and the memory of the largest one, in MiB. To be
// asked after Stop.
func (f *fleet) delays() (all *histogram, early int, memory float64) {
	all = newHistogram()
	f.Look(func(members members) {
		for _, m := range members {
			if m.Latest.Delays != nil {
				all.add(m.Latest.Delays)
			}
			early += m.Latest.Early
			memory = max(memory, m.Latest.Memory)
		}
	})
	return all, early, memory
}

// cpu is the processor time of all processes so far, in seconds.
func (f *fleet) cpu() (seconds float64) {
	f.Look(func(all members) {
		for _, m := range all {
			seconds += proc.ProcessCPU(m.Process.PID())
		}
	})
	return seconds
}

// forgetStarts begins a new count of them.
func (f *fleet) forgetStarts() {
	f.Look(func(all members) {
		for _, m := range all {
			m.Starts = nil
		}
	})
}

// release ends the holds of all processes that live.
func (f *fleet) release() {
	f.Look(func(all members) {
		for _, m := range all {
			if !m.Killed {
				_ = m.Process.Tell("release") // one that has ended is found by await
			}
		}
	})
}

// with runs a part of a benchmark beside some dispatchers, and stops them.
func (h *harness) with(ctx context.Context, n int, s settings, do func(f *fleet) error) error {
	f, err := h.newFleet(ctx, n, s)
	if err != nil {
		return err
	}
	if err = do(f); err != nil {
		return errors.Join(err, f.Stop())
	}
	return f.Stop()
}
