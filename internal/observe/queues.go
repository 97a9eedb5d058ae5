// What operators alert on: how much waits in the queues and for how long, and whether this dispatcher
// can hear of it.

package observe

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// maxCounted bounds one look at a queue: so many of its jobs are counted of each kind that has an
	// index of its own, and of those set aside.
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
	queues []depth
	usage  float64 // of the server's notification queue, 0 to 1
}

// depth is a queue as it stands.
type depth struct {
	Name     string
	Ready    int64   // due, and not running anywhere; counted up to a bound
	Oldest   float64 // seconds that the one of them that waits longest has been due; 0: there is none
	SetAside int64   // counted up to a bound
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

// settings are those of one look.
var settings = []string{
	"enable_seqscan = off", "enable_bitmapscan = off", "enable_sort = off", "jit = off",
	fmt.Sprintf("statement_timeout = %d", lookTime.Milliseconds()),
}

// ask reads in a transaction of its own, for which the plan is pinned: without statistics, as after a table
// was loaded, the planner would read it whole. A transaction also keeps the settings to itself behind a
// pooler.
func (b *backlog) ask(ctx context.Context, queues []string) (seen glance, err error) {
	err = pgx.BeginTxFunc(ctx, b.db, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var batch pgx.Batch
		for _, setting := range settings {
			batch.Queue("set local " + setting)
		}
		batch.Queue(`select pg_notification_queue_usage()`).QueryRow(func(row pgx.Row) error { return row.Scan(&seen.usage) })
		batch.Queue(b.query(), queues, maxCounted).Query(func(rows pgx.Rows) (err error) {
			seen.queues, err = pgx.CollectRows(rows, pgx.RowToStructByPos[depth])
			return err
		})
		return tx.SendBatch(ctx, &batch).Close()
	})
	return seen, err
}

// query reads at most so many entries of each index, from the end where the oldest stand. What runs is known
// by its lock, whoever runs it. (An id has the same key as the one 2^32 before it: a miscount by one.)
//
// Of what was taken out it looks at the newest, since what Python's pq has taken stays there for ever.
func (b *backlog) query() string {
	function := func(name string) string { return pgx.Identifier{b.jobs.Channel(), name}.Sanitize() }
	return `
		with running as materialized (
		  select objid
		  from pg_locks
		  where locktype = 'advisory' and objsubid = 2 and granted and mode = 'ExclusiveLock'
		    and database = (select oid from pg_database where datname = current_database())
		    and classid = ` + function("lock_class") + `()::oid
		)
		select w.name, ready.n, ready.oldest, aside.n
		from pg_catalog.unnest($1::text[]) w(name)
		cross join lateral (
		  select count(*) n, coalesce(extract(epoch from now() - min(due.since)), 0)::float8 oldest
		  from (
		    ( select id, enqueued_at since
		      from ` + b.jobs.Table() + `
		      where q_name = w.name and dequeued_at is null and schedule_at is null and expected_at is null
		      order by expected_at, id
		      limit $2
		    ) union all (
		      select id, enqueued_at
		      from ` + b.jobs.Table() + `
		      where q_name = w.name and dequeued_at is null and schedule_at is null and expected_at is not null
		      order by expected_at, id
		      limit $2
		    ) union all (
		      select id, greatest(enqueued_at, schedule_at)
		      from ` + b.jobs.Table() + `
		      where q_name = w.name and dequeued_at is null and schedule_at <= now()
		      order by schedule_at
		      limit $2
		    )
		  ) due
		  where not exists (select from running r where r.objid = ` + function("lock_key") + `(due.id)::oid)
		) ready
		cross join lateral (
		  select count(*) filter (where taken.set_aside) n
		  from (
		    select set_aside
		    from ` + b.jobs.Table() + `
		    where q_name = w.name and dequeued_at is not null
		    order by id desc
		    limit $2
		  ) taken
		) aside`
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
		metric.WithUnit("{job}"), metric.WithDescription(fmt.Sprintf("Jobs that are due and not running, counted up to %d of a kind.", maxCounted)))
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
			name := metric.WithAttributes(attribute.String("messaging.destination.name", q.Name))
			o.ObserveInt64(ready, q.Ready, name)
			o.ObserveFloat64(oldest, q.Oldest, name)
			o.ObserveInt64(aside, q.SetAside, name)
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
