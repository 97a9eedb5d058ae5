// Jobs run by programs that stay: a pool of processes, each with a goroutine that is its owner.

package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// WorkerOptions say which program is kept running, and how many times. Only Program.Command is required.
type WorkerOptions struct {
	Program

	// Processes is how many run, and so how many jobs at once: a job beyond waits for one of them, on
	// its own time. Give the queue the same concurrency. Zero means 1.
	Processes int

	// StartTimeout is how long the program has from its start to its first line. Zero means 10
	// seconds.
	StartTimeout time.Duration

	// MaxAttempts is what jobs without a number of their own are said to have. Zero: nothing is said.
	MaxAttempts int

	// Logger is where the programs' stderr goes, line by line, and what becomes of them. Nil means
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultStartTimeout = 10 * time.Second

	// downDelay is for how long a job is put off that has found no process running: another
	// dispatcher may have one that works.
	downDelay = 5 * time.Second
)

// Worker runs jobs by programs that stay.
type Worker struct {
	options WorkerOptions
	log     *slog.Logger
	env     []string
	spawner *spawner
	runs    *runs
	offers  chan *assignment // to whichever process is free
	up      atomic.Int64     // processes that have said that they are ready
	closing chan struct{}    // closed when no job is under way, and none will be
	keepers sync.WaitGroup   // one for each process
}

// assignment is a job on its way to a process.
type assignment struct {
	ctx     context.Context
	id      string
	line    []byte
	outcome chan error // of capacity 1; errReturned: another process is to have it

	returned bool // because a process spoke of another job
}

// errReturned tells that the process was dead when the job came to it, or spoke of another one still.
var errReturned = errors.New("handler: returned")

// NewWorker checks the options, begins to start the processes, and returns the handler. That they do not
// start is in the log, and is tried again.
func NewWorker(o WorkerOptions) (*Worker, error) {
	err := errors.Join(o.check(),
		atLeastZero("Processes", &o.Processes, 1),
		atLeastZero("StartTimeout", &o.StartTimeout, defaultStartTimeout),
		atLeastZero("MaxAttempts", &o.MaxAttempts, 0))
	if err != nil {
		return nil, fmt.Errorf("handler: worker: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	w := &Worker{
		options: o, log: o.Logger, env: append(o.environment(), protocolVariable+"="+strconv.Itoa(protocol)),
		spawner: newSpawner(o.Groups), runs: newRuns(), offers: make(chan *assignment), closing: make(chan struct{}),
	}
	for range o.Processes {
		w.keepers.Go(w.keep)
	}
	return w, nil
}

// Up is how many processes run and are ready for a job or at one, of how many.
func (w *Worker) Up() (up, processes int) { return int(w.up.Load()), w.options.Processes }

// Handle has a process run the job, as soon as one is free. When ctx ends first, the process is told, and
// what it says then counts. If it says nothing for half of KillAfter it gets SIGTERM, and SIGKILL after
// the other half. While no process runs at all, jobs are put off after StartTimeout, or when their own time
// is over; that is no attempt.
func (w *Worker) Handle(ctx context.Context, job *dispatcher.Job) error {
	ctx, leave, ok := w.runs.enter(ctx)
	if !ok {
		return dispatcher.Snooze(closedDelay)
	}
	defer leave()
	line, err := newJobLine(ctx, job, w.options.MaxAttempts)
	if err != nil {
		return retry.Permanent(fmt.Errorf("handler: the job's data: %w", err))
	}
	a := &assignment{ctx: ctx, id: jobID(job), line: line, outcome: make(chan error, 1)}
	patience := time.NewTimer(w.options.StartTimeout)
	defer patience.Stop()
	for {
		select {
		case w.offers <- a:
			if err := <-a.outcome; !errors.Is(err, errReturned) {
				return err
			}
		case <-patience.C:
			if w.up.Load() == 0 {
				return dispatcher.Snooze(downDelay)
			}
			patience.Reset(w.options.StartTimeout)
		case <-ctx.Done():
			if context.Cause(ctx) == dispatcher.ErrTimeout && w.up.Load() == 0 { // the job has not had its time
				return dispatcher.Snooze(downDelay)
			}
			return fmt.Errorf("handler: no process was free: %w", context.Cause(ctx))
		}
	}
}

// Close waits for the jobs under way until ctx ends, then kills the processes at once. Else they are told
// to end: their stdin ends; after KillAfter they get SIGTERM, and after that time again SIGKILL.
func (w *Worker) Close(ctx context.Context) error {
	return w.runs.close(ctx, func() {
		close(w.closing)
		w.keepers.Wait()
		w.spawner.close()
	})
}

// keep keeps one process running. It is the goroutine that owns it.
func (w *Worker) keep() {
	delays := retry.Reconnect()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.closing:
			return
		}
		worked, err := w.serve()
		if err == nil || w.isClosing() {
			return
		}
		var delay time.Duration
		level := slog.LevelWarn
		if errors.Is(err, errLast) {
			level = slog.LevelDebug
		}
		if worked {
			delays.Reset()
		} else {
			delay = delays.NextBackOff()
		}
		w.log.Log(context.Background(), level, "a worker process is gone; another is started", "program", w.options.Command[0], "delay", delay, "error", err)
		timer.Reset(delay)
	}
}

func (w *Worker) isClosing() bool {
	select {
	case <-w.closing:
		return true
	default:
		return false
	}
}

// serve runs one process, from its start to its end. The error says why it has ended; it is nil if that
// was because the handler is closing. worked tells whether it has finished a job before.
func (w *Worker) serve() (worked bool, err error) {
	c, err := w.open()
	if err != nil {
		return false, fmt.Errorf("start: %w", err)
	}
	if err := w.greet(c); err != nil {
		return false, err
	}
	w.log.Debug("a worker process is ready", "program", w.options.Command[0], "pid", c.pid())
	w.up.Add(1)
	defer w.up.Add(-1)
	for {
		select {
		case a := <-w.offers:
			if c.over() { // it died while the job was on its way
				a.outcome <- errReturned
				return worked, c.end(w.options.KillAfter, errDied)
			}
			if err := w.run(c, a, worked); err != nil {
				return worked || errors.Is(err, errLast), err
			}
			worked = true
		case line, open := <-c.lines:
			if !open {
				return worked, c.end(c.silence(w.options.KillAfter, errDied))
			}
			return worked, c.end(0, fmt.Errorf("said %s though it had no job", quoted(line)))
		case <-c.ended:
			return worked, c.end(w.options.KillAfter, errDied)
		case <-w.closing:
			c.letGo(w.options.KillAfter)
			return worked, nil
		}
	}
}

var (
	errDied = errors.New("ended by itself")
	errLast = errors.New("ended, as it had said with its last outcome")
)

// greet waits for the program's first line. An error means that the process has ended.
func (w *Worker) greet(c *conversation) error {
	timer := time.NewTimer(w.options.StartTimeout)
	defer timer.Stop()
	select {
	case line, open := <-c.lines:
		if !open {
			return c.end(c.silence(w.options.KillAfter, errors.New("ended before it was ready")))
		}
		if err := parseGreeting(line); err != nil {
			return c.end(0, err)
		}
		return nil
	case <-timer.C:
		return c.end(0, fmt.Errorf("was not ready within %v", w.options.StartTimeout))
	case <-w.closing:
		return c.end(0, errClosed)
	}
}

// run has the process do a job, and tells the assignment what became of it. An error means that the process
// has ended. A second answer to a job that it had before is no fault of this one, which is given to another process
// then: once, as it may be the program that mistakes this one's name.
func (w *Worker) run(c *conversation, a *assignment, worked bool) error {
	c.stderr.reset()
	c.say(a.line)
	over, hurry, deaf := a.ctx.Done(), w.runs.hurry.Done(), c.deaf
	patience, reason := w.options.KillAfter, errors.New("ended while it had the job")
	var stopping escalation
	defer stopping.end()
	for {
		select {
		case line, open := <-c.lines:
			if !open {
				err := c.end(c.silence(patience, reason))
				a.outcome <- fmt.Errorf("handler: %w", err)
				return err
			}
			outcome, last, err := parseOutcome(line, a.id)
			if err != nil {
				returned := worked && errors.Is(err, errOtherJob) && !a.returned && a.ctx.Err() == nil
				err = c.end(0, err)
				if returned {
					a.returned = true
					a.outcome <- errReturned
				} else {
					a.outcome <- fmt.Errorf("handler: %w", err)
				}
				return err
			}
			a.outcome <- outcome
			if last {
				c.hangUp()
				c.await(patience, c.hurry)
				return c.end(patience, errLast)
			}
			if stopping.signalled { // so it is about to end, and can have no other job
				return c.end(patience, reason)
			}
			return nil
		case <-over:
			over = nil
			patience, reason = w.options.patience(a.ctx), errors.New("stopped")
			c.say(newCancelLine(a.id, context.Cause(a.ctx)))
			stopping.begin(patience)
		case <-deaf: // it will never know the job
			deaf = nil
			reason = errors.New("did not read the job")
			stopping.begin(patience)
		case <-stopping.due:
			stopping.next(c.process)
		case <-hurry:
			hurry = nil
			c.signal(group.Kill)
		}
	}
}

// escalation is what follows when a process is to give up its job: some time, SIGTERM, the same time
// again, SIGKILL.
type escalation struct {
	step      time.Duration
	timer     *time.Timer
	due       <-chan time.Time // nil: it has not begun
	signalled bool
}

// begin begins it, unless it has begun.
func (e *escalation) begin(patience time.Duration) {
	if e.timer == nil {
		e.step = patience / 2
		e.timer = time.NewTimer(e.step)
		e.due = e.timer.C
	}
}

func (e *escalation) next(p *process) {
	if e.signalled {
		p.signal(group.Kill)
		return
	}
	p.signal(group.Terminate)
	e.signalled = true
	e.timer.Reset(e.step)
}

func (e *escalation) end() {
	if e.timer != nil {
		e.timer.Stop()
	}
}
