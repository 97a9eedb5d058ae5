// Jobs that a fault puts itself, beside those of the producers.

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// putter puts the jobs of an injection, and writes that down as a producer does. It is for one goroutine.
type putter struct {
	scene *scene.Scene
	jobs  *store.Store
	token int64 // the last one given
}

// newPutter has tokens that are above those of all producers, and other ones than an earlier injection's.
func newPutter(s *scene.Scene) *putter {
	return &putter{scene: s, jobs: store.New(s.Admin, store.Options{}), token: 1<<62 + s.Rand.Int64N(1<<40)<<16}
}

// put puts jobs into a queue, in one transaction, and sets their tokens.
func (p *putter) put(ctx context.Context, queue string, loads []load, after time.Duration, options ...store.PutOption) error {
	first := p.token + 1
	for i := range loads {
		p.token++
		loads[i].Token = p.token
		p.scene.Journal.Write(journal.Event{Kind: journal.PutBegin, Token: p.token, Attempt: 1, Due: int64(after), Text: loads[i].Kind})
	}
	if after > 0 {
		options = append(options, store.ScheduleAt(after))
	}
	_, err := store.PutMany(ctx, p.jobs.Queue(queue), func(yield func(load) bool) {
		for _, l := range loads {
			if !yield(l) {
				return
			}
		}
	}, options...)
	p.tell(first, len(loads), err)
	return err
}

// putSlowly puts a job in a transaction that stays open for a while.
func (p *putter) putSlowly(ctx context.Context, queue string, hold time.Duration) error {
	p.token++
	p.scene.Journal.Write(journal.Event{Kind: journal.PutBegin, Token: p.token, Attempt: 1, Text: plain})
	err := pgx.BeginFunc(ctx, p.scene.Admin, func(tx pgx.Tx) error {
		if _, err := p.jobs.Queue(queue).With(tx).Put(ctx, load{Token: p.token, Kind: plain}); err != nil {
			return errors.Join(errNotCommitted, err)
		}
		return p.scene.Wait(ctx, hold)
	})
	p.tell(p.token, 1, err)
	return err
}

// tell writes down what came of a put.
func (p *putter) tell(first int64, n int, err error) {
	done := journal.Event{Kind: journal.PutOK, Token: first, Attempt: n}
	if err != nil {
		done.Kind, done.Text = certainty(err), err.Error()
	}
	p.scene.Journal.Write(done)
}

// await waits until a query, whose answer is a number, gives 0.
func (p *putter) await(ctx context.Context, patience time.Duration, what, query string, args ...any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v", patience))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := p.scene.Admin.QueryRow(ctx, query, args...).Scan(&n)
		if err == nil && n == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s, of which there are %d: %w", what, n, context.Cause(ctx))
		}
	}
}
