//go:build unix

package doctor

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestAPoolerIsNoticed(t *testing.T) {
	direct := migrated.Database(t)
	pooler := startPgBouncer(t, connect(t, direct).Config())
	straight := store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, direct) }}
	for _, tt := range []struct {
		name    string
		address string
		s       store.Options
		level   Level
		text    string
	}{
		{"both through the pooler", pooler + "&default_query_exec_mode=exec", store.Options{}, Problem, "the direct connection goes through a pooler"},
		{"prepared statements", pooler, straight, Warning, "prepared statements"},
		{"as it should be", pooler + "&default_query_exec_mode=exec", straight, OK, "dispatchers' sessions are direct"},
		{"a pooler for the dispatchers only", direct, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return pgx.Connect(ctx, pooler+"&default_query_exec_mode=exec")
		}}, Problem, "goes through a pooler"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			findings := examine(t, tt.address, tt.s, Options{})
			find(t, findings, "connection").wants(t, tt.level, tt.text)
			for _, f := range findings {
				if f.Check != "connection" && f.Level == Problem {
					t.Errorf("got %+v, want no other problem", f)
				}
			}
		})
	}
}

// startPgBouncer starts a pooler in transaction mode before a database and returns its URL.
func startPgBouncer(t *testing.T, to *pgx.ConnConfig) string {
	t.Helper()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		binary = "/usr/sbin/pgbouncer" // packages put it where PATH may not look
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("pgbouncer is not installed")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	port := l.Addr().(*net.TCPAddr).Port
	check(l.Close())
	dir, err := os.MkdirTemp("", "pgbouncer")
	check(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ini := filepath.Join(dir, "pgbouncer.ini")
	check(os.WriteFile(ini, fmt.Appendf(nil, `
[databases]
* = host=%s port=%d user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
`, to.Host, to.Port, to.User, to.Password, port), 0o600))
	cmd := exec.CommandContext(t.Context(), binary, "--quiet", ini)
	if os.Geteuid() == 0 { // which it refuses to run as
		nobody, err := user.Lookup("nobody")
		check(err)
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		check(os.Chown(dir, uid, gid))
		check(os.Chown(ini, uid, gid))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	cmd.Stderr = t.Output()
	check(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.User("anyone"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + to.Database, RawQuery: "sslmode=disable"}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), u.String()+"&default_query_exec_mode=exec")
		if err == nil {
			check(conn.Close(t.Context()))
			return u.String()
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("the pooler takes no connection: %v", err)
		}
	}
}
