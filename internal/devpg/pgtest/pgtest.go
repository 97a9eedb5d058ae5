// Package pgtest gives each test a PostgreSQL database of its own, and looks after it that nothing was
// left behind in it. It is apart from devpg so that a program that starts a server does not link testing.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	var schema = pgtest.Template{Setup: func(ctx context.Context, url string) error { ... }}
//
//	func TestPut(t *testing.T) {
//		pool, err := pgxpool.New(t.Context(), schema.Database(t))
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/download"
)

const (
	// grace is how long connections may take to close after the test closed them: the server
	// learns of it a little later, and has to get at the processor for it.
	grace = 30 * time.Second
	// bound is for what a cleanup does with the server; the test's context has ended by then.
	bound = 2 * grace
)

// shared is the one server of the test binary. It starts when the first test needs it.
var shared struct {
	mu     sync.Mutex
	inMain bool // Main will close it
	server *devpg.Server
	err    error // why it did not start; it is not tried again
}

// Main runs the tests, stops the shared server and exits.
func Main(m *testing.M) {
	shared.inMain = true
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func sharedServer(t testing.TB) *devpg.Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.inMain {
		t.Fatal("pgtest: the package has to say: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = devpg.Start(context.Background(), devpg.Options{Download: download.PostgreSQL})
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// Server starts a server of the test's own, to be restarted, copied or set up otherwise. It is closed
// at the end of the test.
func Server(t testing.TB, o devpg.Options) *devpg.Server {
	t.Helper()
	o.Own = true
	if o.Download == nil {
		o.Download = download.PostgreSQL
	}
	server, err := devpg.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Goroutines is for goleak: it passes over the goroutine that belongs to each running server.
func Goroutines() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/pq-dispatch/pq-dispatch/internal/devpg.(*process).run")
}

// NoGoroutineIsLeft waits for the end of those that end by themselves, so often, about half a second each time: where a
// statement was cut off, pgx asks the server to cancel it, on a connection of its own, for up to 15 s.
func NoGoroutineIsLeft(t testing.TB, tries int, options ...goleak.Option) {
	t.Helper()
	var err error
	for range tries {
		if err = goleak.Find(options...); err == nil {
			return
		}
	}
	t.Error(err)
}

// Database returns the URL of an empty database of the test's own on the shared server. At the end of the test it is
// dropped; the test fails if a connection to it is still open then, or an advisory lock in it held, 30 s
// after the test's later cleanups have run.
func Database(t testing.TB) string {
	t.Helper()
	return database(t, "", grace)
}

// Template is a database that is set up once and then copied for each test that asks. Make it a
// variable of the package, and do not copy it.
type Template struct {
	// Setup makes the database at url what the tests start from, and closes its connections.
	Setup func(ctx context.Context, url string) error

	mu   sync.Mutex
	name string // once set up
}

// Database is like the function Database, for a copy of the template.
func (tmpl *Template) Database(t testing.TB) string {
	t.Helper()
	return database(t, tmpl.prepare(t), grace)
}

// prepare sets the template up, unless that is done, and returns its name.
func (tmpl *Template) prepare(t testing.TB) string {
	t.Helper()
	server := sharedServer(t)
	tmpl.mu.Lock()
	defer tmpl.mu.Unlock()
	if tmpl.name != "" {
		return tmpl.name
	}
	name := newName("template")
	if err := server.CreateDatabase(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	if err := tmpl.Setup(t.Context(), server.URL(name)); err != nil {
		t.Fatalf("pgtest: set up the template: %v", err) // the database goes with the server
	}
	tmpl.name = name
	return name
}

// newName is unlike those of other processes, which may share a server.
func newName(kind string) string {
	return "pq_dispatch_" + kind + "_" + strings.ToLower(rand.Text()[:12])
}

func database(t testing.TB, template string, grace time.Duration) string {
	t.Helper()
	server, name := sharedServer(t), newName("test")
	if err := server.CreateDatabase(t.Context(), name, template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		left, err := leftovers(ctx, server, name, grace)
		if err != nil {
			t.Errorf("pgtest: look for what the test left behind: %v", err)
		}
		for _, what := range left {
			t.Errorf("pgtest: left behind by the test: %s", what)
		}
		if err := server.DropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return server.URL(name)
}

// leftovers lists what is still there after the grace.
func leftovers(ctx context.Context, server *devpg.Server, name string, grace time.Duration) ([]string, error) {
	conn, err := pgx.Connect(ctx, server.URL("")) // to another database: it does not count itself
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := conn.Query(ctx, `
			select format('advisory lock (%s, %s), %s form, %s, held by pid %s',
			              classid, objid, case objsubid when 1 then 'bigint' else 'two-int' end, mode, coalesce(pid::text, '- (a prepared transaction)'))
			from pg_locks
			where locktype = 'advisory' and granted
			  and database = (select oid from pg_database where datname = $1)
			union all
			select format('connection of pid %s, application "%s", %s, last statement: %s',
			              pid, application_name, state, left(query, 200))
			from pg_stat_activity
			where datname = $1 and backend_type = 'client backend'`, name)
		if err != nil {
			return nil, err
		}
		left, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(left) == 0 {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return left, nil
		}
	}
}
