// The worker processes of one run, as their parent sees them.

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
)

const (
	// starting bounds how long a worker takes until it runs jobs, goodbye how long it takes to stop: then it is killed.
	starting = 20 * time.Second
	goodbye  = 8 * time.Second
)

// fleet is some worker processes of one contender. Its start, kill and stop are for one goroutine.
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
	ready   bool
	killed  bool // by us
	ended   bool
}

func newFleet(exec []string) *fleet {
	f := &fleet{
		group:   child.NewGroup[message](exec, goodbye),
		stops:   make(chan struct{}),
		ended:   make(chan struct{}),
		changed: make(chan struct{}, 1),
	}
	go f.listen()
	return f
}

// start starts n more processes, and returns when they run jobs.
func (f *fleet) start(ctx context.Context, n int, s settings) error {
	for range n {
		f.mu.Lock() // until the member is there: it is heard at once
		s.Name = fmt.Sprintf("w%d", len(f.members))
		p, err := f.group.Start(s.Name, s)
		if err == nil {
			f.members = append(f.members, &member{process: p})
		}
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, starting, fmt.Errorf("a worker did not start within %v", starting))
	defer cancel()
	return f.await(ctx, func() bool {
		return !slices.ContainsFunc(f.members, func(m *member) bool { return !m.ready && !m.killed })
	})
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
		m.ready = m.ready || e.Message.Ready
		m.starts = append(m.starts, e.Message.Starts...)
		m.latest = e.Message
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// await waits until a condition holds, which is asked with f.mu held, or ctx ends. A process that ends meanwhile, unless
// we have killed it, is an error.
func (f *fleet) await(ctx context.Context, holds func() bool) error {
	for {
		f.mu.Lock()
		done := holds()
		i := slices.IndexFunc(f.members, func(m *member) bool { return m.ended && !m.killed })
		f.mu.Unlock()
		switch {
		case i >= 0:
			return f.members[i].process.Failure()
		case done:
			return nil
		}
		select {
		case <-f.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitDone waits until so many handlers have returned.
func (f *fleet) awaitDone(ctx context.Context, n int) error {
	return f.await(ctx, func() bool { return f.doneLocked() >= n })
}

// done is how many handlers have returned.
func (f *fleet) done() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doneLocked()
}

func (f *fleet) doneLocked() (n int) {
	for _, m := range f.members {
		n += m.latest.Done
	}
	return n
}

// span is from when the first handler was entered until the latest one returned; ok is false if there was none.
func (f *fleet) span() (first, last time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	earliest, latest := int64(math.MaxInt64), int64(0)
	for _, m := range f.members {
		if m.latest.First != 0 {
			earliest = min(earliest, m.latest.First)
		}
		latest = max(latest, m.latest.Last)
	}
	return time.Unix(0, earliest), time.Unix(0, latest), latest != 0
}

// starts are those of all processes, or of one.
func (f *fleet) starts(of ...*member) (all []start) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if len(of) == 0 || slices.Contains(of, m) {
			all = append(all, m.starts...)
		}
	}
	return all
}

// delays of all processes, and how many were below 0. To be asked after stop.
func (f *fleet) delays() (all delays, early int) {
	for _, m := range f.members {
		all = append(all, m.latest.Delays...)
		early += m.latest.Early
	}
	return all, early
}

// kill ends a process as kill -9 does and waits until it is gone.
func (f *fleet) kill(ctx context.Context, m *member) error {
	f.mu.Lock()
	m.killed = true
	f.mu.Unlock()
	m.process.Kill()
	return f.await(ctx, func() bool { return m.ended })
}

// stop ends all processes, at the latest by killing them. Its error is of those that did not end well. It is called once.
func (f *fleet) stop() error {
	close(f.stops)
	<-f.ended
	var errs []error
	for _, m := range f.members {
		if m.ended && !m.killed && m.process.Err() != nil {
			errs = append(errs, m.process.Failure())
		}
	}
	if len(errs) == 0 && f.err != nil && !slices.ContainsFunc(f.members, func(m *member) bool { return m.killed }) {
		errs = append(errs, f.err)
	}
	return errors.Join(errs...)
}
