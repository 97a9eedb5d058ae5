// Package dispatcher runs handlers for the jobs of a [store.Store], as soon as they are due.
//
// A [Dispatcher] is one event loop for all the queues of a process. It sleeps until a notification
// or its timer says that there may be work, claims jobs by advisory locks, fans them out to
// goroutines, and writes their outcomes in batches.
//
//	d := dispatcher.New(jobs, dispatcher.Options{})
//	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
//		...
//	}))
//	err := d.Run(ctx)
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// ErrConfig is matched by every error about the options and the handlers of a [Dispatcher].
var ErrConfig = errors.New("invalid configuration")

// Handler does the work of a job.
//
// Nil means done: the job is deleted. An error means that the run failed: the job is retried as its
// queue's policy says, and set aside with the error when it is out of attempts. [Snooze], [Discard]
// and retry.Permanent make errors that say otherwise. A panic is an error with its stack.
//
// The context ends when the job's timeout has passed, when the dispatcher stops and its grace is
// over, and when the claim is lost. Then the job may be run by another process, so the handler
// should stop; context.Cause tells the reason.
//
// A job is run at least once. What it does in this database happens exactly once if the handler
// does it in a transaction that it passes to [Job.CompleteTx].
type Handler interface {
	Handle(ctx context.Context, job *Job) error
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, job *Job) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, job *Job) error { return f(ctx, job) }

// Options of a [Dispatcher]. The zero value works.
type Options struct {
	// Concurrency is how many handlers run at once in this process. Zero means 100.
	Concurrency int

	// Queue holds for each queue, and Queues, by name, for some of them: fields that are zero
	// there are taken from Queue.
	Queue  QueueOptions
	Queues map[string]QueueOptions

	// Grace is how long handlers may go on after Run's context has ended. Then their contexts
	// end; a job whose handler returns an error by then is handed back, its attempt not counted.
	// Zero means 30 seconds.
	Grace time.Duration

	// Sweep is how often the dispatcher looks at all its queues, whatever it was notified of: the
	// longest that a job can wait whose notification was lost or switched off. Zero means 10
	// seconds.
	Sweep time.Duration

	// Logger is where the dispatcher logs, never a job's data. Nil means slog.Default().
	Logger *slog.Logger
}

// QueueOptions say how the jobs of a queue are run.
type QueueOptions struct {
	Concurrency int           // handlers at once; 0: as many as the process may run
	Timeout     time.Duration // of one run; 0: none
	Retry       retry.Policy  // nil: retry.Exponential{}, from 1 s to 1 h
	MaxAttempts int           // of jobs that do not say; 0: 25
	Prefetch    int           // jobs claimed ahead of their slots at most; 0: as the handling rate says, up to 2000; negative: none
}

const (
	defaultConcurrency = 100
	defaultGrace       = 30 * time.Second
	defaultSweep       = 10 * time.Second
	defaultMaxAttempts = 25
)

// Dispatcher runs the handlers of a process. Its queues are fixed when Run starts, but for [Dispatcher.Adopt].
type Dispatcher struct {
	jobs    *store.Store
	options Options
	log     *slog.Logger
	queues  map[string]*queue // by name, without the codec's suffix
	err     error             // what was wrong with the registrations, for Run to return
	started bool

	maxAttempts atomic.Int64 // of jobs that do not say, for those that a dead dispatcher had in hand
	commands    chan func(*loop)
	ended       chan struct{} // closed when Run returns
}

// New returns a dispatcher for queues of a store, which must be over a pool.
func New(jobs *store.Store, o Options) *Dispatcher {
	d := &Dispatcher{jobs: jobs, options: o, log: o.Logger, queues: map[string]*queue{}, commands: make(chan func(*loop)), ended: make(chan struct{})}
	if d.log == nil {
		d.log = slog.Default()
	}
	return d
}

// Handle registers the handler of a queue's jobs that are not of a task. A codec's suffix in the
// queue's name says how [store.Job.Decode] reads their data.
//
// A mistake here, such as a nil handler or a second one for the queue, is returned by Run.
func (d *Dispatcher) Handle(queue string, h Handler) { d.register(queue, "", route{handler: h}) }

// HandleAll registers the handler of all of a queue's jobs that have no other, whatever their task.
func (d *Dispatcher) HandleAll(queue string, h Handler) {
	d.register(queue, anyTask, route{handler: h})
}

// anyTask is no name that a task can have.
const anyTask = "\x00"

// HandleTask registers the function that runs the jobs of a task. A job whose arguments cannot be
// decoded is set aside with the reason, and so is one of a task that no function is registered for.
func HandleTask[T any](d *Dispatcher, task store.Task[T], run func(ctx context.Context, job *Job, args T) error) {
	r := route{retry: retry.Fixed(task.RetryIn)}
	if task.RetryIn == 0 {
		r.retry = retry.Fixed(30 * time.Second)
	}
	if run != nil {
		r.handler = HandlerFunc(func(ctx context.Context, job *Job) error {
			var args T
			if err := job.Decode(&args); err != nil {
				return err
			}
			return run(ctx, job, args)
		})
	}
	if task.Name == "" {
		d.reject("a task of queue %q has no name", task.Queue)
		return
	}
	d.register(task.Queue, task.Name, r)
}

func (d *Dispatcher) register(name, task string, r route) {
	if d.started {
		panic("dispatcher: handlers must be registered before Run")
	}
	source := d.jobs.Queue(name)
	if err := source.Err(); err != nil {
		d.err = errors.Join(d.err, err)
		return
	}
	q := d.queues[source.Name()]
	if q == nil {
		q = &queue{name: source.Name()}
		q.how.Store(&manner{source: source, spelling: name, routes: map[string]route{}})
		d.queues[q.name] = q
	}
	how := q.how.Load()
	_, taken := how.routes[task]
	switch {
	case isNil(r.handler):
		d.reject("the handler of queue %q, task %q is nil", name, task)
	case how.spelling != name:
		d.reject("queue %q is registered as %q too: it can have one codec", name, how.spelling)
	case taken:
		d.reject("queue %q, task %q has two handlers", name, task)
	default:
		how.routes[task] = r
	}
}

func isNil(h Handler) bool {
	f, isFunc := h.(HandlerFunc)
	return h == nil || isFunc && f == nil
}

func (d *Dispatcher) reject(format string, args ...any) {
	d.err = errors.Join(d.err, fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...)))
}

// configure checks the options and gives each queue its own.
func (d *Dispatcher) configure() error {
	o := &d.options
	atLeast(d, "Concurrency", &o.Concurrency, defaultConcurrency)
	atLeast(d, "Grace", &o.Grace, defaultGrace)
	atLeast(d, "Sweep", &o.Sweep, defaultSweep)
	d.configureQueue("Queue", &o.Queue, QueueOptions{Concurrency: o.Concurrency, MaxAttempts: defaultMaxAttempts, Retry: retry.Exponential{}})
	d.maxAttempts.Store(int64(o.Queue.MaxAttempts))
	for name, q := range d.queues {
		own := o.Queues[name]
		d.configureQueue(fmt.Sprintf("Queues[%q]", name), &own, o.Queue)
		q.configure(own)
	}
	for name := range o.Queues {
		if d.queues[name] == nil {
			d.reject("Queues[%q] has options but no handler; handled are %s", name,
				d.names())
		}
	}
	if !d.jobs.Concurrent() {
		d.reject("the store is over one connection or transaction: a dispatcher needs one over a pool")
	}
	if len(d.queues) == 0 && d.err == nil {
		d.reject("no handler is registered: call Handle or HandleTask before Run")
	}
	return d.err
}

func (d *Dispatcher) configureQueue(where string, o *QueueOptions, defaults QueueOptions) {
	atLeast(d, where+".Concurrency", &o.Concurrency, defaults.Concurrency)
	atLeast(d, where+".Timeout", &o.Timeout, defaults.Timeout)
	atLeast(d, where+".MaxAttempts", &o.MaxAttempts, defaults.MaxAttempts)
	if o.Prefetch == 0 {
		o.Prefetch = defaults.Prefetch
	}
	if o.Retry == nil {
		o.Retry = defaults.Retry
	}
}

// atLeast puts the default in the place of zero and refuses what is negative.
func atLeast[N int | time.Duration](d *Dispatcher, name string, value *N, zero N) {
	if *value < 0 {
		d.reject("%s is %v; it must not be negative", name, *value)
	}
	if *value == 0 {
		*value = zero
	}
}
