// What is set at the server, for the database and for the role.

package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// tightRoom is how few jobs in hand a dispatcher may be left with, before that is worth a word.
const tightRoom = 100

func locks(ctx context.Context, p *patient) (Finding, error) {
	var t lockTable
	err := p.conn.QueryRow(ctx, `
		select current_setting('max_locks_per_transaction')::int,
		       current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int,
		       count(*) filter (where not fastpath),
		       count(*) filter (where locktype = 'advisory' and classid = $1::bigint::oid and objsubid = 2)
		from pg_locks`, int64(sql.BeaconClass)).Scan(&t.perTransaction, &t.transactions, &t.held, &t.dispatchers)
	if err != nil {
		return Finding{}, err
	}
	return judgeLocks(t, p.Dispatchers, p.Concurrency), nil
}

// lockTable is the one of the server: its size, as the product of two numbers; how many locks are held; and how many
// dispatchers there are, of all its databases.
type lockTable struct{ perTransaction, transactions, held, dispatchers int }

func judgeLocks(t lockTable, planned, concurrency int) Finding {
	const remedy = "raise max_locks_per_transaction and restart the server"
	capacity := t.perTransaction * t.transactions
	dispatchers := max(1, t.dispatchers, planned)
	share := capacity / 2 / dispatchers
	are := map[bool]string{true: "is", false: "are"}[dispatchers == 1]
	room := fmt.Sprintf("the server's lock table has room for %d: %d jobs in hand for a dispatcher, if there %s %d", capacity, share, are, dispatchers)
	switch {
	case t.held > capacity*9/10:
		return problem(remedy, "%d locks are held, and %s: when it is full every session of the server fails", t.held, room)
	case concurrency > share:
		wanted := (2*dispatchers*concurrency + t.transactions - 1) / t.transactions
		return problem(fmt.Sprintf("set max_locks_per_transaction to %d and restart the server", wanted), "%s, which is less than the %d that each is to run at once", room, concurrency)
	case t.held > capacity*3/4:
		return warning(remedy, "%d locks are held, and %s", t.held, room)
	case share < tightRoom:
		return warning(remedy, "%s", room)
	}
	return ok("%s; %d locks are held now", room, t.held)
}

func connections(ctx context.Context, p *patient) (Finding, error) {
	// In 16 and later some are reserved for a role, too. A limit of -1 is none.
	var usable, used, roleLimit, roleUsed, databaseLimit, databaseUsed int
	err := p.conn.QueryRow(ctx, `
		select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
		         - coalesce(current_setting('reserved_connections', true)::int, 0),
		       count(*), max(r.rolconnlimit), count(*) filter (where a.usesysid = r.oid),
		       max(d.datconnlimit), count(*) filter (where a.datid = d.oid)
		from pg_stat_activity a
		cross join (select oid, rolconnlimit from pg_roles where rolname = current_user) r
		cross join (select oid, datconnlimit from pg_database where datname = current_database()) d
		where a.backend_type = 'client backend'`).Scan(&usable, &used, &roleLimit, &roleUsed, &databaseLimit, &databaseUsed)
	if err != nil {
		return Finding{}, err
	}
	left, of, name := usable-used, usable, "max_connections"
	if free := roleLimit - roleUsed; roleLimit >= 0 && free < left {
		left, of, name = free, roleLimit, "the role's connection limit"
	}
	if free := databaseLimit - databaseUsed; databaseLimit >= 0 && free < left {
		left, of, name = free, databaseLimit, "the database's connection limit"
	}
	return judgeConnections(left, of, name, p.Headroom), nil
}

// dispatcherSessions are those that a dispatcher needs beside its pool, and one of the pool.
const dispatcherSessions = 4

func judgeConnections(left, of int, name string, headroom int) Finding {
	text := fmt.Sprintf("%d of %d connections are left (%s)", max(0, left), of, name)
	remedy := "raise " + name + ", or make pools smaller"
	switch {
	case left < dispatcherSessions:
		return problem(remedy, "%s: a dispatcher needs three beside its pool", text)
	case left < headroom:
		return warning(remedy, "%s", text)
	}
	return ok("%s", text)
}

// setting reads one as this session has it: from the role, the database or the server. Empty: it is not known to this server.
func setting(ctx context.Context, conn *pgx.Conn, name string) (value string, err error) {
	err = conn.QueryRow(ctx, `select coalesce(current_setting($1, true), '')`, name).Scan(&value)
	return value, err
}

// duration reads a setting that is a time.
func duration(ctx context.Context, conn *pgx.Conn, name string) (d time.Duration, err error) {
	var milliseconds float64
	err = conn.QueryRow(ctx, `
		select coalesce(max(extract(epoch from (setting || unit)::interval) * 1000), 0)::float8 from pg_settings where name = $1`, name).Scan(&milliseconds)
	return time.Duration(milliseconds * float64(time.Millisecond)), err
}

// The times that settings must leave: the longest that a session of ours is silent or waits (store and notify say
// why), and what is enough for a statement of the pool.
const (
	longestSilence  = 20 * time.Second
	longestWait     = 30 * time.Second
	enoughStatement = 5 * time.Second
)

func timeouts(ctx context.Context, p *patient) (Finding, error) {
	if p.direct == nil {
		return warning("mend the direct connection", "not known without the direct connection"), nil
	}
	values := map[string]time.Duration{}
	for name := range timeoutLimits {
		var err error
		if values[name], err = duration(ctx, p.direct, name); err != nil {
			return Finding{}, err
		}
	}
	return judgeTimeouts(values), nil
}

// timeoutLimits say which value is too short, and what for. The lock session overrides its own.
var timeoutLimits = map[string]struct {
	least time.Duration
	what  string
}{
	"idle_session_timeout":                {longestSilence, "ends the session that listens"},
	"statement_timeout":                   {longestWait, "ends the wait for a peer's death, and outcomes under load"},
	"transaction_timeout":                 {longestWait, "ends the wait for a peer's death"},
	"idle_in_transaction_session_timeout": {enoughStatement, "ends a Get, or a handler's transaction, in the middle"},
	"lock_timeout":                        {time.Second, "makes outcomes fail that wait for a row"},
}

func judgeTimeouts(values map[string]time.Duration) Finding {
	var short, all []string
	for _, name := range sorted(timeoutLimits) {
		limit := timeoutLimits[name]
		if value := values[name]; value > 0 {
			all = append(all, fmt.Sprintf("%s %v", name, value))
			if value < limit.least {
				short = append(short, fmt.Sprintf("%s is %v, which %s", name, value, limit.what))
			}
		}
	}
	switch {
	case len(short) > 0:
		return warning("alter role ... set these to 0, or to more than 30s", "%s", strings.Join(short, "; "))
	case len(all) > 0:
		return ok("%s: long enough", strings.Join(all, ", "))
	}
	return ok("none is set")
}

func keepalives(ctx context.Context, p *patient) (Finding, error) {
	if p.direct == nil {
		return warning("mend the direct connection", "not known without the direct connection"), nil
	}
	// As the lock session does. What then is shown is what the operating system has taken.
	if _, err := p.direct.PgConn().Exec(ctx, `set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; set tcp_user_timeout = 20000`).ReadAll(); err != nil {
		return Finding{}, err
	}
	var local bool
	var k keepalive
	err := p.direct.QueryRow(ctx, `
		select inet_client_addr() is null,
		       max(setting::int) filter (where name = 'tcp_keepalives_idle'), max(setting::int) filter (where name = 'tcp_keepalives_interval'),
		       max(setting::int) filter (where name = 'tcp_keepalives_count'), max(setting::int) filter (where name = 'tcp_user_timeout')
		from pg_settings`).Scan(&local, &k.idle, &k.interval, &k.count, &k.userTimeout)
	if err != nil {
		return Finding{}, err
	}
	return judgeKeepalives(local, k), nil
}

// keepalive is what holds for a connection: seconds, seconds, a number, milliseconds.
type keepalive struct{ idle, interval, count, userTimeout int }

func judgeKeepalives(local bool, k keepalive) Finding {
	const remedy = "run the server where TCP keepalives can be set for a connection, or shorten those of its operating system"
	switch {
	case local:
		return ok("a local socket needs none")
	case k.idle == 0 || k.interval == 0 || k.count == 0:
		return warning(remedy, "the server cannot set TCP keepalives: the jobs of a host that vanishes stay claimed until the operating system notices, perhaps for hours")
	case k.userTimeout == 0:
		return warning(remedy, "the server cannot set tcp_user_timeout: a host that vanishes while the server sends to it is noticed after a quarter of an hour")
	}
	return ok("the server notices a host that has vanished within %d s", k.idle+k.interval*k.count)
}

func durability(ctx context.Context, p *patient) (Finding, error) {
	values := map[string]string{}
	for _, name := range []string{"synchronous_commit", "fsync", "full_page_writes"} {
		var err error
		if values[name], err = setting(ctx, p.conn, name); err != nil {
			return Finding{}, err
		}
	}
	return judgeDurability(values["synchronous_commit"], values["fsync"], values["full_page_writes"]), nil
}

func judgeDurability(commit, fsync, pages string) Finding {
	switch {
	case fsync == "off" || pages == "off":
		return warning("set fsync and full_page_writes to on", "fsync is %s, full_page_writes %s: a crash of the server's machine can destroy the database", fsync, pages)
	case commit == "off":
		return warning("set synchronous_commit to on for this role, or accept it", "synchronous_commit is off: a crash of the server can take the last jobs put with it, and have the last ones done run again")
	}
	return ok("synchronous_commit is %s", commit)
}

func autovacuum(ctx context.Context, p *patient) (Finding, error) {
	var vacuum, counts, activities, tables bool
	err := p.conn.QueryRow(ctx, `
		select current_setting('autovacuum')::bool, current_setting('track_counts')::bool, current_setting('track_activities')::bool,
		       not exists (
		         select from pg_class c, pg_catalog.unnest(c.reloptions) o(text)
		         where c.oid = any (array[to_regclass($1)::oid, to_regclass($2)::oid]) and o.text in ('autovacuum_enabled=false', 'autovacuum_enabled=off'))`,
		p.jobs.Table(), p.function("ledger")).Scan(&vacuum, &counts, &activities, &tables)
	if err != nil {
		return Finding{}, err
	}
	switch {
	case !vacuum || !counts:
		return problem("set autovacuum and track_counts to on", "autovacuum does not run (autovacuum %s, track_counts %s): claims step over every job ever done", onOff(vacuum), onOff(counts)), nil
	case !tables:
		return problem("alter table "+p.jobs.Table()+" reset (autovacuum_enabled), and that of "+p.function("ledger"), "autovacuum is switched off for the queue's tables: claims step over every job ever done"), nil
	case !activities:
		return warning("set track_activities to on", "track_activities is off: who holds vacuum back, or a job, cannot be seen"), nil
	}
	return ok("it runs, for the queue's tables too"), nil
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
