//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
)

// own starts a server of our own, closed at the end of the test.
func own(t *testing.T, o Options) *Server {
	t.Helper()
	o.Own = true
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// common is the server of all the tests that only look at one; TestMain closes it.
var common *Server

func anyServer(t *testing.T) *Server {
	t.Helper()
	if common == nil {
		s, err := Start(context.Background(), Options{Own: true})
		if err != nil {
			t.Fatal(err)
		}
		common = s
	}
	return common
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

// ask returns what a query of one value answers.
func ask[T any](t *testing.T, url, query string) (value T) {
	t.Helper()
	conn := connect(t, url)
	if err := conn.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	return value
}

func mustExec(t *testing.T, url, statement string) {
	t.Helper()
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
}

func TestClosedServerLeavesNoProcessNoDirectoryAndNoGoroutine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := own(t, Options{})
	if got := ask[int](t, s.URL(""), "select current_setting('server_version_num')::int"); got != s.Version() || got < MinVersion*10000 {
		t.Errorf("got server_version_num %d and Version() %d, want the same, at least %d", got, s.Version(), MinVersion*10000)
	}
	pid := s.own.postmaster.cmd.Process.Pid
	if gone(pid) {
		t.Fatalf("process %d of a running server counts as gone", pid)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !gone(pid) {
		t.Errorf("postmaster %d is still there", pid)
	}
	if _, err := os.Stat(s.own.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s: got error %v, want %v", s.own.dir, err, os.ErrNotExist)
	}
	if err := s.Restart(t.Context(), Fast); !errors.Is(err, ErrClosed) {
		t.Errorf("restart after close: got %v, want %v", err, ErrClosed)
	}
	goleak.VerifyNone(t, before)
}

func TestSettingsLieOverTheDefaults(t *testing.T) {
	odd := `it's 'odd' \ here`
	s := own(t, Options{Settings: map[string]string{"fsync": "on", "max_connections": "17", "devpg.odd": odd}})
	for name, want := range map[string]string{
		"fsync": "on", "max_connections": "17", "devpg.odd": odd,
		"synchronous_commit": "on", "autovacuum": "on", "TimeZone": "UTC", "server_encoding": "UTF8", "lc_messages": "C",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "64MB", "password_encryption": "scram-sha-256",
	} {
		if got := ask[string](t, s.URL(""), "select current_setting('"+name+"')"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := ask[string](t, s.URL(""), "select datcollate from pg_database where datname = current_database()"); got != "C" {
		t.Errorf("collation: got %q, want C", got)
	}
}

func TestServerAsksForItsPassword(t *testing.T) {
	s := anyServer(t)
	_, err := pgx.Connect(t.Context(), strings.Replace(s.URL(""), s.own.password, "guess", 1))
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "28P01" {
		t.Errorf("wrong password: got %v, want invalid_password", err)
	}
}

func TestDatabaseIsACopyOfItsTemplate(t *testing.T) {
	s := anyServer(t)
	ctx := t.Context()
	const template, name = "a template", `odd/"name"?ü`
	defer s.DropDatabase(context.Background(), template)
	if err := s.CreateDatabase(ctx, template, ""); err != nil {
		t.Fatal(err)
	}
	mustExec(t, s.URL(template), "create table apples as select 7 as n")
	if err := s.CreateDatabase(ctx, name, template); err != nil {
		t.Fatal(err)
	}
	mustExec(t, s.URL(name), "update apples set n = 8")
	if got := ask[string](t, s.URL(name), "select current_database()"); got != name {
		t.Errorf("got database %q, want %q", got, name)
	}
	if got := ask[int](t, s.URL(template), "select n from apples"); got != 7 {
		t.Errorf("the copy's update reached the template: got %d, want 7", got)
	}
	stays := connect(t, s.URL(name))
	for range 2 { // the second time it is gone already
		if err := s.DropDatabase(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := stays.Ping(ctx); err == nil {
		t.Error("a connection outlived its database")
	}
	if _, err := pgx.Connect(ctx, s.URL(name)); err == nil {
		t.Error("got a connection to a dropped database")
	}
}

func TestCopyWaitsForAClosingConnectionToTheTemplate(t *testing.T) {
	s := anyServer(t)
	for _, name := range []string{"template", "copy"} {
		if err := s.DropDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateDatabase(t.Context(), "template", ""); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, s.URL("template"))
	created := make(chan error)
	go func() { created <- s.CreateDatabase(t.Context(), "copy", "template") }()
	// Blocked or not yet begun, the copy must succeed once the connection has gone.
	conn.Close(t.Context())
	if err := <-created; err != nil {
		t.Error(err)
	}
}

func TestRestartKeepsAddressAndData(t *testing.T) {
	s := own(t, Options{})
	mustExec(t, s.URL(""), "create table apples as select 7 as n")
	url := s.URL("")
	for _, mode := range []Mode{Fast, Immediate} {
		conn := connect(t, url)
		pid := s.own.postmaster.cmd.Process.Pid
		if err := s.Restart(t.Context(), mode); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if !gone(pid) {
			t.Errorf("%s: the old postmaster %d is still there", mode, pid)
		}
		if err := conn.Ping(t.Context()); err == nil {
			t.Errorf("%s: a connection outlived the restart", mode)
		}
		if got := ask[int](t, url, "select n from apples"); got != 7 || s.URL("") != url {
			t.Errorf("%s: got %d at %s, want 7 at %s", mode, got, s.URL(""), url)
		}
	}
	if err := s.Restart(t.Context(), "gentle"); err == nil {
		t.Error("mode gentle: got no error")
	}
	if log := s.own.logTail(); !strings.Contains(log, "automatic recovery") && !strings.Contains(log, "not properly shut down") {
		t.Errorf("the log tells of no recovery after the immediate restart:\n%s", log)
	}
}

func TestStoppedServerIsDownUntilResume(t *testing.T) {
	s := own(t, Options{})
	for range 2 { // the second time it is down already
		if err := s.Stop(t.Context(), Fast); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pgx.Connect(t.Context(), s.URL("")); err == nil {
		t.Error("got a connection to a stopped server")
	}
	for range 2 {
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ask[int](t, s.URL(""), "select 1")
}

func TestStandbyFollowsAndIsReadOnly(t *testing.T) {
	s := own(t, Options{Settings: map[string]string{"max_connections": "20"}})
	mustExec(t, s.URL(""), "create table apples as select 7 as n")
	standby, err := s.Standby(t.Context())
	if errors.Is(err, ErrNoBaseBackup) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	}()
	conn := connect(t, standby.URL(""))
	var recovering bool
	var connections string
	if err := conn.QueryRow(t.Context(), "select pg_is_in_recovery(), current_setting('max_connections')").Scan(&recovering, &connections); err != nil {
		t.Fatal(err)
	}
	if !recovering || connections != "20" {
		t.Errorf("got in recovery %v with max_connections %s, want true, 20", recovering, connections)
	}
	_, err = conn.Exec(t.Context(), "insert into apples values (8)")
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "25006" {
		t.Errorf("write to the standby: got %v, want read_only_sql_transaction", err)
	}
	// From here on a commit returns when the standby shows it. The standby has to find the restarted primary by itself.
	mustExec(t, s.URL(""), "alter system set synchronous_standby_names = '*'")
	mustExec(t, s.URL(""), "alter system set synchronous_commit = 'remote_apply'")
	if err := s.Restart(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	mustExec(t, s.URL(""), "insert into apples values (8)")
	if got := ask[int](t, standby.URL(""), "select sum(n)::int from apples"); got != 15 {
		t.Errorf("sum on the standby: got %d, want 15", got)
	}
}

func TestStandbyWithoutItsProgramIsATypedError(t *testing.T) {
	s := &Server{own: &cluster{bin: t.TempDir()}}
	if _, err := s.Standby(t.Context()); !errors.Is(err, ErrNoBaseBackup) {
		t.Errorf("got %v, want %v", err, ErrNoBaseBackup)
	}
}

func TestFailedStartQuotesTheLogAndLeavesNothing(t *testing.T) {
	scratch := openDir(t)
	t.Setenv("TMPDIR", scratch)
	var log strings.Builder
	_, err := Start(t.Context(), Options{Own: true, Settings: map[string]string{"shared_buffers": "plenty"}, Log: &log})
	if err == nil || !strings.Contains(err.Error(), `"plenty"`) {
		t.Errorf("got %v, want an error that quotes the server's own", err)
	}
	if !strings.Contains(log.String(), `"plenty"`) {
		t.Errorf("Options.Log got %q, want the server's complaint", log.String())
	}
	if left, _ := os.ReadDir(scratch); len(left) != 0 {
		t.Errorf("left in the temporary directory: %v", left)
	}
}

// writer is a function as an io.Writer.
type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestCancelledStartLeavesNothing(t *testing.T) {
	for _, when := range []string{"at once", "at the server's first words"} {
		scratch := openDir(t)
		t.Setenv("TMPDIR", scratch)
		before := goleak.IgnoreCurrent()
		ctx, cancel := context.WithCancel(t.Context())
		o := Options{Own: true, Log: writer(func([]byte) { cancel() })}
		if when == "at once" {
			cancel()
		}
		if _, err := Start(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", when, err, context.Canceled)
		}
		if left, _ := os.ReadDir(scratch); len(left) != 0 {
			t.Errorf("%s: left in the temporary directory: %v", when, left)
		}
		goleak.VerifyNone(t, before)
	}
}

func TestTakenPortIsReportedAsTaken(t *testing.T) {
	a, b := anyServer(t), own(t, Options{})
	if err := b.Stop(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	b.own.port = a.own.port
	err := b.Resume(t.Context())
	if err == nil || portFree(b.own.port) {
		t.Fatalf("start on the port of another server: got error %v, port free %v", err, portFree(b.own.port))
	}
	if err := b.own.startAnywhere(t.Context()); err != nil {
		t.Errorf("on another port: %v", err)
	}
}

func TestServerOutlivesTheThreadsOfItsStart(t *testing.T) {
	s := own(t, Options{})
	// End all the threads that are free to end: a goroutine that ends locked takes its thread with it.
	var threads sync.WaitGroup
	all := make(chan struct{})
	const n = 50
	ready := make(chan struct{}, n)
	for range n {
		threads.Go(func() {
			runtime.LockOSThread()
			ready <- struct{}{}
			<-all
		})
	}
	for range n {
		<-ready
	}
	close(all)
	threads.Wait()
	for range 20 { // time enough for a signal to arrive, without counting on it
		if !s.own.postmaster.running() {
			t.Fatal("the server ended with a thread of ours")
		}
		ask[int](t, s.URL(""), "select 1")
	}
}

func TestAdoptedServerIsUsedButNotStopped(t *testing.T) {
	lender := anyServer(t)
	t.Setenv(EnvURL, lender.URL("")+"&dbname=postgres")
	s, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Version() != lender.Version() {
		t.Errorf("got version %d, want %d", s.Version(), lender.Version())
	}
	if err := s.CreateDatabase(t.Context(), "borrowed", ""); err != nil {
		t.Fatal(err)
	}
	if got := ask[string](t, s.URL("borrowed"), "select current_database()"); got != "borrowed" {
		t.Errorf("got database %q, want borrowed", got)
	}
	if err := s.Restart(t.Context(), Fast); !errors.Is(err, ErrNotOurs) {
		t.Errorf("restart: got %v, want %v", err, ErrNotOurs)
	}
	if _, err := s.Standby(t.Context()); !errors.Is(err, ErrNotOurs) {
		t.Errorf("standby: got %v, want %v", err, ErrNotOurs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := ask[int](t, lender.URL(""), "select count(*)::int from pg_database where datname = 'borrowed'"); got != 0 {
		t.Error("Close left the database it created")
	}
}

func TestBadServerURLIsRefusedWithoutRepeatingIt(t *testing.T) {
	for _, dsn := range []string{"host=localhost password=secret", "postgres://me:sec ret@%zz/", "mysql://me:secret@localhost/"} {
		t.Setenv(EnvURL, dsn)
		_, err := Start(t.Context(), Options{})
		if err == nil || !strings.Contains(err.Error(), EnvURL) || strings.Contains(err.Error(), "ret@") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want an error that names %s and not the password", dsn, err, EnvURL)
		}
	}
}

func TestPsqlTakesTheURL(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip(err)
	}
	s := anyServer(t)
	output, err := exec.CommandContext(t.Context(), psql, "--no-psqlrc", "-Atc", "select 6*7", s.URL("")).CombinedOutput()
	if err != nil || strings.TrimSpace(string(output)) != "42" {
		t.Errorf("got %q, %v, want 42", output, err)
	}
}

// openDir is a temporary directory that other users can pass through, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "devpg-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return real
}
