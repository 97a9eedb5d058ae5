// Package workers is worker processes of a benchmark: for their parent a [Fleet], for each of them a [Teller].
package workers

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

// Progress is how a process gets on; it is part of each of its messages. Numbers are totals.
type Progress struct {
	Ready  bool  `json:",omitempty"` // from some message on: it runs jobs
	Done   int   `json:",omitempty"` // handlers that have returned
	First  int64 `json:",omitempty"` // when the first one was entered, in ns since 1970
	Last   int64 `json:",omitempty"` // when the latest one returned
	Starts []Run `json:",omitempty"` // handlers entered since the last message, if it was told to say so
	Ends   []Run `json:",omitempty"` // likewise, handlers that have returned
}

// Run is a job whose handler was entered, or has returned.
type Run struct {
	ID int64
	At int64 // ns since 1970
}

func (p Progress) progress() Progress { return p }

// Message is what a process tells: a struct in which [Progress] is embedded.
type Message interface{ progress() Progress }

// Fleet is some worker processes. Its Start, Kill and Stop are for one goroutine.
type Fleet[M Message] struct {
	group   *child.Group[M]
	stops   chan struct{} // closed when listen should end
	ended   chan struct{} // closed when it has
	err     error         // of the processes' ends; read after ended
	changed chan struct{} // holds one if anything was heard since someone looked

	mu      sync.Mutex // of what follows, and of what is in it
	members Members[M]
}

// Members are processes, the killed ones included, in the order in which they were started.
type Members[M Message] []*Member[M]

// Member is one of them.
type Member[M Message] struct {
	Process *child.Process
	Latest  M
	Ready   bool  // it has run jobs
	Starts  []Run // all that it has told
	Ends    []Run
	Killed  bool // by us
	Ended   bool
}

// New returns a fleet without processes, to be stopped in the end. exec starts the program; a process that was told to stop
// is killed when that takes longer than patience.
func New[M Message](exec []string, patience time.Duration) *Fleet[M] {
	f := &Fleet[M]{
		group:   child.NewGroup[M](exec, patience),
		stops:   make(chan struct{}),
		ended:   make(chan struct{}),
		changed: make(chan struct{}, 1),
	}
	go f.listen()
	return f
}

// Start starts one more process, with these settings on its standard input.
func (f *Fleet[M]) Start(name string, settings any) error {
	f.mu.Lock() // until the member is there: it is heard at once
	defer f.mu.Unlock()
	p, err := f.group.Start(name, settings)
	if err == nil {
		f.members = append(f.members, &Member[M]{Process: p})
	}
	return err
}

func (f *Fleet[M]) listen() {
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

func (f *Fleet[M]) hear(e child.Event[M]) {
	f.mu.Lock()
	m := f.members[slices.IndexFunc(f.members, func(m *Member[M]) bool { return m.Process == e.Process })]
	if e.Ended {
		m.Ended = true
	} else {
		p := e.Message.progress()
		m.Ready = m.Ready || p.Ready
		m.Starts = append(m.Starts, p.Starts...)
		m.Ends = append(m.Ends, p.Ends...)
		m.Latest = e.Message
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Look looks at the members while nothing is heard. It must not call the fleet.
func (f *Fleet[M]) Look(at func(Members[M])) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at(f.members)
}

// Await waits until a condition holds, which is looked at as [Fleet.Look] does, each time that something was heard. It ends
// with the cause of ctx; with an error if a process ends meanwhile that was not killed; and, unless stalled is 0, with one if
// nothing is heard for as long as that.
func (f *Fleet[M]) Await(ctx context.Context, stalled time.Duration, holds func(Members[M]) bool) error {
	patience := time.NewTimer(stalled)
	defer patience.Stop()
	impatient := patience.C
	if stalled == 0 {
		impatient = nil
	}
	for {
		var done bool
		var lost *child.Process
		f.Look(func(all Members[M]) {
			done = holds(all)
			if i := slices.IndexFunc(all, (*Member[M]).lost); i >= 0 {
				lost = all[i].Process
			}
		})
		switch {
		case lost != nil:
			return lost.Failure()
		case done:
			return nil
		}
		select {
		case <-f.changed:
			patience.Reset(stalled)
		case <-impatient:
			return fmt.Errorf("nothing has happened for %v", stalled)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lost tells whether the process has ended before its time.
func (m *Member[M]) lost() bool { return m.Ended && !m.Killed }

// AllReady waits until each process runs jobs.
func (f *Fleet[M]) AllReady(ctx context.Context, stalled time.Duration) error {
	return f.Await(ctx, stalled, func(all Members[M]) bool {
		return !slices.ContainsFunc(all, func(m *Member[M]) bool { return !m.Ready && !m.Killed })
	})
}

// Kill ends a process as kill -9 does and waits until it is gone.
func (f *Fleet[M]) Kill(ctx context.Context, m *Member[M]) error {
	f.Look(func(Members[M]) { m.Killed = true })
	m.Process.Kill()
	return f.Await(ctx, 0, func(Members[M]) bool { return m.Ended })
}

// Stop ends all processes, at the latest by killing them. Its error is of those that did not end well, or before their
// time. It is called once.
func (f *Fleet[M]) Stop() error {
	var errs []error
	f.Look(func(all Members[M]) {
		for _, m := range all {
			if m.lost() {
				errs = append(errs, m.Process.Failure())
			}
		}
	})
	close(f.stops)
	<-f.ended
	return errors.Join(append(errs, f.err)...)
}

// Done is how many handlers have returned.
func (f *Fleet[M]) Done() (n int) {
	f.Look(func(all Members[M]) { n = all.Done() })
	return n
}

// Span is that of all members.
func (f *Fleet[M]) Span() (first, last time.Time, ok bool) {
	f.Look(func(all Members[M]) { first, last, ok = all.Span() })
	return first, last, ok
}

// Done is how many handlers have returned.
func (all Members[M]) Done() (n int) {
	for _, m := range all {
		n += m.Latest.progress().Done
	}
	return n
}

// Span is from when the first handler was entered until the latest one returned; ok is false if none has.
func (all Members[M]) Span() (first, last time.Time, ok bool) {
	earliest, latest := int64(math.MaxInt64), int64(0)
	for _, m := range all {
		p := m.Latest.progress()
		if p.First != 0 {
			earliest = min(earliest, p.First)
		}
		latest = max(latest, p.Last)
	}
	return time.Unix(0, earliest), time.Unix(0, latest), latest != 0
}

// Starts are those of all members.
func (all Members[M]) Starts() (starts []Run) {
	for _, m := range all {
		starts = append(starts, m.Starts...)
	}
	return starts
}
