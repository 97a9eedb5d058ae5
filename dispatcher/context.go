package dispatcher

import (
	"context"
	"sync/atomic"
)

// runKey is the key of Run's own context in those of handlers, which go on after its end.
type runKey struct{}

// stopping tells whether the dispatcher of a job's context has been told to stop.
func stopping(ctx context.Context) bool {
	run, ok := ctx.Value(runKey{}).(context.Context)
	return ok && run.Err() != nil
}

// jobContext is the context of one job's handler. It ends with the lock session, like those of all, or by
// itself when the job is cancelled. The one of its own is made when first needed: most handlers end without having
// asked, and to make one for each took as long as to claim the job.
type jobContext struct {
	context.Context // the session's

	own atomic.Pointer[ownContext]
}

type ownContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

func (c *jobContext) get() *ownContext {
	if own := c.own.Load(); own != nil {
		return own
	}
	ctx, cancel := context.WithCancelCause(c.Context)
	if own := (&ownContext{ctx, cancel}); c.own.CompareAndSwap(nil, own) {
		return own
	}
	cancel(nil) // another goroutine's was first
	return c.own.Load()
}

func (c *jobContext) Done() <-chan struct{} { return c.get().Done() }

func (c *jobContext) Err() error {
	if own := c.own.Load(); own != nil {
		return own.Err()
	}
	return c.Context.Err()
}

// Value is also how package context finds the cause of the end.
func (c *jobContext) Value(key any) any {
	if own := c.own.Load(); own != nil {
		if value := own.Value(key); value != nil {
			return value
		}
	}
	return c.Context.Value(key)
}

// over stands in for the context of a job whose handler has returned and whose own nobody had asked for: who
// asks later is to find it ended as well.
var over = func() *ownContext {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(nil)
	return &ownContext{ctx, cancel}
}()

// end ends the context when the handler has returned.
func (c *jobContext) end() {
	if !c.own.CompareAndSwap(nil, over) {
		c.own.Load().cancel(nil)
	}
}
