// The frame of every benchmark: a schema to work in, a table to fill, and what is read of the server.

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// queueName is the queue that jobs are put into.
	queueName = "bench"
	tableName = scratch.Table
)

// benchSettings make the throw-away server what an installed one is by default.
var benchSettings = map[string]string{
	"fsync":              "on",
	"synchronous_commit": "on",
	"shared_buffers":     "128MB",
}

// The settings that a result depends on; the first ones stand above the table, too.
var (
	shownSettings    = []string{"fsync", "synchronous_commit", "shared_buffers"}
	recordedSettings = append([]string{
		"wal_level", "full_page_writes", "max_wal_size", "checkpoint_timeout", "max_connections",
		"max_locks_per_transaction", "autovacuum", "jit", "commit_delay", "wal_sync_method",
	}, shownSettings...)
)

// harness is what a benchmark has to work with.
type harness struct {
	options Options
	scale   Scale
	round   int // of scale.Rounds, from 0
	report  *Report
	show    *progress

	started int // dispatcher processes, of all fleets

	scratch *scratch.Scratch
	log     *statementLog
	server  *devpg.Server // nil: the database was given
	url     string
	schema  string
	pool    *pgxpool.Pool
	jobs    *store.Store
	queue   *store.Queue
}

func open(ctx context.Context, b Bench, o Options) (_ *harness, err error) {
	scale := o.Scale
	if o.Quick {
		scale = scale.over(b.Quick)
	}
	h := &harness{
		options: o,
		scale:   scale.over(b.Full),
		show:    newProgress(b.Name, o.Stderr),
		log:     newStatementLog(),
	}
	if o.DatabaseURL == "" {
		h.show.step("starting a PostgreSQL")
	}
	set := maps.Clone(benchSettings)
	maps.Copy(set, b.Server)
	log := io.MultiWriter(scratch.Announcements{Writer: o.Stderr}, h.log)
	h.scratch, err = scratch.Open(ctx, scratch.Options{For: "bench", DatabaseURL: o.DatabaseURL, Settings: set, Log: log})
	if err != nil {
		h.show.end()
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	h.server, h.url, h.schema = h.scratch.Server, h.scratch.URL, h.scratch.Schema
	if h.pool, err = h.connect(ctx, 4, ""); err != nil {
		return nil, err
	}
	h.jobs = scratch.Store(h.pool, h.schema)
	h.queue = h.jobs.Queue(queueName)
	if err := h.scratch.Migrate(ctx, h.jobs); err != nil {
		return nil, err
	}
	h.report, err = h.newReport(ctx, b)
	return h, err
}

// connect opens a pool with all its connections. notify is what its sessions say about their puts: "" (the usual), always or off.
func (h *harness) connect(ctx context.Context, connections int32, notify string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(h.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	config.ConnConfig.RuntimeParams["application_name"] = h.schema
	if notify != "" {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `select set_config('pq_dispatch.notify', $1, false)`, notify)
			return err
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err == nil {
		if err = warm(ctx, pool); err != nil {
			pool.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return pool, nil
}

// warm opens all connections of a pool: what that takes is not to be measured.
func warm(ctx context.Context, pool *pgxpool.Pool) error {
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // all of them at the end, else it would be the same one each time
	}
	return nil
}

func (h *harness) newReport(ctx context.Context, b Bench) (*Report, error) {
	r := &Report{
		Bench:       b.Name,
		CommandLine: h.options.CommandLine,
		Versions:    Versions{Go: runtime.Version(), PQDispatch: h.options.Version},
		Settings:    map[string]string{},
		Machine:     Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		Scale:       reportedScale{h.scale.Jobs, h.scale.Duration.Seconds(), h.scale.Rate, h.scale.Rounds, h.server != nil},
		Figures:     newFigures(),
		Floor:       newFigures(),
		Targets:     map[string]Target{},
		OK:          map[string]bool{},
	}
	if err := h.pool.QueryRow(ctx, `show server_version`).Scan(&r.Versions.PostgreSQL); err != nil {
		return nil, err
	}
	rows, err := h.pool.Query(ctx, `
		select name, current_setting(name)
		from pg_settings
		where name = any ($1)`, recordedSettings)
	if err != nil {
		return nil, err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		r.Settings[name] = value
		return nil
	})
	return r, err
}

func (h *harness) close() error {
	h.show.end()
	if h.pool != nil {
		h.pool.Close()
	}
	return h.scratch.Close()
}

// figure and floor add what was measured to the report.
func (h *harness) figure(name string, v float64) { h.report.Figures.add(name, v) }
func (h *harness) floor(name string, v float64)  { h.report.Floor.add(name, v) }

func (h *harness) atLeast(name string, bound float64) {
	h.report.Targets[name] = Target{AtLeast: new(bound)}
}

func (h *harness) atMost(name string, bound float64) {
	h.report.Targets[name] = Target{AtMost: new(bound)}
}

// never is a promise: the figure has to be 0.
func (h *harness) never(name string) {
	h.report.Targets[name] = Target{AtMost: new(0.0), Promise: true}
}

// prepare makes the table as it was in the beginning, with the triggers enabled or disabled, and
// takes the work that is left of before off the next measurement.
func (h *harness) prepare(ctx context.Context, triggers string) error {
	err := h.exec(ctx,
		`truncate `+h.jobs.Table()+`, `+h.support("ledger"),
		`alter table `+h.jobs.Table()+` `+triggers+` trigger user`)
	if err != nil {
		return err
	}
	return h.settle(ctx)
}

// support is the name of something in the schema beside the table.
func (h *harness) support(name string) string {
	return pgx.Identifier{h.jobs.Channel(), name}.Sanitize()
}

// settle has the server do what it would do later.
func (h *harness) settle(ctx context.Context) error {
	if err := h.exec(ctx, `vacuum (analyze) `+h.jobs.Table()); err != nil {
		return err
	}
	_, err := h.pool.Exec(ctx, `checkpoint`) // in a given database we may not be allowed to
	return unlessDenied(err)
}

func (h *harness) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := h.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// fill puts n jobs that do nothing.
func (h *harness) fill(ctx context.Context, n int) error { return h.fillBy(ctx, h.pool, n, "null") }

// fillChunk is how many jobs one statement of fillBy puts: between them it can be stopped.
const fillChunk = 100_000

// fillBy puts n jobs in one transaction, triggers and all, but without the time that it takes to send
// them. due is an SQL expression for their schedule_at.
func (h *harness) fillBy(ctx context.Context, db store.DB, n int, due string) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for done := 0; done < n; done += fillChunk {
			h.show.at("filling", done, n)
			_, err := tx.Exec(ctx, `
				insert into `+h.jobs.Table()+` (q_name, data, schedule_at)
				select $1, '0', `+due+`
				from generate_series($2::int, $3::int) i`, queueName, done, min(n, done+fillChunk)-1)
			if err != nil {
				return fmt.Errorf("fill the queue: %w", err)
			}
		}
		return nil
	})
}

// left is how many jobs are in the table, whatever their state.
func (h *harness) left(ctx context.Context) (n int, err error) {
	err = h.pool.QueryRow(ctx, `select count(*) from `+h.jobs.Table()).Scan(&n)
	return n, err
}

// glance is how often the table is asked whether all is done.
const glance = 2 * time.Millisecond

// drained waits until no job is left that will run. The outcome of a job is written later than the
// job ends, so this is for the moments after the last one.
func (h *harness) drained(ctx context.Context) error {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var drained bool
		err := h.pool.QueryRow(ctx, `
			select not exists (select from `+h.jobs.Table()+` where dequeued_at is null)`).Scan(&drained)
		if err != nil || drained {
			return err
		}
		look.Reset(glance)
	}
}

// progress is a line on a terminal; elsewhere it is nothing.
type progress struct {
	name     string
	to       io.Writer
	terminal bool

	mu    sync.Mutex // of what follows, and of writing
	shown time.Time
}

const progressInterval = 100 * time.Millisecond

func newProgress(name string, to io.Writer) *progress {
	f, ok := to.(*os.File)
	return &progress{name: name, to: to, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// step shows what begins.
func (p *progress) step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(format, args...)
}

// at shows how far a step is, now and then.
func (p *progress) at(step string, done, of int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.shown) >= progressInterval {
		p.write("%s: %d of %d", step, done, of)
	}
}

func (p *progress) write(format string, args ...any) {
	if p.terminal {
		fmt.Fprintf(p.to, "\r\x1b[K%s: %s", p.name, fmt.Sprintf(format, args...))
		p.shown = time.Now()
	}
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
