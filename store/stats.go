package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Counts are the jobs of a queue by state. Each job is in one of them.
type Counts struct {
	Queue     string
	Ready     int           // due, and not running
	Scheduled int           // due later
	Running   int           // claimed by a dispatcher that lives
	SetAside  int           // out of attempts, or refused
	Taken     int           // dequeued by a consumer of Python's pq
	Oldest    time.Duration // how long the one that waits longest has been due
}

// Counts counts the jobs of every queue that has any, by name. It reads the whole table.
func (s *Store) Counts(ctx context.Context) ([]Counts, error) {
	return s.counts(ctx, nil)
}

// Counts counts the jobs of this queue.
func (q *Queue) Counts(ctx context.Context) (Counts, error) {
	if q.err != nil {
		return Counts{}, q.err
	}
	counts, err := q.store.counts(ctx, &q.name)
	if err != nil || len(counts) == 0 {
		return Counts{Queue: q.name}, err
	}
	return counts[0], nil
}

func (s *Store) counts(ctx context.Context, queue *string) ([]Counts, error) {
	if s.err != nil {
		return nil, s.err
	}
	rows, err := s.db.Query(ctx, `
		with running as (
		  select distinct e.id
		  from `+s.names.Qualify("ledger")+` l, pg_catalog.unnest(l.ids) e(id)
		  where exists (
		    select from pg_locks k
		    where k.locktype = 'advisory' and k.objsubid = 2
		      and k.database = (select oid from pg_database where datname = current_database())
		      and k.classid = `+s.function("lock_class")+`()::oid
		      and k.objid = `+s.function("lock_key")+`(e.id)::oid)
		)
		select q.q_name,
		       count(*) filter (where q.dequeued_at is null and r.id is null and coalesce(q.schedule_at <= now(), true)),
		       count(*) filter (where q.dequeued_at is null and r.id is null and q.schedule_at > now()),
		       count(*) filter (where q.dequeued_at is null and r.id is not null),
		       count(*) filter (where q.set_aside),
		       count(*) filter (where q.dequeued_at is not null and not q.set_aside),
		       coalesce(extract(epoch from now() - min(greatest(q.enqueued_at, q.schedule_at))
		         filter (where q.dequeued_at is null and r.id is null and coalesce(q.schedule_at <= now(), true))), 0)::float8
		from `+s.Table()+` q
		left join running r on r.id = q.id
		where $1::text is null or q.q_name = $1
		group by q.q_name
		order by q.q_name`, queue)
	if err != nil {
		return nil, fmt.Errorf("store: count jobs: %w", explain(err))
	}
	counts, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (c Counts, err error) {
		var oldest float64
		err = r.Scan(&c.Queue, &c.Ready, &c.Scheduled, &c.Running, &c.SetAside, &c.Taken, &oldest)
		c.Oldest = time.Duration(oldest * float64(time.Second))
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: count jobs: %w", explain(err))
	}
	return counts, nil
}
