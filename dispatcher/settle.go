package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// These bound one write: a connection that has died without a word must not hold up all. The first attempt has less
// time, and when it is over, the pool's other connections are taken for as dead; a server that is slow gets more from then on.
const (
	settleFirst   = 3 * time.Second
	settleTimeout = 30 * time.Second
)

// settle writes the outcomes of a batch of runs, and tries until the database has taken them: a
// done job whose completion is lost would run again. It runs on a goroutine of its own, one batch
// at a time; the next one is what has come meanwhile. It leaves out those whose rows someone has
// locked, unless it is there for such a one, to wait for it. It returns an error only when ctx ends;
// then what is not written is run again.
func (d *Dispatcher) settle(ctx context.Context, batch []*claim, wait bool) (written, blocked []*claim, err error) {
	delays := retry.Reconnect()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for attempt := 1; ; attempt++ {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		err := d.write(ctx, batch, attempt > 1)
		if err == nil {
			return append(written, batch...), blocked, nil
		}
		if errors.Is(err, store.ErrRowLocked) && !wait {
			var rest []*claim
			for _, c := range batch {
				switch err := d.write(ctx, []*claim{c}, true); {
				case err == nil:
					written = append(written, c)
				case errors.Is(err, store.ErrRowLocked):
					blocked = append(blocked, c)
				default:
					rest = append(rest, c)
				}
			}
			if batch = rest; len(batch) == 0 {
				return written, blocked, nil
			}
		} else if attempt == 1 && !wait {
			d.log.Warn("cannot write outcomes; trying again until it works", "jobs", len(batch), "error", err)
		}
		timer.Reset(delays.NextBackOff())
	}
}

// write sends the outcomes in one round trip, a statement for each kind, and of what is done for each attempt and session. Each is safe to repeat: it concerns an
// attempt, and changes nothing once that is over.
func (d *Dispatcher) write(ctx context.Context, batch []*claim, repeated bool) error {
	limit := settleFirst
	if repeated {
		limit = settleTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if ctx.Err() == context.DeadlineExceeded {
			d.jobs.Renew()
		}
	}()
	var completed, checked []store.Run
	var returned []store.Return
	var forgone []*claim
	for _, c := range batch {
		switch c.outcome.kind {
		case done, discarded:
			completed = append(completed, c.job.Run())
		case completedTx:
			checked = append(checked, c.job.Run())
		case retried, snoozed, setAside:
			if c.forgone() {
				forgone = append(forgone, c)
				continue
			}
			returned = append(returned, c.outcome.back)
		case handedBack, claimLost:
		}
	}
	if len(checked) > 0 {
		failed, err := d.rolledBack(ctx, batch, checked)
		if err != nil {
			return err
		}
		returned = append(returned, failed...)
	}
	accepted, err := d.jobs.Settle(ctx, completed, returned)
	if err != nil {
		return err
	}
	if len(forgone) > 0 {
		d.log.Warn("jobs that had not been done are run again, as the same attempt: their claims were lost", "jobs", summary(forgone))
	}
	if refused := len(completed) + len(returned) - accepted; refused > 0 && !repeated {
		// A repeated write may find its own work done: then this tells nothing.
		telemetry.Refused(ctx, refused)
		d.log.Warn("outcomes refused: these jobs were finished, changed or removed by someone else meanwhile",
			"refused", refused, "of", summary(batch))
	}
	return nil
}

// forgone tells whether the outcome of a job that is not done is not to be written: once the claim is lost, another may
// have begun the same attempt, which must not be taken from it. A cancel is the operator's will, whoever runs the job.
func (c *claim) forgone() bool {
	return c.session.lost.Load() && context.Cause(&c.ctx) != ErrCancelled
}

// rolledBack finds the jobs whose handler called CompleteTx and returned nil, but did not commit.
// Their run has failed.
func (d *Dispatcher) rolledBack(ctx context.Context, batch []*claim, checked []store.Run) ([]store.Return, error) {
	ids, err := d.jobs.Uncompleted(ctx, checked)
	if err != nil {
		return nil, err
	}
	var failed []store.Return
	for _, c := range batch {
		if c.outcome.kind == completedTx && slices.Contains(ids, c.job.ID) && !c.forgone() {
			failed = append(failed, c.failed(errNotCommitted).back)
		}
	}
	return failed, nil
}

// summary names the jobs of a batch for the log, not too many.
func summary(batch []*claim) string {
	const most = 10
	var names []string
	for _, c := range batch[:min(len(batch), most)] {
		names = append(names, fmt.Sprintf("%s/%d", c.queue.name, c.job.ID))
	}
	if len(batch) > most {
		names = append(names, fmt.Sprintf("and %d more", len(batch)-most))
	}
	return strings.Join(names, ", ")
}
