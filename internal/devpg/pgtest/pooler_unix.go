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

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
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
	dir, err := os.MkdirTemp("", "pq-dispatch-pgbouncer-") // t.TempDir is below what other users may not enter
	check(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	var account *syscall.Credential
	if os.Geteuid() == 0 { // which it refuses to run as
		nobody, err := user.Lookup("nobody")
		check(err)
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		check(os.Chown(dir, uid, gid))
		account = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	for range 5 {
		port, err := devpg.FreePort()
		check(err)
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
		if account != nil {
			check(os.Chown(ini, int(account.Uid), int(account.Gid)))
		}
		cmd := osexec.Command(binary, "--quiet", ini)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account}
		cmd.Stderr = t.Output()
		ended := Start(t, cmd)
		pooled := url.URL{
			Scheme: "postgres", User: url.User("anyone"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			Path: "/" + to.Database, RawQuery: "sslmode=disable",
		}
		if accepts(t, pooled.String()+"&default_query_exec_mode=exec", ended) {
			return pooled.String()
		}
	}
	t.Fatal("pgtest: pgbouncer ends early, whatever its port")
	return ""
}

// accepts waits until the pooler takes a connection. It is false if it has ended: another process had its port.
func accepts(t testing.TB, address string, ended <-chan struct{}) bool {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), address)
		if err == nil {
			if err := conn.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			return true
		}
		select {
		case <-tick.C:
		case <-ended:
			return false
		case <-deadline.C:
			t.Fatalf("pgtest: the pooler takes no connection: %v", err)
		}
	}
}
