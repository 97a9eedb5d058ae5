// What a configuration says about queues, as handlers and options of a dispatcher.

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
	"github.com/pq-dispatch/pq-dispatch/internal/handler"
)

// handlers are those of a configuration, by the names of their queues in it.
type handlers map[string]*served

// served is a handler, and what it was made of.
type served struct {
	closer
	recipe
}

// closer is a handler of package handler.
type closer interface {
	dispatcher.Handler
	Close(ctx context.Context) error
}

// recipe is the part of a queue's configuration that a handler is made of.
type recipe struct {
	http        *config.HTTP
	exec        *config.Exec
	worker      *config.Worker
	maxAttempts int // which it tells whoever runs the job
}

func newRecipe(q *config.Queue) recipe { return recipe{q.HTTP, q.Exec, q.Worker, q.MaxAttempts} }

// build makes the handlers of a configuration. Those of before that are made in the same way it takes as they
// are. The error is about all that cannot be made; then nothing is left of the others.
func build(c *config.Config, before handlers, groups *group.Set, log *slog.Logger) (handlers, error) {
	made := handlers{}
	var wrong error
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		of := newRecipe(c.Queues[name])
		if old := before[name]; old != nil && reflect.DeepEqual(old.recipe, of) {
			made[name] = old
			continue
		}
		h, err := of.make(groups, log.With("queue", c.Queues[name].TableName(name)))
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("queue %s: %w", name, err))
			continue
		}
		made[name] = &served{h, of}
	}
	if wrong != nil {
		made.discard(before)
		return nil, wrong
	}
	return made, nil
}

// discard closes those that are not among others. They have never had a job.
func (hs handlers) discard(others handlers) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, h := range hs {
		if others[name] != h {
			_ = h.Close(ended) // at once, which is its error
		}
	}
}

// make starts what the handler needs.
func (r recipe) make(groups *group.Set, log *slog.Logger) (closer, error) {
	switch {
	case r.http != nil:
		o := r.http.Options()
		o.MaxAttempts = r.maxAttempts
		return orNil(handler.NewHTTP(o))
	case r.exec != nil:
		return orNil(handler.NewExec(handler.ExecOptions{
			Program:   program(r.exec.Command, r.exec.Dir, r.exec.Env, r.exec.Inherit, r.exec.KillAfter, groups),
			MaxOutput: int(r.exec.MaxOutput), MaxAttempts: r.maxAttempts, Logger: log,
		}))
	default:
		return orNil(handler.NewWorker(handler.WorkerOptions{
			Program:   program(r.worker.Command, r.worker.Dir, r.worker.Env, r.worker.Inherit, r.worker.KillAfter, groups),
			Processes: r.worker.Processes, StartTimeout: r.worker.StartTimeout, MaxAttempts: r.maxAttempts, Logger: log,
		}))
	}
}

// orNil keeps a nil of some type from becoming a closer that is not nil.
func orNil[H closer](h H, err error) (closer, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

func program(command []string, dir string, env config.Env, inherit []string, killAfter time.Duration, groups *group.Set) handler.Program {
	return handler.Program{Command: command, Dir: dir, Env: config.Reveal(env), Inherit: inherit, KillAfter: atOnce(killAfter), Groups: groups}
}

// atOnce is d, where 0 means no time at all, for options whose 0 means a default.
func atOnce(d time.Duration) time.Duration { return max(d, time.Nanosecond) }

// options are those of the dispatcher of a configuration.
func (d *daemon) options(c *config.Config) dispatcher.Options {
	o := dispatcher.Options{
		Concurrency: c.Concurrency,
		Grace:       atOnce(c.Grace),
		Sweep:       c.Sweep,
		// All else each queue says itself: what is 0 there would be taken from here.
		Queue:  dispatcher.QueueOptions{MaxAttempts: c.Queue.MaxAttempts},
		Queues: map[string]dispatcher.QueueOptions{},
		Logger: d.Log,
	}
	for name, q := range c.Queues {
		o.Queues[q.TableName(name)] = dispatcher.QueueOptions{
			Concurrency: q.Slots(), Timeout: q.Timeout, Retry: q.Retry.Policy(), MaxAttempts: q.MaxAttempts, Prefetch: q.Prefetch,
		}
	}
	return o
}

// names are those of the queues in the table.
func names(c *config.Config) (all []string) {
	for name, q := range c.Queues {
		all = append(all, q.TableName(name))
	}
	return all
}

// register has a dispatcher call the handlers, until hurry ends.
func (hs handlers) register(hurry context.Context, d *dispatcher.Dispatcher, c *config.Config) {
	for name, h := range hs {
		d.HandleAll(c.Queues[name].Name(name), &hurried{h, hurry})
	}
}

// hurried ends the runs of a handler when its daemon is told to stop at once, as the dispatcher does when the
// grace is over: what is unfinished is handed back, and no attempt is counted.
type hurried struct {
	dispatcher.Handler
	hurry context.Context
}

// Handle runs the job.
func (h *hurried) Handle(ctx context.Context, job *dispatcher.Job) error {
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.hurry, func() { cancel(dispatcher.ErrStopping) })()
	err := h.Handler.Handle(run, job)
	if err == nil || context.Cause(run) != dispatcher.ErrStopping || context.Cause(ctx) != nil {
		return err
	}
	return fmt.Errorf("%w: %w", dispatcher.ErrStopping, err) // a handler's own decision counts more, whatever is around it
}
