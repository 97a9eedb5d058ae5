// Package doctor examines the database that a queue lives in: whether dispatchers can work there, what slows them
// down, and what will go wrong one day. [Examine] runs the checks; each returns one [Finding] with its remedy. They
// read only, in short statements of one session, and one more that goes the way that dispatchers go.
//
//	connection.go  the way to the server, and the server itself
//	settings.go    what is set there
//	schema.go      the tables and what belongs to them, and what the role may do
//	activity.go    what goes on
package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // works, but slower or with less to spare than it should, or not known
	Problem Level = "problem" // does not work, or will stop to
)

// Finding is what a check has found.
type Finding struct {
	Check  string
	Level  Level
	Text   string
	Remedy string // empty: there is nothing to be done
}

// Options of Examine. The zero value is for use; all but the first are limits, for the tests to be set low.
type Options struct {
	// Names are those of the queue table, as those of the store.
	Names sql.Names
	// Dispatchers and Concurrency are what is planned: so many processes that run so many jobs at once each. 0: not
	// known, then the dispatchers that there are count.
	Dispatchers, Concurrency int

	OldTransaction time.Duration    // holds vacuum back for too long; 0: 5 min
	OldXIDs        int64            // the same, by transactions that came after; 0: 10 million
	DeadRows       int64            // that a table should not have, unless it was just vacuumed; 0: 50 000
	Vacuumed       time.Duration    // how long ago is just; 0: 10 min. Negative: never
	NotifyUsage    float64          // of the server's notification queue, from 0 to 1; 0: 0.1
	ClockOffset    time.Duration    // 0: 1 s
	Headroom       int              // connections that should be left; 0: 10
	now            func() time.Time // nil: time.Now
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&o.OldTransaction, 5*time.Minute)
	set(&o.Vacuumed, 10*time.Minute)
	set(&o.ClockOffset, time.Second)
	if o.OldXIDs == 0 {
		o.OldXIDs = 10_000_000
	}
	if o.DeadRows == 0 {
		o.DeadRows = 50_000
	}
	if o.NotifyUsage == 0 {
		o.NotifyUsage = 0.1
	}
	if o.Headroom == 0 {
		o.Headroom = 10
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

// patient is what the checks look at. They run one after another.
type patient struct {
	Options
	jobs      *store.Store
	mode      pgx.QueryExecMode // that of the pool's connections
	conn      *pgx.Conn         // as the application connects, through a pooler perhaps
	direct    *pgx.Conn         // as a dispatcher's sessions connect; nil: that failed
	directErr error             // why
}

// check is one question. An error is one of the database: the question has no answer.
type check struct {
	name string
	ask  func(ctx context.Context, p *patient) (Finding, error)
}

// checks are all of them, in the order in which a person wants to read them.
var checks = []check{
	{"connection", connection},
	{"server", server},
	{"privileges", privileges},
	{"monitoring", monitoring},
	{"schema", schema},
	{"objects", objects},
	{"indexes", indexes},
	{"trigger", trigger},
	{"locks", locks},
	{"connections", connections},
	{"timeouts", timeouts},
	{"keepalives", keepalives},
	{"durability", durability},
	{"autovacuum", autovacuum},
	{"dead rows", deadRows},
	{"xmin", xmin},
	{"notifications", notifications},
	{"clock", clock},
	{"dispatchers", dispatchers},
	{"ledger", ledger},
}

// Examine runs all checks, or up to a schema that is missing. What the role may not look at is a warning. The error is
// that of a database that cannot be reached, or was lost.
func Examine(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, o Options) ([]Finding, error) {
	config := pool.Config().ConnConfig.Copy()
	mode := config.DefaultQueryExecMode
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // works with any pooler
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("doctor: connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	p := &patient{Options: o.withDefaults(), jobs: jobs.With(conn), mode: mode, conn: conn}
	if p.direct, p.directErr = jobs.Connect(ctx); p.direct != nil {
		defer p.direct.Close(context.WithoutCancel(ctx))
	}
	var findings []Finding
	for _, c := range checks {
		f, err := p.run(ctx, c)
		if conn.IsClosed() {
			return findings, fmt.Errorf("doctor: check %s: %w", c.name, err)
		}
		findings = append(findings, f)
		if c.name == "schema" && f.Level == Problem {
			break // the others are about what is not there
		}
	}
	return findings, nil
}

// checkTime bounds one check.
const checkTime = 15 * time.Second

// run asks, and makes a finding of an error too.
func (p *patient) run(ctx context.Context, c check) (Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	f, err := c.ask(ctx, p)
	if pgErr, is := errors.AsType[*pgconn.PgError](err); is && pgErr.Code == "42501" { // insufficient_privilege
		f = warning("run doctor as a role that may, or grant it select on the queue's tables", "this role may not look: %s", pgErr.Message)
	} else if err != nil {
		f = problem("look into the server's log", "the database gives no answer: %v", err)
	}
	f.Check = c.name
	return f, err
}

func ok(format string, args ...any) Finding {
	return Finding{Level: OK, Text: fmt.Sprintf(format, args...)}
}

func warning(remedy, format string, args ...any) Finding {
	return Finding{Level: Warning, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

func problem(remedy, format string, args ...any) Finding {
	return Finding{Level: Problem, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Worst is the level of the worst finding.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		if f.Level == Problem || worst == OK {
			worst = f.Level
		}
	}
	return worst
}

// function is the qualified name of one of those in the schema beside the table.
func (p *patient) function(name string) string { return p.Names.Qualify(name) }
