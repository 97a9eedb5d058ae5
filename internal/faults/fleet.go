// The processes of a run, started, watched, and started again when they end, as a service manager would.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// tokens is how many a producer process may give.
const tokens = 1 << 32

// mostCrashes is how many processes may end unasked until the run gives up.
const mostCrashes = 20

// fleet is all processes of a stage. One goroutine owns the group of children; the rest is under mu.
type fleet struct {
	group   *child.Group[message]
	common  settings
	journal *journal.Writer // of the run
	log     *slog.Logger
	begin   chan settings // processes to be started, by name and role
	ended   chan struct{} // closed when all have ended and were waited for
	quit    chan struct{} // closed to end them all

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when anything below has changed
	members  []*member     // that run, in the order of their names
	count    map[string]int
	pids     []int // of all that were started
	producer int64 // how many have been started
	before   message
	crashes  []error
	stopping bool
	stopErr  error
}

// member is a process.
type member struct {
	fleet    *fleet
	settings settings
	process  *child.Process
	ended    chan struct{}
	latest   message // under the fleet's mu
	retired  bool    // under the fleet's mu: it is not started again
}

func newFleet(exec []string, common settings, j *journal.Writer, log *slog.Logger) *fleet {
	f := &fleet{
		group: child.NewGroup[message](exec, 30*time.Second), common: common, journal: j, log: log,
		begin: make(chan settings), ended: make(chan struct{}), quit: make(chan struct{}),
		changed: make(chan struct{}), count: map[string]int{},
	}
	go f.run()
	return f
}

// run owns the group.
func (f *fleet) run() {
	defer close(f.ended)
	for {
		select {
		case s := <-f.begin:
			f.start(s)
		case e := <-f.group.Events:
			f.hear(e)
		case <-f.quit:
			f.mu.Lock()
			f.stopping = true
			f.mu.Unlock()
			err := f.group.Stop(f.hear)
			f.mu.Lock()
			f.stopErr = err
			f.mu.Unlock()
			return
		}
	}
}

func (f *fleet) start(s settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[s.Name]++
	s.Process = fmt.Sprintf("%s.%d", s.Name, f.count[s.Name])
	if s.Role == "producer" {
		s.Token = f.producer * tokens
		f.producer++
	}
	p, err := f.group.Start(s.Process, s, roleCommand)
	if err != nil {
		f.crashes = append(f.crashes, err)
		f.tell()
		return
	}
	f.pids = append(f.pids, p.PID())
	m := &member{fleet: f, settings: s, process: p, ended: make(chan struct{})}
	f.members = append(f.members, m)
	slices.SortFunc(f.members, func(a, b *member) int { return strings.Compare(a.settings.Name, b.settings.Name) })
	f.tell()
}

func (f *fleet) hear(e child.Event[message]) {
	f.mu.Lock()
	i := slices.IndexFunc(f.members, func(m *member) bool { return m.process == e.Process })
	if i < 0 {
		f.mu.Unlock()
		return
	}
	m := f.members[i]
	if !e.Ended {
		m.latest = e.Message
		f.tell()
		f.mu.Unlock()
		return
	}
	f.journal.Write(journal.Event{Kind: journal.Ended, Text: m.settings.Process, Attempt: crashed(e.Process)})
	if crashed(e.Process) != 0 {
		f.crashes = append(f.crashes, e.Process.Failure())
		f.log.Error("a process has ended by itself", "process", m.settings.Process, "error", e.Process.Failure())
	}
	f.before.Done += m.latest.Done
	f.before.Put += m.latest.Put
	f.members = slices.Delete(f.members, i, i+1)
	close(m.ended)
	again := !f.stopping && !m.latest.Final && !m.retired && len(f.crashes) < mostCrashes
	f.tell()
	f.mu.Unlock()
	if again {
		f.start(m.settings)
	}
}

// crashed is 1 if the process has ended in a way in which no fault ends one.
func crashed(p *child.Process) int {
	if err := p.Err(); err != nil && err.Error() != "signal: killed" && err.Error() != "signal: terminated" {
		return 1
	}
	return 0
}

// tell wakes those who wait; under mu.
func (f *fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// add starts a process.
func (f *fleet) add(s settings) {
	with := f.common
	with.Role, with.Name, with.Seed, with.Pace, with.Scene = s.Role, s.Name, s.Seed, s.Pace, s.Scene
	select {
	case f.begin <- with:
	case <-f.ended:
	}
}

// stop ends all and returns when they have ended, with the errors of those that did not end well.
func (f *fleet) stop() error {
	f.mu.Lock()
	for _, m := range f.members {
		resume(m.process.PID()) // one that is stopped hears nothing
	}
	f.mu.Unlock()
	close(f.quit)
	<-f.ended
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopErr
}

// await waits until something is so, which is asked again after each change.
func (f *fleet) await(ctx context.Context, so func() bool) error {
	for {
		f.mu.Lock()
		changed, done := f.changed, so()
		crashes := f.crashes
		f.mu.Unlock()
		switch {
		case done:
			return nil
		case len(crashes) >= mostCrashes:
			return fmt.Errorf("processes end again and again: %w", errors.Join(crashes...))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// left is how many processes there are of those that were started, and of those that they have started.
func (f *fleet) left() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ours := map[int]bool{}
	for _, pid := range f.pids {
		ours[pid] = true
	}
	for _, p := range processes() { // parents come before their children
		if ours[p.pid] || ours[p.parent] {
			ours[p.pid] = true
			n++
		}
	}
	return n
}

// totals are those of all processes, also of those that have ended.
func (f *fleet) totals() message {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := f.before
	for _, m := range f.members {
		sum.Done += m.latest.Done
		sum.Put += m.latest.Put
	}
	return sum
}

func (f *fleet) running(role string) (some []scene.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.settings.Role == role {
			some = append(some, m)
		}
	}
	return some
}

// Dispatchers is for scene.Fleet.
func (f *fleet) Dispatchers() []scene.Process { return f.running("dispatcher") }

// Producers is for scene.Fleet.
func (f *fleet) Producers() []scene.Process { return f.running("producer") }

// Start is for scene.Fleet.
func (f *fleet) Start(ctx context.Context, role, name, how string) (scene.Process, error) {
	f.add(settings{Role: role, Name: name, Scene: how})
	var found *member
	err := f.await(ctx, func() bool {
		i := slices.IndexFunc(f.members, func(m *member) bool { return m.settings.Name == name && m.latest.Ready })
		if i >= 0 {
			found = f.members[i]
		}
		return i >= 0
	})
	if err != nil {
		return nil, fmt.Errorf("%s does not become ready: %w", name, err)
	}
	return found, nil
}

// Retire is for scene.Fleet.
func (f *fleet) Retire(ctx context.Context, p scene.Process) error {
	f.mu.Lock()
	for _, m := range f.members {
		m.retired = m.retired || m == p
	}
	f.mu.Unlock()
	p.Terminate()
	select {
	case <-p.Ended():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", p.Name(), context.Cause(ctx))
	}
}

// ready waits until all processes are.
func (f *fleet) ready(ctx context.Context, n int) error {
	return f.await(ctx, func() bool {
		return len(f.members) == n && !slices.ContainsFunc(f.members, func(m *member) bool { return !m.latest.Ready })
	})
}

// finish has the producers put no more, and waits for their end.
func (f *fleet) finish(ctx context.Context) error {
	for _, p := range f.Producers() {
		_ = p.Tell(order{Stop: true})
	}
	return f.await(ctx, func() bool {
		return !slices.ContainsFunc(f.members, func(m *member) bool { return m.settings.Role == "producer" })
	})
}

// A member is a scene.Process.

func (m *member) Name() string           { return m.settings.Name }
func (m *member) PID() int               { return m.process.PID() }
func (m *member) Kill()                  { m.process.Kill() }
func (m *member) Terminate()             { terminate(m.PID()) }
func (m *member) Tell(v any) error       { return m.process.Tell(v) }
func (m *member) Ended() <-chan struct{} { return m.ended }

func (m *member) Stop() {
	m.fleet.journal.Write(journal.Event{Kind: journal.Stopped, Text: m.settings.Process})
	suspend(m.PID())
}

func (m *member) Continue() {
	resume(m.PID())
	m.fleet.journal.Write(journal.Event{Kind: journal.Continued, Text: m.settings.Process})
}

func (m *member) Restarted(ctx context.Context) (scene.Process, error) {
	var next *member
	err := m.fleet.await(ctx, func() bool {
		for _, other := range m.fleet.members {
			if other.settings.Name == m.settings.Name && other != m && other.latest.Ready {
				next = other
			}
		}
		return next != nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s was not started again: %w", m.settings.Process, err)
	}
	return next, nil
}
