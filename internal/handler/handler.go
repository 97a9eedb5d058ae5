// Package handler has jobs run outside of Go: by an HTTP endpoint ([HTTP]), by a program that is started
// for each job ([Exec]), or by programs that stay and get one job after another ([Worker]).
//
// Each is a dispatcher.Handler, safe for any number of queues and goroutines, and is ended by its Close:
// that waits for the jobs it is at, until its context ends; then it stops them, and returns when no
// connection, process or goroutine of the handler is left.
//
// docs/handlers.md and docs/workers.md say what an endpoint and a program have to do.
package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

// fact is something that whoever runs a job is told about it. It is a variable of the environment for
// a program and a header for an endpoint. An empty value means that there is none.
type fact struct{ name, value string }

func facts(job *dispatcher.Job, maxAttempts int) []fact {
	return []fact{
		{"job_id", strconv.FormatInt(job.ID, 10)},
		{"queue", job.Queue},
		{"task", job.Task},
		{"attempt", strconv.Itoa(job.Attempt)},
		{"max_attempts", count(attemptsOf(job, maxAttempts))},
		{"enqueued_at", stamp(job.EnqueuedAt)},
		{"schedule_at", stamp(job.ScheduleAt)},
		{"expected_at", stamp(job.ExpectedAt)},
	}
}

// attemptsOf is how often the job may run: what it says itself, else what its queue says; 0: not known.
func attemptsOf(job *dispatcher.Job, maxAttempts int) int {
	if job.MaxAttempts > 0 {
		return job.MaxAttempts
	}
	return maxAttempts
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// data is the job's data as it stands in the table. Of a queue with a codec that is a JSON string, the
// codec's bytes in base64: no other program can be handed more than that.
func data(job *dispatcher.Job) json.RawMessage {
	if len(job.Data) == 0 {
		return json.RawMessage("null")
	}
	return job.Data
}

var propagator = propagation.TraceContext{}

// traceOf is the W3C trace context for whoever runs the job: that of the run, else, when no SDK traces
// this process, that of the put.
func traceOf(ctx context.Context, job *dispatcher.Job) propagation.MapCarrier {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = propagator.Extract(ctx, propagation.MapCarrier(job.Metadata)) // which anyone may have written: it is checked
	}
	carrier := propagation.MapCarrier{}
	propagator.Inject(ctx, carrier)
	return carrier
}

// errClosed is the cause of the end of a run that Close did not wait for.
var errClosed = errors.New("handler: closed")

// closedDelay is for when a job that came to a closed handler runs again. That one is of a configuration
// of the past; the next run finds the one of today.
const closedDelay = time.Second

// runs are the jobs that a handler is at.
type runs struct {
	hurry     context.Context // ends when Close waits no longer
	interrupt context.CancelFunc
	mu        sync.Mutex
	closed    bool
	underWay  int
	running   sync.WaitGroup // added to only under mu, while not closed
	finished  sync.Once
}

func newRuns() *runs {
	r := &runs{}
	r.hurry, r.interrupt = context.WithCancel(context.Background())
	return r
}

// enter begins a run, whose context ends when Close is out of patience, too. ok is false when the handler
// is closed. Else leave has to be called.
func (r *runs) enter(ctx context.Context) (run context.Context, leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, false
	}
	r.running.Add(1)
	r.underWay++
	run, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.hurry, func() { cancel(errClosed) })
	return run, func() {
		stop()
		cancel(nil)
		r.mu.Lock()
		r.underWay--
		r.mu.Unlock()
		r.running.Done()
	}, true
}

// close lets no further run begin and returns when all have ended, of themselves or interrupted by ctx's
// end, and finish after them, which is called once. The error is the cause of ctx's end, if that came first: unless it
// had come already, and there was no run to interrupt.
func (r *runs) close(ctx context.Context, finish func()) error {
	r.mu.Lock()
	r.closed = true
	idle := r.underWay == 0 && ctx.Err() != nil
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, r.interrupt)
	r.running.Wait()
	r.finished.Do(finish)
	if !stop() && !idle {
		return fmt.Errorf("handler: close: not all ended by itself: %w", context.Cause(ctx))
	}
	r.interrupt() // releases what is left of the context
	return nil
}
