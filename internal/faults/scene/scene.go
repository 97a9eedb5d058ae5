// Package scene is what a fault can reach: the servers, the processes of the product at work, and the proxy between
// them. It holds types only, so that each family of faults stands by itself.
package scene

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
)

// Fault is one way in which things go wrong.
type Fault struct {
	Name   string // as given to -fault; lower case, words joined by hyphens
	Family string // what it is listed and summed under: process, session, server, network ...
	About  string // a line that completes "The fault is: ..."
	Needs  Needs
	// Harmless says that nothing is broken: it only brings work, before all others. What is judged only where no fault
	// is near, is judged in it.
	Harmless bool

	// Inject does it. It returns when the fault is over and what it broke is put right, so that the product has no
	// excuse any more. An error means that the fault could not be injected, which fails the run. ctx ends when
	// the run is cancelled, and after a quarter of an hour.
	Inject func(ctx context.Context, s *Scene) error
}

// Needs says what a fault cannot do without. Faults with equal needs share servers and processes, and take turns.
type Needs struct {
	// Own asks for a stage that no other fault uses, and only once: the server is not what it was after it.
	Own     bool
	Standby Standby
	// Settings are postgresql.conf values of the server, see devpg.Options.
	Settings map[string]string
	// Missing tells what this machine lacks for the fault, in words, or nothing. Nil: it needs nothing.
	Missing func() string
	// Start starts the server in another way than devpg.Start does. Nil: that.
	Start func(ctx context.Context, o devpg.Options) (*devpg.Server, error)
	// Loses says that commits that a producer was told of may be gone after it, as Scene.Forgive tells in each case.
	Loses bool
	// Slow says that the product cannot be back at work within 5 s of the fault's end, and why. Empty: it has to.
	Slow string
	// Setup prepares the stage before the work starts; nil: nothing to prepare.
	Setup func(ctx context.Context, s *Scene) error
}

// Standby is what stands beside the server.
type Standby int

// The kinds of standby.
const (
	NoStandby    Standby = iota
	Synchronous          // every commit waits for it
	Asynchronous         // it may lag
)

// Scene is the stage as a fault finds it: the workload goes on while the fault is injected.
type Scene struct {
	Rand  *rand.Rand // of this injection, from the run's seed
	Quick bool       // the short form of what has a duration: see Long

	Server   *devpg.Server // a fault that fails over puts the new one here, and a pool for it into Admin
	Standby  *devpg.Server // nil without one
	Admin    *pgxpool.Pool // a superuser's, past the proxy; its application_name is AdminName
	Proxy    *proxy.Proxy  // through which the processes reach the server; the roles of its connections are named below
	Database string
	Schema   string // of the queue table
	Table    string

	Fleet   Fleet
	Log     *slog.Logger
	Journal *journal.Writer // of the run itself, which the judge reads too
}

// The roles of connections, by which the proxy tells those of a dispatcher apart. All others are of its pool.
const (
	LockSession = "lock-session"
	Listener    = "listener"
	Watch       = "watch" // of the neighbour in the ring of dispatchers
)

// AdminName is the application_name of the run's own connections, which the judge does not take for leaks.
const AdminName = "faults"

// Fleet is the processes at work.
type Fleet interface {
	Dispatchers() []Process // that are running, in the order of their names
	Producers() []Process
	// Start starts one more, in a role of the program, and returns when it is ready. settings are for the role.
	Start(ctx context.Context, role, name, settings string) (Process, error)
	// Retire ends one by SIGTERM, for good, and returns when it has ended.
	Retire(ctx context.Context, p Process) error
}

// Process is one of them. When it ends, however it does, it is started again at once, under the same name, as a
// service manager would: Restarted waits for that.
type Process interface {
	Name() string // also its application_name, or how that begins: "dispatcher-1"
	PID() int
	Kill()      // SIGKILL to it and those it started
	Stop()      // SIGSTOP
	Continue()  // SIGCONT
	Terminate() // SIGTERM
	// Tell sends a role a value, as JSON, which it knows how to obey.
	Tell(v any) error
	// Ended is closed when this process has ended.
	Ended() <-chan struct{}
	// Restarted returns the process that came in its place once that is ready.
	Restarted(ctx context.Context) (Process, error)
}

// Long is the duration of something: the first in a full run, the second in a quick one.
func (s *Scene) Long(full, quick time.Duration) time.Duration {
	if s.Quick {
		return quick
	}
	return full
}

// Wait waits for d, or until ctx ends, which is an error.
func (s *Scene) Wait(ctx context.Context, d time.Duration) error { return Wait(ctx, d) }

// Wait waits for d, or until ctx ends, which is an error: the cause.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Forgive tells the judge that what was committed from a moment on (by journal.Now, so of this host) until now may be
// gone: puts, outcomes and effects. Only a fault whose Needs say Loses may.
func (s *Scene) Forgive(since int64) {
	s.Journal.Write(journal.Event{Kind: journal.Forgiven, Due: since})
}

// Pick is one of some processes, by the injection's own chance. It panics if there are none.
func (s *Scene) Pick(from []Process) Process { return from[s.Rand.IntN(len(from))] }
