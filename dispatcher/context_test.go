package dispatcher

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type (
	contextKey struct{}
	otherKey   struct{}
)

// newJobContext is one under a session's, which cancel ends.
func newJobContext(t *testing.T) (c *jobContext, cancel context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), contextKey{}, "the session's"))
	t.Cleanup(func() { cancel(nil) })
	return &jobContext{Context: ctx}, cancel
}

// Whether anyone has looked at a job's context before must make no difference to what it does.
func TestAJobsContextEndsWhoeverHasLookedAtItBefore(t *testing.T) {
	for look, before := range map[string]func(context.Context){
		"nobody":  func(context.Context) {},
		"Done":    func(c context.Context) { c.Done() },
		"Err":     func(c context.Context) { _ = c.Err() },
		"Cause":   func(c context.Context) { _ = context.Cause(c) },
		"a value": func(c context.Context) { c.Value(contextKey{}) },
		"a child": func(c context.Context) { _, stop := context.WithCancel(c); stop() },
		"a child of its": func(c context.Context) {
			_, stop := context.WithTimeout(context.WithValue(c, otherKey{}, 2), time.Hour)
			stop()
		},
	} {
		for end, test := range map[string]struct {
			do    func(c *jobContext, session context.CancelCauseFunc)
			cause error
		}{
			"cancelled":            {func(c *jobContext, _ context.CancelCauseFunc) { c.get().cancel(ErrCancelled) }, ErrCancelled},
			"the session lost":     {func(_ *jobContext, session context.CancelCauseFunc) { session(ErrSessionLost) }, ErrSessionLost},
			"the handler returned": {func(c *jobContext, _ context.CancelCauseFunc) { c.end() }, context.Canceled},
			"lost after cancelled": {func(c *jobContext, session context.CancelCauseFunc) {
				c.get().cancel(ErrCancelled)
				session(ErrSessionLost)
			}, ErrCancelled},
			"cancelled after lost": {func(c *jobContext, session context.CancelCauseFunc) {
				session(ErrSessionLost)
				c.get().cancel(ErrCancelled)
			}, ErrSessionLost},
			"cancelled when over":   {func(c *jobContext, _ context.CancelCauseFunc) { c.end(); c.get().cancel(ErrCancelled) }, context.Canceled},
			"over when cancelled":   {func(c *jobContext, _ context.CancelCauseFunc) { c.get().cancel(ErrCancelled); c.end() }, ErrCancelled},
			"lost after it is over": {func(c *jobContext, session context.CancelCauseFunc) { c.end(); session(ErrSessionLost) }, context.Canceled},
		} {
			t.Run(look+" before, "+end, func(t *testing.T) {
				c, session := newJobContext(t)
				before(c)
				if err := c.Err(); err != nil {
					t.Fatalf("got %v before the end", err)
				}
				select {
				case <-context.WithoutCancel(c).Done():
					t.Fatal("done before the end")
				default:
				}
				test.do(c, session)
				child, stop := context.WithCancel(context.WithValue(c, otherKey{}, 2))
				defer stop()
				for name, ctx := range map[string]context.Context{"it": c, "a child": child} {
					select {
					case <-ctx.Done():
					case <-time.After(patienceInside):
						t.Fatalf("%s is not done", name)
					}
					if err := ctx.Err(); err != context.Canceled {
						t.Errorf("%s: got %v, want %v", name, err, context.Canceled)
					}
					if cause := context.Cause(ctx); cause != test.cause {
						t.Errorf("%s: got the cause %v, want %v", name, cause, test.cause)
					}
					if v := ctx.Value(contextKey{}); v != "the session's" {
						t.Errorf("%s: got the value %v, want the session's", name, v)
					}
				}
			})
		}
	}
}

// patienceInside is how long a test waits for what must happen.
const patienceInside = 60 * time.Second

func TestAChildMadeBeforeTheEndEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newJobContext(t)
		child, stop := context.WithTimeoutCause(c, time.Hour, errors.New("its own"))
		defer stop()
		ended := make(chan struct{})
		context.AfterFunc(c, func() { close(ended) })
		c.get().cancel(ErrCancelled)
		<-child.Done()
		<-ended
		if cause := context.Cause(child); cause != ErrCancelled {
			t.Errorf("the child ended by %v, want %v", cause, ErrCancelled)
		}
	})
}

func TestAllWhoLookAtOnceAtAJobsContextSeeTheSameEnd(t *testing.T) {
	for range 500 {
		c, _ := newJobContext(t)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { <-c.Done() })
		}
		all.Go(func() { c.get().cancel(ErrCancelled) })
		all.Wait()
		if cause := context.Cause(c); cause != ErrCancelled {
			t.Fatalf("got the cause %v, want %v", cause, ErrCancelled)
		}
		c, _ = newJobContext(t)
		for range 4 {
			all.Go(func() { <-c.Done() })
		}
		all.Go(c.end)
		all.Wait()
	}
}
