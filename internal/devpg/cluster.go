// A data directory of our own and the postmaster on it: made, started, stopped, copied, removed.

package devpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Mode is how a server is shut down.
type Mode string

const (
	// Fast disconnects the clients and shuts down cleanly.
	Fast Mode = "fast"
	// Immediate quits without a checkpoint, as in a crash: the next start recovers from the log.
	Immediate Mode = "immediate"
)

const (
	role         = "postgres"
	readyTimeout = 30 * time.Second
)

var defaults = map[string]string{
	"listen_addresses":        "127.0.0.1",
	"unix_socket_directories": "", // a socket in a shared directory would only be one more way in
	"max_connections":         "100",
	"shared_buffers":          "64MB",
	"fsync":                   "off",
	"synchronous_commit":      "on",
	"autovacuum":              "on",
	"timezone":                "UTC",
	"log_timezone":            "UTC",
	"log_checkpoints":         "off",
	"logging_collector":       "off",
	// A standby looks for its restarted primary again after this; 5 s is PostgreSQL's own choice.
	"wal_retrieve_retry_interval": "100ms",
}

// cluster is a data directory of our own with its postmaster. Layout of its directory:
//
//	owner  locked for as long as the process that made the directory lives
//	log    what the server wrote, of all its starts
//	data   the PostgreSQL data directory; belongs to account
type cluster struct {
	bin      string // where postgres is
	dir      string
	account  *account // whom the processes run as; nil: as we do
	owner    *os.File
	logFile  *os.File
	log      io.Writer // the user's, may be nil
	password string
	port     int
	version  int // server_version_num, known once it is ready

	mu         sync.Mutex // one start, stop or close at a time
	postmaster *process   // under mu; nil before the first start
	closed     bool       // under mu
}

func newCluster(bin string, log io.Writer) (_ *cluster, err error) {
	c := &cluster{bin: bin, log: log, password: rand.Text()}
	if c.account, err = serviceAccount(); err != nil {
		return nil, err
	}
	if c.dir, c.owner, err = makeDir(os.TempDir()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.account != nil { // it must be able to pass through to data
		if err := os.Chmod(c.dir, 0o711); err != nil {
			return nil, err
		}
	}
	if c.logFile, err = os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.data(), 0o700); err != nil {
		return nil, err
	}
	return c, c.account.own(c.data())
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *cluster) url() *url.URL {
	return &url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, c.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:     "/postgres",
		RawQuery: "sslmode=disable", // else each connection first asks for TLS in vain
	}
}

// initdb makes an empty cluster with the given settings over the defaults.
func (c *cluster) initdb(ctx context.Context, settings map[string]string) error {
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte(c.password), 0o600); err != nil {
		return err
	}
	if err := c.account.own(password); err != nil {
		return err
	}
	if _, err := run(ctx, c.command("initdb", "-D", c.data(), "-U", role, "--pwfile="+password, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")); err != nil {
		return err
	}
	if err := os.Remove(password); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(configuration(settings))
	return errors.Join(err, conf.Close())
}

// configuration renders the defaults and, over them, the settings. They go into the file and not on
// the command line, so that ALTER SYSTEM and a reload can still change them.
func configuration(settings map[string]string) string {
	all := maps.Clone(defaults)
	maps.Copy(all, settings)
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`)
	var b strings.Builder
	b.WriteString("\n# devpg\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, quote.Replace(all[name]))
	}
	return b.String()
}

// copyOf fills the data directory as a standby of primary.
func (c *cluster) copyOf(ctx context.Context, primary *cluster) error {
	if !executable(c.bin, "pg_basebackup") {
		return ErrNoBaseBackup
	}
	c.password = primary.password // the roles come with the data
	_, err := run(ctx, c.command("pg_basebackup", "-D", c.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(primary.port), "-U", role,
		"--no-password", "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"))
	return err
}

// startAnywhere starts the server on a port of its choice. Between choosing a port and binding it
// another process may be quicker; then it chooses again.
func (c *cluster) startAnywhere(ctx context.Context) error {
	return c.exclusively(func(*cluster) (err error) {
		for range 5 {
			if c.port, err = FreePort(); err != nil {
				return err
			}
			if err = c.resume(ctx); err == nil || portFree(c.port) {
				return err
			}
		}
		return err
	})
}

// exclusively runs do with c.mu held, unless c is closed.
func (c *cluster) exclusively(do func(*cluster) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	return do(c)
}

// resume starts the server on c.port and waits until it takes connections; c.mu is held.
func (c *cluster) resume(ctx context.Context) error {
	if c.postmaster.running() {
		return nil
	}
	cmd := c.command("postgres", "-D", c.data(), "-p", strconv.Itoa(c.port))
	cmd.Stdout, cmd.Stderr = c.logFile, c.logFile
	if c.log != nil {
		both := io.MultiWriter(c.logFile, c.log)
		cmd.Stdout, cmd.Stderr = both, both
	}
	cmd.WaitDelay = 5 * time.Second // for a server process that outlives the postmaster and holds the log open
	p, err := launch(cmd)
	if err != nil {
		return err
	}
	c.postmaster = p
	if err := c.ready(ctx, p); err != nil {
		c.end()
		return fmt.Errorf("%w; its log ends:\n%s", err, c.logTail())
	}
	return nil
}

// ready waits until the server p takes connections, for at most readyTimeout.
func (c *cluster) ready(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no connection within %v", readyTimeout))
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lastErr error
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		select {
		case <-timer.C:
		case <-p.done:
			return fmt.Errorf("postgres ended early (%v)", p.cmd.ProcessState)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), lastErr)
		}
		if c.version, lastErr = serverVersion(ctx, c.url().String()); lastErr == nil {
			return nil
		}
		timer.Reset(delay)
	}
}

// logTail is the end of the server's log.
func (c *cluster) logTail() string {
	text, err := os.ReadFile(c.logFile.Name())
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), 15)
}

// stop shuts the server down and waits for its end; c.mu is held.
func (c *cluster) stop(ctx context.Context, mode Mode) error {
	if mode != Fast && mode != Immediate {
		return fmt.Errorf("unknown mode %q, want %q or %q", mode, Fast, Immediate)
	}
	if !c.postmaster.running() {
		return nil
	}
	if err := shutdown(c, mode); err != nil {
		return err
	}
	select {
	case <-c.postmaster.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the server whatever it takes and removes its directory.
func (c *cluster) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.stopWithin(Fast, 10*time.Second)
	c.end()
	var errs []error
	for _, f := range []*os.File{c.logFile, c.owner} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// end ends the server, without manners if it must; c.mu is held.
func (c *cluster) end() {
	c.stopWithin(Immediate, 10*time.Second)
	if c.postmaster.running() {
		kill(c.postmaster)
		<-c.postmaster.done
	}
}

// stopWithin stops the server if it can be done in time.
func (c *cluster) stopWithin(mode Mode, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = c.stop(ctx, mode)
}

// command prepares a PostgreSQL program to run as account, free of our environment's influence.
func (c *cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, program), args...)
	cmd.Dir = c.dir                                           // ours may be closed to account
	cmd.Env = append(environment(), "PGPASSWORD="+c.password) // for pg_basebackup; its arguments all can see
	isolate(cmd, c.account)
	return cmd
}

// environment is ours without what steers PostgreSQL's programs or the language of their messages.
// The time zone is given, because initdb would compare all zone files with the system's.
func environment() []string {
	kept := slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "TZ"
	})
	return append(kept, "TZ=UTC")
}

// FreePort picks a port of 127.0.0.1 for a server to listen on; another process may still be quicker to bind it. It is below
// the range that systems hand out to outgoing connections: one from that range could be taken by a client's end while the
// server is down for a restart.
func FreePort() (int, error) {
	const low, high = 20000, 32000
	for range 100 {
		if port := low + mathrand.N(high-low); portFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("found no free port between %d and %d on 127.0.0.1", low, high)
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
