//go:build unix

// PgBouncer in transaction mode, between a test and its database.

package pgtest

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
)

// Pooler starts PgBouncer in transaction mode before the database at address, and returns the URL of the database there;
// it has a query, so that parameters may be added by "&". The pooler ends with the test, which is skipped where it is
// not installed.
func Pooler(t testing.TB, address string) string {
	t.Helper()
	binary, err := osexec.LookPath("pgbouncer")
	if err != nil {
		if binary, err = osexec.LookPath("/usr/sbin/pgbouncer"); err != nil { // where packages put it, and PATH may not look
			t.Skip("pgbouncer is not installed")
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	to, err := pgx.ParseConfig(address)
	check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	here := l.Addr().(*net.TCPAddr)
	check(l.Close())
	dir, err := os.MkdirTemp("", "pq-dispatch-pgbouncer-") // t.TempDir is below what other users may not enter
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
`, to.Host, to.Port, to.User, to.Password, here.Port), 0o600))

	cmd := osexec.Command(binary, "--quiet", ini)
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
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if cmd.Process.Kill() == nil {
			<-ended
		}
	})

	pooled := url.URL{Scheme: "postgres", User: url.User("anyone"), Host: here.String(), Path: "/" + to.Database, RawQuery: "sslmode=disable"}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), pooled.String()+"&default_query_exec_mode=exec")
		if err == nil {
			check(conn.Close(t.Context()))
			return pooled.String()
		}
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("pgtest: pgbouncer has ended: %v", err)
		case <-deadline.C:
			t.Fatalf("pgtest: the pooler takes no connection: %v", err)
		}
	}
}
