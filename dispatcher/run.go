package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// outcome is what becomes of a job after a run.
type outcome struct {
	kind   string       // one of the constants below
	back   store.Return // for retried, snoozed, setAside
	reason error        // nil when done
}

// The kinds of outcome, as the metrics name them.
const (
	done        = "done"
	completedTx = "completed_in_tx"
	retried     = "retry"
	snoozed     = "snoozed"
	discarded   = "discarded"
	setAside    = "set_aside"
	handedBack  = "handed_back" // unfinished when the dispatcher stopped
	claimLost   = "claim_lost"  // unfinished when the lock session broke
)

// run handles one job. It runs on a worker's goroutine and touches nothing of the loop's.
func (c *claim) run() {
	defer c.ctx.end()
	job := &c.job
	job.Lateness = c.age + time.Since(c.claimedAt)
	ctx, processing := c.queue.telemetry.Process(&c.ctx, telemetry.Run{
		Task: job.Task, ID: job.ID, Attempt: job.Attempt, Metadata: job.Metadata, Lateness: job.Lateness,
	})
	defer func() {
		if c.outcome.kind == "" { // the handler has ended its goroutine, as t.FailNow does
			c.outcome = c.failed(errGoexit)
		}
		processing.End(c.outcome.kind, errorType(c.outcome.reason))
	}()
	if c.ctx.Err() != nil { // it was cancelled, or the session lost, before it could start
		c.outcome = c.judge(ctx, context.Cause(ctx))
		return
	}
	c.outcome = c.judge(ctx, c.handle(ctx))
}

var (
	errGoexit       = errors.New("the handler called runtime.Goexit")
	errNotCommitted = errors.New("the handler returned nil, but the transaction that it passed to CompleteTx was not committed")
)

// handle calls the handler, and makes an error of whatever it does instead of returning.
func (c *claim) handle(ctx context.Context) (err error) {
	how := c.queue.how.Load()
	r, known := how.route(c.job.Task)
	if !known {
		return retry.Permanent(how.noHandler(c.job.Task))
	}
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	timeout := how.options.Timeout
	if timeout == 0 {
		return r.handler.Handle(ctx, &c.job)
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, ErrTimeout)
	defer cancel()
	err = r.handler.Handle(limited, &c.job)
	if err != nil && context.Cause(limited) == ErrTimeout {
		err = fmt.Errorf("%w (%v): %w", ErrTimeout, timeout, err)
	}
	return err
}

func (m *manner) noHandler(task string) error {
	if task == "" {
		return fmt.Errorf("no handler for jobs without a task is registered on queue %q", m.source.Name())
	}
	return fmt.Errorf("no handler for task %q is registered on queue %q; known are %s",
		task, m.source.Name(), strings.Join(slices.Sorted(maps.Keys(m.routes)), ", "))
}

// judge decides what an error of a handler means for its job.
func (c *claim) judge(ctx context.Context, err error) outcome {
	job := &c.job
	back := store.Return{Run: job.Run()}
	switch {
	case err == nil && job.completed.Load():
		return outcome{kind: completedTx}
	case err == nil:
		return outcome{kind: done}
	}
	if s, ok := errors.AsType[*snooze](err); ok {
		back.Delay = s.d
		return outcome{kind: snoozed, back: back, reason: err}
	}
	if _, ok := errors.AsType[*discard](err); ok {
		return outcome{kind: discarded, back: back, reason: err}
	}
	switch context.Cause(ctx) {
	case ErrStopping:
		if errors.Is(err, ErrTimeout) { // which was before the stop, and counts
			break
		}
		return outcome{kind: handedBack, back: back, reason: err}
	case ErrSessionLost:
		return outcome{kind: claimLost, back: back, reason: err}
	case ErrCancelled:
		back.Reason, back.Counts, back.SetAside = "cancelled", true, true
		if !errors.Is(err, ErrCancelled) {
			back.Reason += ": " + err.Error()
		}
		return outcome{kind: setAside, back: back, reason: err}
	}
	if errors.Is(err, ErrStopping) && stopping(ctx) { // the handler has waited less long than we would
		return outcome{kind: handedBack, back: back, reason: err}
	}
	return c.failed(err)
}

// failed decides whether a failed run is followed by another one.
func (c *claim) failed(err error) outcome {
	job, how := &c.job, c.queue.how.Load()
	options := how.options
	if errors.Is(err, store.ErrDecode) {
		err = retry.Permanent(err)
	}
	policy := options.Retry
	if r, known := how.route(job.Task); known && r.retry != nil {
		policy = r.retry
	}
	attempts := job.MaxAttempts
	if attempts == 0 {
		attempts = options.MaxAttempts
	}
	back := store.Return{Run: job.Run(), Reason: err.Error(), Counts: true}
	delay, again := retry.Decide(policy, job.Attempt, attempts, err)
	if !again {
		back.SetAside = true
		return outcome{kind: setAside, back: back, reason: err}
	}
	back.Delay = delay
	return outcome{kind: retried, back: back, reason: err}
}

// panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", p.value, p.stack) }

// Unwrap gives the panic's value if it is an error, so that it can be told apart like any other.
func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// errorType is the class of an error, for telemetry: never its text, which may hold data.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*panicError](err); ok {
		return "panic"
	}
	if errors.Is(err, ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}
