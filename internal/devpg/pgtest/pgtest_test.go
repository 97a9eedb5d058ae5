package pgtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
)

func TestMain(m *testing.M) { Main(m) }

// recorder is a test that notes its errors and runs its cleanups when told to.
type recorder struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Error(args ...any) { r.errors = append(r.errors, args[0].(error).Error()) }

func (r *recorder) Errorf(format string, args ...any) {
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			r.errors = append(r.errors, text)
		} else {
			r.errors = append(r.errors, format)
		}
	}
}

func (r *recorder) end() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, name string) (exists bool) {
	t.Helper()
	err := connect(t, sharedServer(t).URL("")).QueryRow(t.Context(), "select exists (select from pg_database where datname = $1)", name).Scan(&exists)
	if err != nil {
		t.Fatal(err)
	}
	return exists
}

func TestEachTestHasADatabaseOfItsOwnThatIsDropped(t *testing.T) {
	r := &recorder{TB: t}
	one, two := connect(t, Database(r)), connect(t, Database(r))
	exec(t, one, "create table apples ()")
	exec(t, two, "create table apples ()")
	name := one.Config().Database
	if !exists(t, name) {
		t.Errorf("database %s is not there", name)
	}
	one.Close(t.Context())
	two.Close(t.Context())
	r.end()
	if len(r.errors) != 0 {
		t.Errorf("got errors %q, want none", r.errors)
	}
	if exists(t, name) {
		t.Errorf("database %s outlived its test", name)
	}
}

func TestTemplateIsSetUpOnceAndCopied(t *testing.T) {
	var setups atomic.Int32
	template := Template{Setup: func(ctx context.Context, url string) error {
		setups.Add(1)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "create table apples as select 7 as n")
		return errors.Join(err, conn.Close(ctx))
	}}
	t.Run("copies", func(t *testing.T) {
		for range 4 {
			t.Run("in parallel", func(t *testing.T) {
				t.Parallel()
				conn := connect(t, template.Database(t))
				var n int
				if err := conn.QueryRow(t.Context(), "update apples set n = n + 1 returning n").Scan(&n); err != nil || n != 8 {
					t.Errorf("got %d, %v, want 8", n, err)
				}
			})
		}
	})
	if got := setups.Load(); got != 1 {
		t.Errorf("got %d setups, want 1", got)
	}
}

func TestLeftAdvisoryLockAndConnectionFailTheTest(t *testing.T) {
	for _, c := range []struct{ name, statement, want string }{
		{"two-int lock", "select pg_advisory_lock(3, 7)", "advisory lock (3, 7), two-int form, ExclusiveLock"},
		{"bigint lock, shared", "select pg_advisory_lock_shared(7)", "advisory lock (0, 7), bigint form, ShareLock"},
		{"connection", "set application_name = 'forgotten'", `application "forgotten", idle`},
	} {
		r := &recorder{TB: t}
		conn := connect(t, database(r, "", 50*time.Millisecond))
		exec(t, conn, c.statement)
		r.end()
		if !strings.Contains(strings.Join(r.errors, "\n"), c.want) {
			t.Errorf("%s: got errors %q, want one with %q", c.name, r.errors, c.want)
		}
		if exists(t, conn.Config().Database) {
			t.Errorf("%s: the database outlived its test", c.name)
		}
	}
}

func TestConnectionThatIsStillClosingIsWaitedFor(t *testing.T) {
	r := &recorder{TB: t}
	conn := connect(t, Database(r))
	exec(t, conn, "select pg_advisory_lock(3, 7)")
	ended := make(chan struct{})
	go func() { r.end(); close(ended) }()
	conn.Close(t.Context()) // before, while or after it looks for the first time
	<-ended
	if len(r.errors) != 0 {
		t.Errorf("got errors %q, want none", r.errors)
	}
}

func TestOwnServerIsAnotherOne(t *testing.T) {
	t.Setenv(devpg.EnvURL, "postgres://127.0.0.1:1/nowhere") // of no matter for an own server
	server := Server(t, devpg.Options{Settings: map[string]string{"max_connections": "17"}})
	var got string
	if err := connect(t, server.URL("")).QueryRow(t.Context(), "show max_connections").Scan(&got); err != nil || got != "17" {
		t.Errorf("got max_connections %s, %v, want 17", got, err)
	}
	if err := server.Restart(t.Context(), devpg.Immediate); err != nil {
		t.Error(err)
	}
}

func TestGoroutinesPassesOverTheServersOwn(t *testing.T) {
	sharedServer(t)
	Server(t, devpg.Options{})
	if err := goleak.Find(); err == nil {
		t.Error("goleak does not see the servers' goroutines, this test shows nothing")
	}
	if err := goleak.Find(Goroutines()); err != nil {
		t.Error(err)
	}
}
