// Package devpg is a throw-away PostgreSQL for the demo, the tests and the benchmarks.
//
// [Start] takes the first of these that it finds:
//
//  1. the server that PQ_DISPATCH_TEST_DATABASE_URL names: databases are created
//     on it, and dropped at Close; the server itself is left alone;
//  2. binaries installed here: the bin directory in PQ_DISPATCH_PG_BIN (and then no
//     other), else PATH, pg_config, and the places where packages put them;
//  3. binaries downloaded once into the user's cache directory, if Options.Download is given.
//
// A server of our own listens on 127.0.0.1 only, behind a random password, in a
// directory of its own below [os.TempDir], and ends with the process that started it:
// by Close, on Linux also by kill -9. What a killed process leaves in the temporary
// directory is removed by a later Start.
//
// It answers as an installed server would (synchronous_commit is on), with one
// exception: fsync is off, because surviving a power cut is not what a test looks at.
// A benchmark that prints numbers sets fsync to on. Copying a database writes some three hundred files:
// TMPDIR on a memory file system makes tests a few times quicker.
package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The environment variables that Start reads.
const (
	EnvURL = "PQ_DISPATCH_TEST_DATABASE_URL" // a postgres:// URL; its role may create databases
	EnvBin = "PQ_DISPATCH_PG_BIN"            // a directory that holds initdb and postgres
)

// MinVersion is the oldest major version that Start accepts.
const MinVersion = 15

var (
	// ErrNotOurs is returned by what only a server of our own can do, on a server that EnvURL named.
	ErrNotOurs = errors.New("the server named by " + EnvURL + " is not ours to stop or to copy; set Options.Own")
	// ErrNoBaseBackup is returned by Standby where pg_basebackup is not installed.
	ErrNoBaseBackup = errors.New("no pg_basebackup beside postgres; install PostgreSQL's client programs, or point " + EnvBin + " at an installation that has them")
	// ErrClosed is returned by a Server after Close.
	ErrClosed = errors.New("server is closed")
)

// Options of Start. The zero value is a server for tests.
type Options struct {
	// Settings are postgresql.conf values, unquoted ("fsync": "on"), laid over the defaults of
	// this package. The port and the data directory are not up for choice. A server named by
	// EnvURL keeps the settings it has.
	Settings map[string]string
	// Log receives the server log, and a line before a download. Nil: the log is kept in the
	// server's directory only. Either way a failed start quotes its end. A Log that blocks, blocks the server.
	Log io.Writer
	// Own asks for a server of our own even where EnvURL names one: to restart it, to copy it,
	// or for its Settings.
	Own bool
	// Download fills the directory home with a PostgreSQL (bin, lib, share) where none is installed. Nil: that is
	// an error. Package devpg/download has one.
	Download func(ctx context.Context, home string) error
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	base    *url.URL // names the maintenance database
	version int
	own     *cluster // nil: a server that EnvURL named

	mu      sync.Mutex
	created map[string]bool // databases to drop at Close; kept for a server that is not our own
}

// Start finds or starts a server and returns when it accepts connections. The context bounds the
// start, not the life of the server. On error nothing stays behind.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("devpg: start PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	if dsn := os.Getenv(EnvURL); dsn != "" && !o.Own {
		return adopt(ctx, dsn)
	}
	sweep(os.TempDir())
	bin, err := systemPlaces().search(ctx, cacheDir(), o)
	if err != nil {
		return nil, err
	}
	return open(ctx, bin, o.Log, func(c *cluster) error { return c.initdb(ctx, o.Settings) })
}

// adopt uses a server that somebody else runs.
func adopt(ctx context.Context, dsn string) (*Server, error) {
	base, err := url.Parse(dsn)
	if err != nil || base.Scheme != "postgres" && base.Scheme != "postgresql" {
		// The text of err would repeat the DSN, which may hold a password.
		return nil, fmt.Errorf("%s must be a URL such as postgres://user:password@host:5432/postgres", EnvURL)
	}
	query := base.Query()
	if name := query.Get("dbname"); name != "" { // it would win over the path that URL sets
		query.Del("dbname")
		base.Path, base.RawQuery = "/"+name, query.Encode()
	}
	s := &Server{base: base, created: map[string]bool{}}
	if s.version, err = serverVersion(ctx, base.String()); err != nil {
		return nil, fmt.Errorf("%s: %w", EnvURL, err)
	}
	if s.version < MinVersion*10000 {
		return nil, fmt.Errorf("%s: version %d is too old, %d or newer is needed", EnvURL, s.version/10000, MinVersion)
	}
	return s, nil
}

// open makes a cluster whose data directory fill provides, and starts it.
func open(ctx context.Context, bin string, log io.Writer, fill func(*cluster) error) (*Server, error) {
	c, err := newCluster(bin, log)
	if err != nil {
		return nil, err
	}
	if err = fill(c); err == nil {
		err = c.startAnywhere(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return &Server{base: c.url(), version: c.version, own: c}, nil
}

// URL is the address of a database of this server, for pgx and for psql alike. It holds the
// password. An empty name is the maintenance database.
func (s *Server) URL(database string) string {
	u := *s.base
	if database != "" {
		u.Path = "/" + database
	}
	return u.String()
}

// Version is server_version_num: 150018 for 15.18.
func (s *Server) Version() int { return s.version }

// CreateDatabase creates a database as a copy of template; empty is the server's own template.
// A template must have no connections: one that is just closing is waited for, up to 5 s.
func (s *Server) CreateDatabase(ctx context.Context, name, template string) error {
	statement := "create database " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		statement += " template " + pgx.Identifier{template}.Sanitize()
	}
	if err := s.exec(ctx, statement); err != nil {
		return fmt.Errorf("devpg: create database %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created != nil {
		s.created[name] = true
	}
	return nil
}

// DropDatabase drops a database and ends the connections to it. One that does not exist is no error.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	if err := s.exec(ctx, "drop database if exists "+pgx.Identifier{name}.Sanitize()+" with (force)"); err != nil {
		return fmt.Errorf("devpg: drop database %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.created, name)
	return nil
}

// exec runs one statement in the maintenance database, again while another session is in its way.
func (s *Server) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := conn.Exec(ctx, statement)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "55006" { // object_in_use
			return err
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// Stop shuts the server down and keeps its port and data, for Resume. A server that is down
// already is no error. If ctx ends first the shutdown still goes on.
func (s *Server) Stop(ctx context.Context, mode Mode) error {
	return s.control("stop", func(c *cluster) error { return c.stop(ctx, mode) })
}

// Resume starts a stopped, or crashed, server again on the same port and returns when it
// accepts connections.
func (s *Server) Resume(ctx context.Context) error {
	return s.control("resume", func(c *cluster) error { return c.resume(ctx) })
}

// Restart is Stop and Resume.
func (s *Server) Restart(ctx context.Context, mode Mode) error {
	return s.control("restart", func(c *cluster) error {
		if err := c.stop(ctx, mode); err != nil {
			return err
		}
		return c.resume(ctx)
	})
}

func (s *Server) control(verb string, do func(*cluster) error) error {
	err := ErrNotOurs
	if s.own != nil {
		err = s.own.exclusively(do)
	}
	if err != nil {
		return fmt.Errorf("devpg: %s: %w", verb, err)
	}
	return nil
}

// Standby starts a streaming hot standby of s, with the same settings, role and password, on a
// port of its own. The caller closes both, in either order. Errors: ErrNoBaseBackup, ErrNotOurs.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	if s.own == nil {
		return nil, fmt.Errorf("devpg: standby: %w", ErrNotOurs)
	}
	standby, err := open(ctx, s.own.bin, s.own.log, func(c *cluster) error { return c.copyOf(ctx, s.own) })
	if err != nil {
		return nil, fmt.Errorf("devpg: standby: %w", err)
	}
	return standby, nil
}

// Close stops the server (fast; if that takes over 10 s, immediately) and removes its directory.
// A server named by EnvURL stays; the databases created on it are dropped. A second Close does nothing.
func (s *Server) Close() error {
	if s.own != nil {
		if err := s.own.close(); err != nil {
			return fmt.Errorf("devpg: close: %w", err)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.mu.Lock()
	names := make([]string, 0, len(s.created))
	for name := range s.created {
		names = append(names, name)
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, s.DropDatabase(ctx, name))
	}
	return errors.Join(errs...)
}

// serverVersion connects once and asks.
func serverVersion(ctx context.Context, dsn string) (version int, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version)
	return version, err
}
