package store

// Queues and dispatchers, as an operator looks at them, and the pausing of queues.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Overview is a queue at a glance.
type Overview struct {
	Counts
	AtLeast []string // the names of the counts, as in JSON, that were not counted to their end
	Paused  *Pause   // nil: it is not
}

// Pause is a queue that gives out no job until a time.
type Pause struct {
	Until  time.Time // zero: until it is resumed
	Reason string
	Since  time.Time
}

// Overviews returns these queues, whether they have a job or not, or without any named all that have a job or are
// paused, by name. It counts each queue's jobs of a state up to countTo, so that its cost is bounded by the number of
// queues; [Store.Counts] counts all. Oldest is that of the first thousand jobs of each kind, which is exact where jobs
// are ready in the order in which they were put.
func (s *Store) Overviews(ctx context.Context, countTo int, queues ...*Queue) ([]Overview, error) {
	if s.err != nil {
		return nil, s.err
	}
	var names []string // nil: all
	for _, q := range queues {
		if q.err != nil {
			return nil, q.err
		}
		names = append(names, q.name)
	}
	rows, err := s.db.Query(ctx, `
		select queue, ready, scheduled, running, set_aside, taken, oldest, at_least, paused_until, reason, paused_at
		from `+s.function("overview")+`($1, $2)`, countTo, names)
	if err != nil {
		return nil, fmt.Errorf("store: look at the queues: %w", explain(err))
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (o Overview, err error) {
		var oldest *float64
		var until, since pgtype.Timestamptz
		var reason *string
		err = r.Scan(&o.Queue, &o.Ready, &o.Scheduled, &o.Running, &o.SetAside, &o.Taken, &oldest, &o.AtLeast, &until, &reason, &since)
		o.Oldest = time.Duration(deref(oldest) * float64(time.Second))
		if until.Valid {
			o.Paused = &Pause{instant(until), deref(reason), instant(since)}
		}
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: look at the queues: %w", explain(err))
	}
	return all, nil
}

// Overview is that of this queue, whether it has a job or not.
func (q *Queue) Overview(ctx context.Context, countTo int) (Overview, error) {
	all, err := q.store.Overviews(ctx, countTo, q)
	if err != nil {
		return Overview{}, err
	}
	return all[0], nil
}

// QueueNames returns the names, in order, of up to limit queues that have a job.
func (s *Store) QueueNames(ctx context.Context, limit int) ([]string, error) {
	if s.err != nil {
		return nil, s.err
	}
	rows, err := s.db.Query(ctx, `
		with recursive queues (name, n) as (
		  select `+s.function("next_queue")+`(''), 1
		  union all
		  select `+s.function("next_queue")+`(name), n + 1
		  from queues
		  where name is not null and n < $1
		)
		select name
		from queues
		where name is not null
		order by n`, limit)
	if err != nil {
		return nil, fmt.Errorf("store: list the queues: %w", explain(err))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("store: list the queues: %w", explain(err))
	}
	return names, nil
}

// PauseOptions say for how long a queue is paused; the zero value means until it is resumed.
type PauseOptions struct {
	Until  time.Time     // by the database's clock; zero: see For
	For    time.Duration // from now; 0: until it is resumed
	Reason string        // for those who look
}

// Pause keeps the queue from giving out jobs to any dispatcher or Get, over restarts of all of them. Puts go on, and
// so do jobs that are claimed already. It returns until when; zero means until it is resumed. A time
// that has passed is [ErrTime], and changes nothing.
func (q *Queue) Pause(ctx context.Context, o PauseOptions) (until time.Time, err error) {
	if q.err != nil {
		return time.Time{}, q.err
	}
	m, reason := moment{}, (*string)(nil)
	switch {
	case !o.Until.IsZero():
		m.at, err = &o.Until, checkTime(o.Until)
	case o.For != 0:
		m.in = &o.For
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("store: pause %s: %w", q.name, err)
	}
	if o.Reason != "" {
		reason = new(storable(o.Reason))
	}
	var end pgtype.Timestamptz
	var paused bool
	err = q.store.db.QueryRow(ctx, `
		select t.until, `+q.store.function("pause")+`($1, t.until, $4)
		from (select coalesce($2::timestamptz, clock_timestamp() + $3::interval, 'infinity')) t(until)`,
		q.name, m.at, m.in, reason).Scan(&end, &paused)
	if err == nil && !paused {
		err = fmt.Errorf("%w: %s has passed", ErrTime, stamp(end.Time))
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("store: pause %s: %w", q.name, explain(err))
	}
	return instant(end), nil
}

// Resume ends the pause, and wakes whoever waits for jobs of the queue. It tells whether the queue was paused.
func (q *Queue) Resume(ctx context.Context) (was bool, err error) {
	if q.err != nil {
		return false, q.err
	}
	if err := q.store.db.QueryRow(ctx, `select `+q.store.function("resume")+`($1)`, q.name).Scan(&was); err != nil {
		return false, fmt.Errorf("store: resume %s: %w", q.name, explain(err))
	}
	return was, nil
}

// Dispatcher is one as the database sees it. What the role may not see of its session is empty.
type Dispatcher struct {
	ID          int32
	Alive       bool          // dead ones are shown as long as the ledger has claims of theirs, until a peer buries them
	PID         int           // of the server process of its lock session; zero: it is dead
	Application string        // application_name of that session
	Address     string        // of its client; empty: a local socket
	Since       time.Time     // when that session began
	Jobs        int           // that it has claimed and holds; of a dead one, those that stand in the ledger
	Batches     int           // in the ledger
	Oldest      time.Duration // since the oldest of these was claimed
}

// Dispatchers returns those that live, by number, and then the dead ones.
func (s *Store) Dispatchers(ctx context.Context) ([]Dispatcher, error) {
	if s.err != nil {
		return nil, s.err
	}
	rows, err := s.db.Query(ctx, `
		select coalesce(d.id, l.dispatcher), d.id is not null, coalesce(d.pid, 0), coalesce(a.application_name, ''),
		       coalesce(host(a.client_addr), ''), a.backend_start,
		       coalesce(case when d.id is null then l.jobs else r.jobs end, 0),
		       coalesce(l.batches, 0), coalesce(extract(epoch from clock_timestamp() - l.oldest), 0)::float8
		from `+s.function("dispatchers")+`() d
		full join (
		  select dispatcher, count(*) as batches, sum(pg_catalog.cardinality(ids)) as jobs, min(claimed_at) as oldest
		  from `+s.names.Qualify("ledger")+`
		  group by dispatcher
		) l on l.dispatcher = d.id
		left join (select pid, count(*) as jobs from `+s.function("running")+`() group by pid) r on r.pid = d.pid
		left join pg_stat_activity a on a.pid = d.pid
		order by d.id is null, 1`)
	if err != nil {
		return nil, fmt.Errorf("store: list the dispatchers: %w", explain(err))
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (d Dispatcher, err error) {
		var since pgtype.Timestamptz
		var oldest float64
		err = r.Scan(&d.ID, &d.Alive, &d.PID, &d.Application, &d.Address, &since, &d.Jobs, &d.Batches, &oldest)
		d.Since, d.Oldest = instant(since), time.Duration(max(0, oldest)*float64(time.Second))
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list the dispatchers: %w", explain(err))
	}
	return all, nil
}
