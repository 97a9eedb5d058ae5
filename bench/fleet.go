// The dispatcher processes of a benchmark, as their parent sees them.

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
)

// stalled is how long nothing may happen while something is waited for.
const stalled = time.Minute

var errStalled = errors.New("nothing has happened for a minute")

// fleet is some dispatcher processes. Its start, kill and stop are for one goroutine.
type fleet struct {
	group   *child.Group[message]
	stops   chan struct{} // closed when listen should end
	ended   chan struct{} // closed when it has
	err     error         // of the processes' ends; read after ended
	changed chan struct{} // holds one if anything was heard since someone looked

	mu      sync.Mutex // of what follows, and of the members
	members []*member
}

// member is one of them.
type member struct {
	process *child.Process
	latest  message
	starts  []start
	killed  bool // by us
	ended   bool
}

// newFleet starts processes, n with the same settings, and returns when they run jobs.
func (h *harness) newFleet(ctx context.Context, n int, s settings) (*fleet, error) {
	f := &fleet{
		group:   child.NewGroup[message](h.options.Exec, patience),
		stops:   make(chan struct{}),
		ended:   make(chan struct{}),
		changed: make(chan struct{}, 1),
	}
	go f.listen()
	for range n {
		if err := f.start(h, s); err != nil {
			return nil, errors.Join(err, f.stop())
		}
	}
	return f.allReady(ctx)
}

// allReady waits until each process runs jobs. On an error it stops them.
func (f *fleet) allReady(ctx context.Context) (*fleet, error) {
	err := f.await(ctx, func() bool {
		return !slices.ContainsFunc(f.members, func(m *member) bool { return !m.latest.Ready })
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the dispatchers' first jobs: %w", err), f.stop())
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
	f.mu.Lock() // until the member is there: it is heard at once
	defer f.mu.Unlock()
	p, err := f.group.Start(s.Name, s)
	if err == nil {
		f.members = append(f.members, &member{process: p})
	}
	return err
}

func (f *fleet) listen() {
	defer close(f.ended)
	for {
		select {
		case e := <-f.group.Events:
			f.hear(e)
		case <-f.stops:
			f.err = f.group.Stop(f.hear)
			return
		}
	}
}

func (f *fleet) hear(e child.Event[message]) {
	f.mu.Lock()
	i := slices.IndexFunc(f.members, func(m *member) bool { return m.process == e.Process })
	m := f.members[i]
	if e.Ended {
		m.ended = true
	} else {
		m.starts = append(m.starts, e.Message.Starts...)
		m.latest = e.Message
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// await waits until a condition holds, which is asked with f.mu held. A process that ends meanwhile,
// unless we have killed it, is an error, and so it is if nothing is heard for long.
func (f *fleet) await(ctx context.Context, holds func() bool) error {
	patience := time.NewTimer(stalled)
	defer patience.Stop()
	for {
		f.mu.Lock()
		done := holds()
		i := slices.IndexFunc(f.members, func(m *member) bool { return m.ended && !m.killed })
		f.mu.Unlock()
		switch {
		case done:
			return nil
		case i >= 0:
			return f.members[i].process.Failure()
		}
		select {
		case <-f.changed:
			patience.Reset(stalled)
		case <-patience.C:
			return errStalled
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitDone waits until so many handlers have returned.
func (f *fleet) awaitDone(ctx context.Context, h *harness, what string, n int) error {
	done := 0
	err := f.await(ctx, func() bool {
		done = f.done()
		h.show.at(what, done, n)
		return done >= n
	})
	if err != nil {
		return fmt.Errorf("%s, %d of %d jobs run: %w", what, done, n, err)
	}
	return nil
}

// done is how many handlers have returned; f.mu is held, or nothing is to be heard any more.
func (f *fleet) done() (n int) {
	for _, m := range f.members {
		n += m.latest.Done
	}
	return n
}

// span is from when the first handler was entered until the latest one returned; as for done.
func (f *fleet) span() (first, last time.Time) {
	earliest, latest := int64(math.MaxInt64), int64(0)
	for _, m := range f.members {
		if m.latest.First != 0 {
			earliest = min(earliest, m.latest.First)
		}
		latest = max(latest, m.latest.Last)
	}
	return time.Unix(0, earliest), time.Unix(0, latest)
}

// rate is the handlers that have returned per second in that time; as for done.
func (f *fleet) rate() float64 {
	first, last := f.span()
	return float64(f.done()) / last.Sub(first).Seconds()
}

// delays of all processes, how many were below 0, and the memory of the largest one, in MiB. To be
// asked after stop.
func (f *fleet) delays() (all *histogram, early int, memory float64) {
	all = newHistogram()
	for _, m := range f.members {
		if m.latest.Delays != nil {
			all.add(m.latest.Delays)
		}
		early += m.latest.Early
		memory = max(memory, m.latest.Memory)
	}
	return all, early, memory
}

// kill ends a process as kill -9 does and waits until it is gone.
func (f *fleet) kill(ctx context.Context, m *member) error {
	f.mu.Lock()
	m.killed = true
	f.mu.Unlock()
	m.process.Kill()
	return f.await(ctx, func() bool { return m.ended })
}

// cpu is the processor time of all processes so far, in seconds.
func (f *fleet) cpu() (seconds float64) {
	for _, m := range f.members {
		seconds += processCPU(m.process.PID())
	}
	return seconds
}

// forgetStarts begins a new count of them.
func (f *fleet) forgetStarts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		m.starts = nil
	}
}

// release ends the holds of all processes that live.
func (f *fleet) release() {
	for _, m := range f.members {
		if !m.killed {
			_ = m.process.Tell("release") // one that has ended is found by await
		}
	}
}

// stop ends all processes. Its error is of those that did not end well, or before their time. It is
// called once.
func (f *fleet) stop() error {
	var errs []error
	f.mu.Lock()
	for _, m := range f.members {
		if m.ended && !m.killed {
			errs = append(errs, m.process.Failure())
		}
	}
	f.mu.Unlock()
	close(f.stops)
	<-f.ended
	return errors.Join(append(errs, f.err)...)
}

// with runs a part of a benchmark beside some dispatchers, and stops them.
func (h *harness) with(ctx context.Context, n int, s settings, do func(f *fleet) error) error {
	f, err := h.newFleet(ctx, n, s)
	if err != nil {
		return err
	}
	if err = do(f); err != nil {
		return errors.Join(err, f.stop())
	}
	return f.stop()
}
