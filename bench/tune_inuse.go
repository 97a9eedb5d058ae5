// Whether a queue of this project is in use in the database: what a search for settings does there would slow it down,
// and be slowed down by it.

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
)

// ErrInUse is matched by the error of [Tune] about a database in which a queue is in use.
var ErrInUse = errors.New("a queue is in use here")

// watched is for how long a queue without jobs is watched for changes: a session of the server tells what it has
// written once a second.
const watched = 2500 * time.Millisecond

// queueTable is a queue table of this project and the schema beside it.
type queueTable struct{ table, support string }

// refuseInUse returns an error that matches ErrInUse if any queue table of the database has jobs that are not set
// aside, or someone works on it.
func refuseInUse(ctx context.Context, url string) error {
	conn, err := scratch.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tables, err := queueTables(ctx, conn)
	if err != nil || len(tables) == 0 {
		return err
	}
	before := make([]int64, len(tables))
	for i, t := range tables {
		if err := t.refuseBusy(ctx, conn); err != nil {
			return err
		}
		if before[i], err = t.changes(ctx, conn); err != nil {
			return err
		}
	}
	timer := time.NewTimer(watched)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for i, t := range tables {
		after, err := t.changes(ctx, conn)
		if err == nil && after != before[i] {
			err = t.inUse("jobs come and go")
		}
		if err == nil {
			err = t.refuseBusy(ctx, conn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// queueTables finds them by what stands beside each. A table that was dropped by hand is none.
func queueTables(ctx context.Context, conn *pgx.Conn) (tables []queueTable, err error) {
	rows, err := conn.Query(ctx, `
		select quote_ident(n.nspname)
		from pg_namespace n
		where n.nspname like 'pq\_dispatch%'
		  and exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'ledger' and c.relkind = 'r')
		  and exists (
		    select from pg_class c
		    join pg_attribute a on a.attrelid = c.oid and a.attname = 'queue'
		    where c.relnamespace = n.oid and c.relname = 'schema_version' and c.relkind = 'r'
		  )
		order by 1`)
	if err != nil {
		return nil, fmt.Errorf("look for queues in use: %w", err)
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for queues in use: %w", err)
	}
	for _, schema := range schemas {
		var table *string
		err := conn.QueryRow(ctx, `select (select to_regclass(queue)::text from `+schema+`.schema_version order by version desc limit 1)`).Scan(&table)
		if err != nil {
			return nil, unknowable(schema, err)
		}
		if table != nil {
			tables = append(tables, queueTable{*table, schema})
		}
	}
	return tables, nil
}

// refuseBusy looks for who works on the queue, and for jobs.
func (t queueTable) refuseBusy(ctx context.Context, conn *pgx.Conn) error {
	// The classes of all locks about a queue are the oids of its tables: of the ring of dispatchers, of jobs, and of
	// those who wait for jobs or are putting some. One may have chosen a class of one's own for jobs; then they wait, below.
	var dispatchers, others int
	var jobs bool
	err := conn.QueryRow(ctx, `
		select count(*) filter (where classid = to_regclass($2)::oid), count(*) filter (where classid <> to_regclass($2)::oid),
		       exists (select from `+t.table+` where dequeued_at is null)
		from pg_locks
		where locktype = 'advisory' and objsubid = 2
		  and database = (select oid from pg_database where datname = current_database())
		  and classid = any (array[to_regclass($1)::oid, to_regclass($2)::oid, to_regclass($3)::oid])`,
		t.table, t.support+".schema_version", t.support+".ledger").Scan(&dispatchers, &others, &jobs)
	switch {
	case err != nil:
		return unknowable(t.table, err)
	case dispatchers > 0:
		return t.inUse("dispatchers are at work")
	case jobs:
		return t.inUse("jobs are waiting or running")
	case others > 0:
		return t.inUse("jobs are being put, or waited for")
	}
	return nil
}

// changes counts all that was ever written.
func (t queueTable) changes(ctx context.Context, conn *pgx.Conn) (n int64, err error) {
	err = conn.QueryRow(ctx, `
		select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint
		from pg_stat_all_tables
		where relid = to_regclass($1)`, t.table).Scan(&n)
	if err != nil {
		return 0, unknowable(t.table, err)
	}
	return n, nil
}

func (t queueTable) inUse(why string) error {
	return fmt.Errorf("%w: %s of %s; measure in another database of a server like this one, or when nobody works", ErrInUse, why, strings.ReplaceAll(t.table, `"`, ""))
}

// unknowable is an error about a queue that cannot be looked at: it may be in use.
func unknowable(what string, err error) error {
	return fmt.Errorf("%w, as far as can be seen: look at %s: %w; use a role that may read it, or another database", ErrInUse, what, err)
}
