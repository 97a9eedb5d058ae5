package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Forever is the timeout of a [Queue.Get] that waits until its context ends.
const Forever = time.Duration(-1)

// recheck bounds how long a Get can miss a job whose notification was lost or switched off. It
// also keeps the timers short: those of Go stand still while the machine is suspended.
const recheck = 10 * time.Second

// Get takes the next due job out of the queue and returns it.
//
// On a pool or a connection the job is gone for good then: a crash of the caller loses it. On a
// transaction (see [Queue.With]) it is gone if and only if the transaction commits; until then no
// one else gets it.
//
// When no job is due, Get waits for one up to timeout, and then returns nil and no error. A timeout
// of 0 does not wait; [Forever] sets none. While it waits it holds one connection for all Gets of
// the store, which listens, and runs no query: it is woken when a job is put or becomes due.
func (q *Queue) Get(ctx context.Context, timeout time.Duration) (*Job, error) {
	if q.err != nil {
		return nil, q.err
	}
	job, err := q.pop(ctx)
	if job != nil || err != nil || timeout == 0 {
		return job, err
	}
	// The timeout must not end a query, only the wait: a query that is cut off takes the caller's
	// transaction with it.
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	wake, leave := q.store.waiters.join(q.name)
	defer leave()
	due := time.NewTimer(recheck)
	defer due.Stop()
	for last := false; ; {
		// The next due time first: asked for after the look, a job that became due in between would be
		// in neither.
		next, err := q.nextDue(ctx)
		if err != nil {
			return nil, err
		}
		if job, err := q.pop(ctx); job != nil || err != nil || last {
			return job, err
		}
		due.Reset(next)
		select {
		case <-wake:
		case <-due.C:
		case <-expired:
			last = true
		case <-ctx.Done():
			return nil, fmt.Errorf("store: get from %s: %w", q.name, context.Cause(ctx))
		}
	}
}

// pop returns nil when no job is due.
func (q *Queue) pop(ctx context.Context) (*Job, error) {
	rows, err := q.store.db.Query(ctx, `select `+jobColumns+` from `+q.store.function("get")+`($1)`, q.name)
	if err == nil {
		var jobs []*Job
		if jobs, err = q.collect(rows); err == nil {
			if len(jobs) == 0 {
				return nil, nil
			}
			return jobs[0], nil
		}
	}
	return nil, q.getError(ctx, err)
}

// getError says why the context ended, if that is what ended a query.
func (q *Queue) getError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("store: get from %s: %w", q.name, explain(err))
}

// nextDue is how long to wait for a scheduled job, at most recheck.
func (q *Queue) nextDue(ctx context.Context) (time.Duration, error) {
	var seconds *float64
	err := q.store.db.QueryRow(ctx,
		`select extract(epoch from `+q.store.function("next_due")+`($1))::float8`, q.name).Scan(&seconds)
	if err != nil {
		return 0, q.getError(ctx, err)
	}
	return delay(seconds, recheck), nil
}

// delay reads the database's answer in seconds, null meaning never.
func delay(seconds *float64, limit time.Duration) time.Duration {
	if seconds == nil || *seconds > limit.Seconds() {
		return limit
	}
	return max(0, time.Duration(*seconds*float64(time.Second)))
}

// Jobs gets job after job, as [Queue.Get] does, and ends when none came within timeout. An error
// is yielded once, with a nil job, and ends it too.
//
//	for job, err := range apples.Jobs(ctx, time.Second) {
func (q *Queue) Jobs(ctx context.Context, timeout time.Duration) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		for {
			job, err := q.Get(ctx, timeout)
			if job == nil && err == nil {
				return
			}
			if !yield(job, err) || err != nil {
				return
			}
		}
	}
}
