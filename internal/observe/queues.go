// What operators alert on: how much waits in the queues and for how long, and whether this dispatcher
// can hear of it.

package observe

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// maxCounted bounds one look at a queue: so many of its jobs are counted in each state.
	maxCounted = 10_000

	// A look is good for freshTime, and for idleShare times what it took, so that looking costs the
	// database a hundredth of its time at most, however often someone asks and however slow it is.
	freshTime = 10 * time.Second
	idleShare = 100

	// lookTime bounds a look, so that Prometheus gets its answer while the database does not.
	lookTime = 2 * time.Second
)

// transactor begins a transaction: a pool.
type transactor interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// backlog looks at the queues when someone asks, and remembers for a while what it saw. While no one asks it
// costs nothing.
type backlog struct {
	db     transactor
	jobs   *store.Store
	queues func() []string

	mu    sync.Mutex // held during a look: who asks meanwhile waits for it
	until time.Time  // when the last look is no longer good
	seen  glance
	err   error
}

// glance is what one look has seen.
type glance struct {
	queues []store.Overview
	usage  float64 // of the server's notification queue, 0 to 1
}

// look returns what there is to see, or what was seen a moment ago.
func (b *backlog) look(ctx context.Context) (glance, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	if start.Before(b.until) {
		return b.seen, b.err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	b.seen, b.err = b.ask(ctx, slices.Compact(slices.Sorted(slices.Values(b.queues()))))
	if b.err != nil {
		b.err = fmt.Errorf("observe: look at the queues: %w", b.err)
	}
	took := time.Since(start)
	b.until = time.Now().Add(max(freshTime, idleShare*took))
	return b.seen, b.err
}

// ask reads in a transaction of its own, which keeps the time limit to itself, also behind a pooler.
func (b *backlog) ask(ctx context.Context, names []string) (seen glance, err error) {
	queues := make([]*store.Queue, len(names))
	for i, name := range names {
		queues[i] = b.jobs.Plain(name)
	}
	err = pgx.BeginTxFunc(ctx, b.db, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `select set_config('statement_timeout', $1, true), pg_notification_queue_usage()`,
			strconv.FormatInt(lookTime.Milliseconds(), 10)).Scan(nil, &seen.usage)
		if err != nil || len(queues) == 0 {
			return err
		}
		seen.queues, err = b.jobs.With(tx).Overviews(ctx, maxCounted, queues...)
		return err
	})
	return seen, err
}

// ObserveQueues adds gauges of the queues that the function names, which may change: jobs that are ready, the
// age of the oldest, jobs set aside, and how full the server's notification queue is. The database is
// asked when someone asks for the metrics, and not again for some seconds. While it cannot be asked,
// pq_dispatch_database_up is 0 and the others are missing.
func (t *Telemetry) ObserveQueues(db transactor, jobs *store.Store, queues func() []string) error {
	b := &backlog{db: db, jobs: jobs, queues: queues}
	// Like those of the library, these fail only for malformed names.
	up, _ := t.meter.Int64ObservableGauge("pq_dispatch.database.up",
		metric.WithDescription("Whether the last look at the queues succeeded."))
	usage, _ := t.meter.Float64ObservableGauge("pq_dispatch.notification_queue.usage",
		metric.WithUnit("1"), metric.WithDescription("How full the server's queue of notifications is."))
	ready, _ := t.meter.Int64ObservableGauge("pq_dispatch.queue.ready",
		metric.WithUnit("{job}"), metric.WithDescription(fmt.Sprintf("Jobs that are due and not running, counted up to %d.", maxCounted)))
	oldest, _ := t.meter.Float64ObservableGauge("pq_dispatch.queue.oldest",
		metric.WithUnit("s"), metric.WithDescription("How long the ready job that waits longest has been due; 0 if there is none."))
	aside, _ := t.meter.Int64ObservableGauge("pq_dispatch.queue.set_aside",
		metric.WithUnit("{job}"), metric.WithDescription(fmt.Sprintf("Jobs out of attempts or refused, among the last %d taken out.", maxCounted)))
	_, err := t.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		seen, err := b.look(ctx)
		if err != nil {
			o.ObserveInt64(up, 0)
			return err
		}
		o.ObserveInt64(up, 1)
		o.ObserveFloat64(usage, seen.usage)
		for _, q := range seen.queues {
			name := metric.WithAttributes(attribute.String("messaging.destination.name", q.Queue))
			o.ObserveInt64(ready, int64(q.Ready), name)
			o.ObserveFloat64(oldest, q.Oldest.Seconds(), name)
			o.ObserveInt64(aside, int64(q.SetAside), name)
		}
		return nil
	}, up, usage, ready, oldest, aside)
	return wrap("add the queues to", err)
}

// stateTime is how long a dispatcher's loop may take to answer before it counts as down.
const stateTime = time.Second

// ObserveDispatcher adds gauges of whether a dispatcher's two sessions are up. The function asks its loop.
func (t *Telemetry) ObserveDispatcher(state func(ctx context.Context) (dispatcher.State, error)) error {
	up, _ := t.meter.Int64ObservableGauge("pq_dispatch.session.up",
		metric.WithDescription("Whether the dispatcher has the session that listens, and the one that holds its locks."))
	session := attribute.Key("pq_dispatch.session")
	_, err := t.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, stateTime)
		defer cancel()
		now, err := state(ctx)
		o.ObserveInt64(up, number(now.Listening && err == nil), metric.WithAttributes(session.String("listen")))
		o.ObserveInt64(up, number(now.Holding && err == nil), metric.WithAttributes(session.String("locks")))
		return nil // what is down is said
	}, up)
	return wrap("add the dispatcher to", err)
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
