//go:build unix

// PgBouncer is started under another user, as it refuses to run as root.

package store_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// A8.
func TestBehindAPoolerInTransactionMode(t *testing.T) {
	direct, straight := open(t)
	pool := connectPool(t, startPgBouncer(t, direct.Config().ConnConfig)+"&default_query_exec_mode=exec")
	pooled := store.New(pool, store.Options{})
	_, err := pooled.OpenSession(t.Context())
	wantError(t, err, store.ErrPooled)

	traced := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	apples := pooled.Queue("apples")
	for range 20 { // whichever server connection it is
		id, err := apples.Put(traced, map[string]any{"kind": "Cox"}, store.ScheduleAt(-time.Second), store.ExpectedAt("1h"), store.MaxAttempts(3))
		check(t, err)
		job := get(t, apples)
		if job == nil || job.ID != id || job.Metadata["traceparent"] == "" || job.MaxAttempts != 3 || string(job.Data) != `{"kind": "Cox"}` {
			t.Fatalf("got %+v, want job %d", job, id)
		}
	}
	ids, err := store.PutMany(traced, apples, count(3))
	check(t, err)
	check(t, apples.Update(t.Context(), ids[0], "new"))
	settle(t, pooled, []store.Run{{ID: ids[0], Attempt: 1}}, store.Return{Run: store.Run{ID: ids[1], Attempt: 1}, Reason: "no", SetAside: true})
	left, err := pooled.Uncompleted(t.Context(), []store.Run{{ID: ids[0], Attempt: 1}, {ID: ids[2], Attempt: 1}})
	check(t, err)
	wantIDs(t, "uncompleted", left, ids[2])
	if counts, err := apples.Counts(t.Context()); counts.Ready != 1 || counts.SetAside != 1 || err != nil {
		t.Errorf("got %+v, %v", counts, err)
	}
	if n, err := apples.Clear(t.Context()); n != 2 || err != nil {
		t.Errorf("clear: got %d, %v", n, err)
	}
	if _, _, err := pooled.Bury(t.Context(), 1, 3); err != nil {
		t.Error(err)
	}

	// With a direct connection for what has to last, all of it works.
	both := store.New(pool, store.Options{Connect: straight.Connect})
	openSession(t, both)
	get := startGet(t.Context(), both.Queue("apples"), store.Forever)
	eventually(t, direct, `select exists (select `+listening+`)`)
	get.want(t, put(t, apples, 1))
}

// startPgBouncer starts a pooler in transaction mode before a database and returns its URL.
func startPgBouncer(t testing.TB, to *pgx.ConnConfig) string {
	t.Helper()
	binary, err := osexec.LookPath("pgbouncer")
	if err != nil {
		if binary = "/usr/sbin/pgbouncer"; !exists(binary) { // packages put it where PATH may not look
			t.Skip("pgbouncer is not installed")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	check(t, l.Close())
	dir, err := os.MkdirTemp("", "pgbouncer")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ini := filepath.Join(dir, "pgbouncer.ini")
	check(t, os.WriteFile(ini, fmt.Appendf(nil, `
[databases]
* = host=%s port=%d user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
`, to.Host, to.Port, to.User, to.Password, port), 0o600))

	cmd := osexec.CommandContext(t.Context(), binary, "--quiet", ini)
	if os.Geteuid() == 0 { // which it refuses to run as
		nobody, err := user.Lookup("nobody")
		check(t, err)
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		check(t, os.Chown(dir, uid, gid))
		check(t, os.Chown(ini, uid, gid))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	cmd.Stderr = t.Output()
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.User("anyone"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + to.Database,
		RawQuery: "sslmode=disable"}
	reachable(t, u.String()+"&default_query_exec_mode=exec")
	return u.String()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reachable waits until connections are accepted.
func reachable(t testing.TB, url string) {
	t.Helper()
	until(t, "the pooler takes connections", func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		return err == nil && conn.Close(t.Context()) == nil
	})
}
