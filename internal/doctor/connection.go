// The way to the server, and the server itself.

package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// minVersion is the oldest major version of PostgreSQL that the migrations run on.
const minVersion = 15

// pooled tells whether someone stands between: a pooler makes up the process id of its answer.
func pooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var pid uint32
	err := conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid)
	return pid != conn.PgConn().PID(), err
}

func connection(ctx context.Context, p *patient) (Finding, error) {
	const direct = "give dispatchers a direct address of the server: --direct-url, $PQ_DISPATCH_DIRECT_URL or store.Options.Connect"
	if p.direct == nil {
		return problem(direct, "the direct connection fails: %v", p.directErr), nil
	}
	applications, err := pooled(ctx, p.conn)
	if err != nil {
		return Finding{}, err
	}
	dispatchers, err := pooled(ctx, p.direct)
	switch {
	case err != nil:
		return Finding{}, err
	case dispatchers:
		return problem(direct, "the direct connection goes through a pooler: a dispatcher's locks and LISTEN need a session of their own"), nil
	case !applications:
		return ok("direct, to the server"), nil
	case p.mode == pgx.QueryExecModeCacheStatement:
		return warning("add default_query_exec_mode=exec to the address, unless the pooler keeps prepared statements (max_prepared_statements of PgBouncer)",
			"through a pooler, for which prepared statements may not exist; dispatchers' sessions are direct"), nil
	}
	return ok("through a pooler; dispatchers' sessions are direct"), nil
}

func server(ctx context.Context, p *patient) (Finding, error) {
	var number int
	var version string
	var standby bool
	err := p.conn.QueryRow(ctx, `
		select current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery()`).Scan(&number, &version, &standby)
	if err != nil {
		return Finding{}, err
	}
	return judgeServer(number/10000, version, standby), nil
}

func judgeServer(major int, version string, standby bool) Finding {
	switch {
	case major < minVersion:
		return problem(fmt.Sprintf("upgrade to PostgreSQL %d or later", minVersion), "PostgreSQL %s is too old", version)
	case standby:
		return problem("connect to the primary (target_session_attrs=read-write)", "the server is a standby, which takes no locks and no jobs")
	}
	return ok("PostgreSQL %s", version)
}

// clockSamples are taken to tell the offset of two clocks: most of the time that one takes is that of the network.
const clockSamples = 9

func clock(ctx context.Context, p *patient) (Finding, error) {
	offsets := make([]time.Duration, clockSamples)
	for i := range offsets {
		var there time.Time
		before := p.now()
		if err := p.conn.QueryRow(ctx, `select clock_timestamp()`).Scan(&there); err != nil {
			return Finding{}, err
		}
		after := p.now()
		offsets[i] = there.Sub(before) - after.Sub(before)/2
	}
	slices.Sort(offsets)
	offset := offsets[clockSamples/2].Round(time.Millisecond)
	if offset.Abs() > p.ClockOffset {
		return warning("synchronise both clocks (NTP)", "the server's clock is %v %s this machine's: times that programs give jobs mean another moment there, which is the one that counts",
			offset.Abs(), map[bool]string{true: "ahead of", false: "behind"}[offset > 0]), nil
	}
	return ok("the server's clock is within %v of this machine's", max(offset.Abs(), time.Millisecond)), nil
}
