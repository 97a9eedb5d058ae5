package dispatcher

import (
	"context"
	"sync"
	"sync/atomic"
)

// jobContext is the context of one job's handler. It ends with the lock session, like those of all, or by
// itself when the job is cancelled. The one of its own is made when first needed: most handlers end without having
// asked, and to make one for each took as long as to claim the job.
type jobContext struct {
	context.Context // the session's

	making sync.Mutex
	own    atomic.Pointer[ownContext]
}

type ownContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

func (c *jobContext) get() *ownContext {
	if own := c.own.Load(); own != nil {
		return own
	}
	c.making.Lock()
	defer c.making.Unlock()
	own := c.own.Load()
	if own == nil {
		ctx, cancel := context.WithCancelCause(c.Context)
		own = &ownContext{ctx, cancel}
		c.own.Store(own)
	}
	return own
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
		return own.Value(key)
	}
	return c.Context.Value(key)
}

// end ends the context, if anyone has asked for it, when the handler has returned.
func (c *jobContext) end() {
	if own := c.own.Load(); own != nil {
		own.cancel(nil)
	}
}
