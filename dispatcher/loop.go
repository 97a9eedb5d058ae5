package dispatcher

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
	"github.com/pq-dispatch/pq-dispatch/notify"
)

const (
	never = time.Duration(math.MaxInt64)

	// minHorizon is how far ahead the wheel is armed, or two sweeps, if that is more: what is due
	// later, a sweep finds in time. It bounds the wheel, and how long a timer can be wrong: Go's stand
	// still in suspend.
	minHorizon = time.Minute

	// heartbeat of the listener. With the sweep and the ring it keeps an idle process below one
	// statement in 5 seconds, the pings of its pool aside: see store.ShouldPing.
	heartbeat = 30 * time.Second

	wheelTick = time.Millisecond

	// maxClaim is how many jobs one claim asks for at most.
	maxClaim = 1000

	// farewell is how long a stopping dispatcher waits for handlers whose contexts have ended,
	// and for the database to take the last outcomes.
	farewell = 5 * time.Second
)

// loop is a running dispatcher. All of it belongs to the goroutine of Run; the goroutines it starts
// talk to it by channel.
type loop struct {
	d      *Dispatcher
	inner  context.Context // of all that the loop starts; ends when the loop has
	queues []*queue
	turn   int // of the queue to be considered next
	slots  *slots

	wheel   *wheel[*queue]
	epoch   time.Time // of the wheel
	timer   *time.Timer
	horizon time.Duration

	hints    *hints
	listener *notify.Listener
	sweeps   *time.Ticker
	keeper   *keeper
	ring     *ring
	fatal    chan error // why the dispatcher can never work

	session  *sessionScope // nil: none is open
	asking   bool          // an ask is under way
	sweep    bool          // one is wanted
	sweeping bool          // one is under way
	surveyed chan surveyed
	burying  bool // the dead are being seen to
	buried   chan struct{}
	locks    int           // held by the session
	release  []int64       // to be given back with the next ask
	over     []int64       // likewise, of jobs that will not run again
	ended    []int64       // batches to be struck from the ledger with it
	unparked []int32       // wake locks to be given up with it
	paused   bool          // nothing is asked, until resume
	resume   *time.Timer   // of a pause, and of a budget that grows
	batches  map[int64]int // how many of a batch's jobs have not ended
	early    []int64       // jobs that were cancelled while an ask was under way that may bring them
	offset   time.Duration // of the database's clock from ours; known after the first claim
	offsetOK bool

	suspects  int // claimed: one at most, or more for a while after the session broke
	witnesses int // claimed jobs in whose run one process has died
	settling  bool
	alone     int // jobs whose row someone has locked: each has a goroutine that writes its outcome
	settled   chan settlement
	returning map[*queue]bool // jobs of these were handed back: wake the others once they are free

	stopping   bool
	forsaken   bool           // and the lock table is full: what was to be given back last stays with the session
	background sync.WaitGroup // all goroutines but the slots' workers
}

// settlement is what came of writing a batch of outcomes.
type settlement struct {
	written []*claim
	blocked []*claim // someone has locked their rows
	alone   bool     // it was one of those
	err     error
}

// Run claims and handles jobs until ctx ends, and returns when all that it started has ended: nil
// after a graceful stop.
//
// When ctx ends it claims no more, waits for the running handlers up to Grace, then ends their
// contexts, and hands back what is unfinished. A handler that goes on even then is named in an error
// that matches [ErrStuck].
//
// Run returns at once with an error that matches [ErrConfig], or one of package store, when the
// options or the database cannot be worked with. A database that is only not reachable it waits
// for, at the start as at any time later.
func (d *Dispatcher) Run(ctx context.Context) error {
	if d.started {
		panic("dispatcher: Run was called twice")
	}
	d.started = true
	defer close(d.ended)
	if err := d.configure(); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), runKey{}, ctx))
	l := &loop{
		d:         d,
		inner:     inner,
		wheel:     newWheel[*queue](wheelTick),
		epoch:     time.Now(),
		timer:     time.NewTimer(never),
		resume:    time.NewTimer(never),
		horizon:   max(minHorizon, 2*d.options.Sweep),
		hints:     newHints(d.queues),
		fatal:     make(chan error, 2),
		batches:   map[int64]int{},
		settled:   make(chan settlement, 1),
		buried:    make(chan struct{}, 1),
		surveyed:  make(chan surveyed, 1),
		returning: map[*queue]bool{},
	}
	for _, name := range slices.Sorted(maps.Keys(d.queues)) {
		l.queues = append(l.queues, d.queues[name])
	}
	l.slots = newSlots(l.queues, d.options.Concurrency)
	l.keeper = newKeeper(d)
	l.ring = newRing(d, l.hints)
	defer func() {
		cancel()
		close(l.slots.work)
		l.background.Wait()
		if l.slots.atWork() == 0 { // else some are stuck, which the error says
			l.slots.workers.Wait()
		}
	}()
	l.background.Go(func() {
		if err := l.keeper.run(inner); err != nil {
			l.fatal <- err
		}
	})
	l.background.Go(func() { l.ring.run(inner) })
	l.listener = &notify.Listener{Connect: d.jobs.Connect, Heartbeat: heartbeat, Logger: d.log}
	l.listener.Handle(d.jobs.Channel(), l.hints)
	l.background.Go(func() {
		select {
		case <-l.keeper.first: // it has found the database fit to listen to
		case <-inner.Done():
			return
		}
		if err := l.listener.Run(inner); inner.Err() == nil {
			l.fatal <- err
		}
	})
	return l.run(ctx)
}

func (l *loop) run(ctx context.Context) error {
	l.sweeps = time.NewTicker(l.d.options.Sweep)
	defer l.sweeps.Stop()
	defer l.timer.Stop()
	defer l.resume.Stop()
	stop := ctx.Done()
	deadline := time.NewTimer(never) // of the present phase of stopping
	defer deadline.Stop()
	cancelled := false
	for {
		l.settle()
		l.lookAround()
		l.ask()
		if l.slots.waits() {
			if l.asking { // let that go out before workers take the processors: the server has nothing to do until then
				runtime.Gosched()
			}
			l.slots.begin()
		}
		if l.stopping && l.atRest() {
			return nil
		}
		l.arm()
		l.keeper.busy.Store(l.locks > 0)
		select {
		case <-l.slots.news:
		case s := <-l.settled:
			l.hearSettled(s)
		case a := <-l.keeper.answers:
			l.hear(a)
		case <-l.hints.signal:
			l.heed()
		case <-l.timer.C:
			telemetry.Wake(ctx, "timer")
			l.advance()
		case <-l.resume.C:
			l.regain()
		case command := <-l.d.commands:
			command(l)
		case <-l.sweeps.C:
			l.sweep = true
		case s := <-l.surveyed:
			l.hearSurvey(s)
		case <-l.buried:
			l.burying = false
		case news := <-l.keeper.opened:
			l.open(news)
		case err := <-l.keeper.lost:
			l.lose(err)
		case <-stop:
			stop = nil
			deadline.Reset(l.d.options.Grace)
			l.stop()
		case <-deadline.C:
			if cancelled {
				return l.abandon()
			}
			cancelled = true
			deadline.Reset(farewell)
			l.cancelHandlers(ErrStopping)
		case err := <-l.fatal:
			return fmt.Errorf("dispatcher: %w", err)
		}
	}
}
