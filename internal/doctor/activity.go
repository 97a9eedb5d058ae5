// What goes on: what holds vacuum back, what vacuum has left, and the dispatchers.

package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// holder is who keeps dead rows from being vacuumed.
type holder struct {
	Kind string // session, replication slot, standby, prepared transaction
	Name string
	Age  *float64 // in seconds; nil: a slot has none
	XIDs int64    // transactions that came after
	What string   // its state
}

func xmin(ctx context.Context, p *patient) (Finding, error) {
	// The oldest first. Not by catalog_xmin of a slot, which holds back the system's tables only. Another database's
	// sessions do not hold back this one's tables.
	rows, err := p.conn.Query(ctx, `
		select kind, name, age, xids, what
		from (
		  select 'session' as kind, format('%s (%s, %s)', pid, usename, application_name) as name,
		         extract(epoch from clock_timestamp() - xact_start)::float8 as age,
		         age(coalesce(backend_xmin, backend_xid))::bigint as xids, coalesce(state, '') as what
		  from pg_stat_activity
		  where coalesce(backend_xmin, backend_xid) is not null and datname = current_database() and pid <> pg_backend_pid()
		    and backend_type = 'client backend'
		  union all
		  select 'replication slot', slot_name, null, age(xmin)::bigint, case when active then 'active' else 'inactive' end
		  from pg_replication_slots
		  where xmin is not null
		  union all
		  select 'standby', format('%s (%s)', pid, application_name), null, age(backend_xmin)::bigint, coalesce(state, '')
		  from pg_stat_replication
		  where backend_xmin is not null
		  union all
		  select 'prepared transaction', gid, extract(epoch from clock_timestamp() - prepared)::float8, age(transaction)::bigint, 'prepared'
		  from pg_prepared_xacts
		  where database = current_database()
		) h
		order by xids desc, age desc nulls last
		limit 5`)
	if err != nil {
		return Finding{}, err
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[holder])
	if err != nil {
		return Finding{}, err
	}
	return judgeXmin(holders, p.OldTransaction, p.OldXIDs), nil
}

var releases = map[string]string{
	"session":              "end its transaction: select pg_terminate_backend(...); and set idle_in_transaction_session_timeout for such roles",
	"replication slot":     "let its standby catch up, or select pg_drop_replication_slot(...)",
	"standby":              "end its long queries, or switch hot_standby_feedback off there",
	"prepared transaction": "commit prepared or rollback prepared it",
}

func judgeXmin(holders []holder, old time.Duration, oldXIDs int64) Finding {
	for _, h := range holders {
		age, text := time.Duration(0), ""
		if h.Age != nil {
			age = time.Duration(*h.Age * float64(time.Second))
			text = fmt.Sprintf(" for %v", age.Round(time.Second))
		}
		if age >= old || h.XIDs >= oldXIDs {
			return warning(releases[h.Kind], "%s %s, %s, holds vacuum back%s and %d transactions: claims step over all that was done since", h.Kind, h.Name, h.What, text, h.XIDs)
		}
	}
	return ok("nothing holds vacuum back for long")
}

// vacuumed is what is known of a table's dead rows.
type vacuumed struct {
	Table      string
	Live, Dead int64
	Since      *float64 // its last vacuum, in seconds; nil: never
}

func deadRows(ctx context.Context, p *patient) (Finding, error) {
	rows, err := p.conn.Query(ctx, `
		select relid::regclass::text, n_live_tup, n_dead_tup,
		       extract(epoch from clock_timestamp() - greatest(last_vacuum, last_autovacuum))::float8
		from pg_stat_all_tables
		where relid = any (array[to_regclass($1)::oid, to_regclass($2)::oid])
		order by n_dead_tup desc`, p.jobs.Table(), p.function("ledger"))
	if err != nil {
		return Finding{}, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[vacuumed])
	if err != nil {
		return Finding{}, err
	}
	return judgeDeadRows(tables, p.DeadRows, p.Vacuumed), nil
}

func judgeDeadRows(tables []vacuumed, limit int64, fresh time.Duration) Finding {
	var lines []string
	for _, t := range tables {
		when, recent := "never vacuumed", false
		if t.Since != nil {
			ago := time.Duration(*t.Since * float64(time.Second))
			when, recent = fmt.Sprintf("vacuumed %v ago", ago.Round(time.Second)), ago < fresh
		}
		text := fmt.Sprintf("%s has %d dead rows beside %d live ones, %s", t.Table, t.Dead, t.Live, when)
		if t.Dead > limit && !recent {
			return warning("vacuum "+t.Table+"; if that does not help, see xmin; if it comes back, raise autovacuum_max_workers or lower autovacuum_naptime", "%s", text)
		}
		lines = append(lines, text)
	}
	return ok("%s", strings.Join(lines, "; "))
}

func notifications(ctx context.Context, p *patient) (Finding, error) {
	var usage float64
	if err := p.conn.QueryRow(ctx, `select pg_notification_queue_usage()`).Scan(&usage); err != nil {
		return Finding{}, err
	}
	return judgeNotifications(usage, p.NotifyUsage), nil
}

func judgeNotifications(usage, limit float64) Finding {
	text := fmt.Sprintf("the server's queue of notifications is %.3g %% full", usage*100)
	const remedy = "end the oldest transaction of a session that listens (any database of the server): it is the one that has not read them"
	switch {
	case usage > 0.5:
		return problem(remedy, "%s: at 100 %% every commit that notifies fails", text)
	case usage > limit:
		return warning(remedy, "%s: a session that listens is in a transaction", text)
	}
	return ok("%s", text)
}

func dispatchers(ctx context.Context, p *patient) (Finding, error) {
	all, err := p.jobs.With(p.conn).Dispatchers(ctx)
	if err != nil {
		return Finding{}, err
	}
	var alive, jobs int
	var pids []int32
	for _, d := range all {
		if d.Alive {
			alive++
			jobs += d.Jobs
			pids = append(pids, int32(d.PID))
		}
	}
	if alive == 0 {
		var waiting bool
		err := p.conn.QueryRow(ctx, `
			select exists (select from `+p.jobs.Table()+` where schedule_at is null and dequeued_at is null)`).Scan(&waiting)
		if err == nil && waiting {
			return warning("start one: 'pq-dispatch run' or 'pq-dispatch work', or dispatcher.Run in your program", "none is connected, and jobs wait"), nil
		}
		return ok("none is connected, and no job waits"), err
	}
	// A lock session runs single statements: one in a transaction holds vacuum back and, if it waits, its jobs.
	rows, err := p.conn.Query(ctx, `
		select format('%s (%s) is %s for %s s', pid, application_name, state, extract(epoch from clock_timestamp() - coalesce(xact_start, state_change))::int)
		from pg_stat_activity
		where pid = any ($1) and (state like 'idle in transaction%' or xact_start < clock_timestamp() - make_interval(secs => $2))`,
		pids, p.OldTransaction.Seconds())
	if err != nil {
		return Finding{}, err
	}
	stuck, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return Finding{}, err
	case len(stuck) > 0:
		return problem("restart that process, and report it", "a dispatcher's lock session hangs: %s", strings.Join(stuck, "; ")), nil
	}
	return ok("%d connected, with %d jobs in hand", alive, jobs), nil
}

func ledger(ctx context.Context, p *patient) (Finding, error) {
	all, err := p.jobs.With(p.conn).Dispatchers(ctx)
	if err != nil {
		return Finding{}, err
	}
	return judgeLedger(all), nil
}

func judgeLedger(all []store.Dispatcher) Finding {
	var alive, dead, jobs int
	for _, d := range all {
		if d.Alive {
			alive++
		} else {
			dead++
			jobs += d.Jobs
		}
	}
	switch {
	case dead == 0:
		return ok("no dead dispatcher has left claims")
	case alive == 0:
		return warning("start a dispatcher: it counts their attempts and runs them again", "claims of dead dispatchers are left: %d jobs of %d", jobs, dead)
	}
	return warning("look again in 10 s; if they are still there, look into the log of a dispatcher that lives",
		"claims of dead dispatchers are left: %d jobs of %d, which the others should have seen to", jobs, dead)
}
