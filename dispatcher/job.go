package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// Job is a job while it is being handled.
type Job struct {
	*store.Job

	// Lateness is the time from the moment the job was due until its handler started.
	Lateness time.Duration

	jobs      *store.Store
	completed atomic.Bool // CompleteTx was called
}

// CompleteTx completes the job in the handler's own transaction, so that its effect and its
// completion are committed together or not at all. The handler must commit before it returns nil;
// if it then turns out not to have done so, the run has failed.
//
// An error that matches store.ErrGone means that the claim was lost, and the job may have been run
// by someone else: roll back.
func (j *Job) CompleteTx(ctx context.Context, tx pgx.Tx) error {
	if err := j.jobs.CompleteTx(ctx, tx, j.Run()); err != nil {
		return err
	}
	j.completed.Store(true)
	return nil
}

// Snooze, returned by a handler, puts the job off: it runs again after d, as the same attempt.
func Snooze(d time.Duration) error { return &snooze{max(d, 0)} }

type snooze struct{ d time.Duration }

func (s *snooze) Error() string { return fmt.Sprintf("snoozed for %v", s.d) }

// Discard, returned by a handler, deletes the job though it is not done: it has become pointless.
// The reason is logged. (An error marked by retry.Permanent sets it aside instead, to be looked at.)
func Discard(reason string) error { return &discard{reason} }

type discard struct{ reason string }

func (d *discard) Error() string { return "discarded: " + d.reason }

// Causes of the end of a handler's context, for context.Cause. A handler may return an error that matches ErrStopping as soon
// as Run's context has ended: the job is handed back then, too, and its attempt is not counted.
var (
	ErrStopping    = errors.New("dispatcher: stopping, and the grace is over")
	ErrSessionLost = errors.New("dispatcher: the lock session broke, and with it the claim")
	ErrCancelled   = errors.New("dispatcher: the job was cancelled")
	ErrTimeout     = errors.New("dispatcher: the job's timeout has passed")
)
