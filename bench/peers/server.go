// The server that all work on: a database for each run, and what a run has used.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/download"
	"github.com/pq-dispatch/pq-dispatch/internal/proc"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
)

// serverSettings make the throw-away server what an installed one is by default.
var serverSettings = map[string]string{"fsync": "on", "synchronous_commit": "on", "shared_buffers": "128MB", "min_wal_size": "512MB"}

// walSegments is how many there are before anything is measured: half of min_wal_size, as a segment has 16 MB.
const walSegments = 16

// shownSettings are those that a result depends on.
var shownSettings = []string{
	"fsync", "synchronous_commit", "shared_buffers", "wal_level", "full_page_writes", "min_wal_size", "max_wal_size", "checkpoint_timeout",
	"max_connections", "max_locks_per_transaction", "autovacuum", "jit", "commit_delay", "wal_sync_method", "shared_preload_libraries",
}

// ourRole is the role under which the comparison itself asks the server, so that its statements are not counted.
const ourRole = "bench_peers"

// server is a PostgreSQL of our own.
type server struct {
	pg         *devpg.Server
	admin      *pgxpool.Pool // of the maintenance database
	statements bool          // pg_stat_statements is there: queries are counted by it
	databases  atomic.Int64
}

// startServer starts a server, with pg_stat_statements if that is installed.
func startServer(ctx context.Context, log io.Writer) (*server, error) {
	s, err := openServer(ctx, log, true)
	if err != nil && ctx.Err() == nil {
		s, err = openServer(ctx, log, false)
	}
	return s, err
}

func openServer(ctx context.Context, log io.Writer, statements bool) (_ *server, err error) {
	o := devpg.Options{Own: true, Settings: map[string]string{}, Log: scratch.Announcements{Writer: log}, Download: download.PostgreSQL}
	for name, value := range serverSettings {
		o.Settings[name] = value
	}
	if statements {
		o.Settings["shared_preload_libraries"] = "pg_stat_statements"
	}
	s := &server{statements: statements}
	if s.pg, err = devpg.Start(ctx, o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.admin, err = pgxpool.New(ctx, s.pg.URL("")); err != nil {
		return nil, err
	}
	if _, err = s.admin.Exec(ctx, `create role `+ourRole+` superuser`); err == nil && statements {
		_, err = s.admin.Exec(ctx, `create extension pg_stat_statements`)
	}
	if err != nil {
		return nil, fmt.Errorf("set the server up: %w", err)
	}
	return s, nil
}

// age makes segments of the WAL that can be used again, as a server has them that has worked for a while. Where one has to be
// made, nobody can commit until it is on the disk, which took one of them half a second: a p99 would tell of nothing else.
func (s *server) age(ctx context.Context, segments int) error {
	for range segments {
		if _, err := s.admin.Exec(ctx, `select pg_logical_emit_message(false, 'age', ''), pg_switch_wal()`); err != nil {
			return fmt.Errorf("make WAL segments: %w", err)
		}
	}
	if _, err := s.admin.Exec(ctx, `checkpoint`); err != nil {
		return fmt.Errorf("make WAL segments: %w", err)
	}
	return nil
}

func (s *server) close() error {
	if s.admin != nil {
		s.admin.Close()
	}
	return s.pg.Close()
}

// shown are the server's version and the settings that count.
func (s *server) shown(ctx context.Context) (version string, settings map[string]string, err error) {
	if err := s.admin.QueryRow(ctx, `show server_version`).Scan(&version); err != nil {
		return "", nil, err
	}
	rows, err := s.admin.Query(ctx, `
		select name, current_setting(name)
		from pg_settings
		where name = any ($1)`, shownSettings)
	if err != nil {
		return "", nil, err
	}
	settings = map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	settings["queries counted by"] = "nothing: pg_stat_statements is not installed"
	if s.statements {
		settings["queries counted by"] = "pg_stat_statements: top-level statements, BEGIN and COMMIT included"
	}
	return version, settings, err
}

// database is one run's: a copy of a template, or for the template itself an empty one.
type database struct {
	name, url string
	s         *server
	conn      *pgx.Conn // by which the comparison looks at it
}

func (s *server) create(ctx context.Context, template string) (*database, error) {
	d := &database{name: fmt.Sprintf("bench_%d", s.databases.Add(1)), s: s}
	d.url = s.pg.URL(d.name)
	if err := s.pg.CreateDatabase(ctx, d.name, template); err != nil {
		return nil, err
	}
	return d, nil
}

// look opens the connection that looks at the database.
func (d *database) look(ctx context.Context) (err error) {
	d.conn, err = d.snapshot(ctx)
	return err
}

// snapshot opens a connection whose statements are not counted.
func (d *database) snapshot(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `set role `+ourRole+`; set statement_timeout = '20s'`); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// drop removes the database with all that is connected to it. That makes the server write a checkpoint, too, so that
// none of what a run has left behind is written in the midst of the next one.
func (d *database) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if d.conn != nil {
		_ = d.conn.Close(ctx)
	}
	return d.s.pg.DropDatabase(ctx, d.name)
}

// usage is what has been used so far.
type usage struct {
	wal     float64 // bytes, of the server
	cpu     float64 // seconds, of all of its processes; NaN: cannot be told here
	queries float64 // of the database; NaN: they are not counted
}

func (d *database) usage(ctx context.Context) (u usage, err error) {
	var pid int
	// Without it they are not counted: sessions tell the other statistics, of transactions, a second later or ten.
	query := `'NaN'::float8`
	// A check of a foreign key that is deferred to the commit counts there as a statement, but is no query of anybody's.
	if d.s.statements {
		query = `(select coalesce(sum(calls), 0)::float8
		          from pg_stat_statements
		          where dbid = d.oid and userid <> '` + ourRole + `'::regrole
		            and query not like 'SELECT % FROM ONLY "% x WHERE % FOR KEY SHARE OF x')`
	}
	err = d.s.admin.QueryRow(ctx, `
		select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_backend_pid(), `+query+`
		from pg_database d
		where datname = $1`, d.name).Scan(&u.wal, &pid, &u.queries)
	if err != nil {
		return u, fmt.Errorf("read what the server has used: %w", err)
	}
	u.cpu = proc.ServerCPU(pid)
	return u, nil
}
