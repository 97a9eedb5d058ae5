//go:build unix

package docs

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// shows is what a reader sees after the block below this comment, sooner or later.
var shows = regexp.MustCompile(`<!--\s*shows:\s*(.*?)\s*-->\s*$`)

// screen is what a shell and all that it has started have written since the last block.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func (s *screen) clear() (was string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.text.Reset()
	return s.text.String()
}

// The quickstart, block after block, in one shell as a reader would type it. A server of the test's own stands in for
// the container.
func TestTheQuickstartWorksAsWritten(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("the quickstart is about Python, and there is no python3 in PATH")
	}
	free, err := net.Listen("tcp", "127.0.0.1:9464")
	if err != nil {
		t.Skipf("the quickstart's daemon cannot listen here: %v", err)
	}
	free.Close()
	server, err := url.Parse(pgtest.Server(t, devpg.Options{}).URL(""))
	if err != nil {
		t.Fatal(err)
	}
	asDocumented(t, server.String())

	const file = "docs/quickstart.md"
	document := documents(t)[file]
	bin, home := t.TempDir(), t.TempDir()
	shell := exec.CommandContext(t.Context(), "sh", "-e")
	shell.Dir = root
	shell.Env = append(os.Environ(), "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"), "PGPORT="+server.Port(), "TMPDIR="+home)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	seen := &screen{}
	shell.Stdout, shell.Stderr = seen, seen
	input, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- shell.Wait() }()
	defer func() { _ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }() // what is left if it has failed

	await := func(b block, text string) {
		t.Helper()
		tick, limit := time.NewTicker(10*time.Millisecond), time.NewTimer(2*time.Minute)
		defer tick.Stop()
		defer limit.Stop()
		for !seen.has(text) {
			select {
			case <-tick.C:
			case err := <-ended:
				t.Fatalf("%s:%d: the shell has ended (%v) and shows:\n%s", b.file, b.line, err, seen.clear())
			case <-limit.C:
				t.Fatalf("%s:%d: got no %q within 2 minutes, but:\n%s", b.file, b.line, text, seen.clear())
			}
		}
	}
	lines := strings.Split(document, "\n")
	all, _ := blocks(file, document)
	for _, b := range all {
		if b.lang != "sh" || strings.HasPrefix(b.text, "docker ") {
			continue
		}
		done := fmt.Sprintf("block of line %d is done", b.line)
		if _, err := fmt.Fprintf(input, "%s\necho '%s'\n", b.text, done); err != nil {
			t.Fatal(err)
		}
		await(b, done)
		if m := shows.FindStringSubmatch(strings.Join(lines[:b.line-2], "\n")); m != nil {
			await(b, m[1])
		}
		seen.clear()
	}
	input.Close()
	if err := <-ended; err != nil {
		t.Errorf("the shell: %v, %s", err, seen.clear())
	}
	if left, _ := filepath.Glob(filepath.Join(home, "*", "worker.py")); len(left) != 1 {
		t.Errorf("workers written: got %q, want one", left)
	}
}

// asDocumented gives a server the user and password of the container.
func asDocumented(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `
		do $$ begin
		  if not exists (select from pg_roles where rolname = 'postgres') then create role postgres superuser login; end if;
		end $$;
		alter role postgres password 'secret'`)
	if err != nil {
		t.Fatal(err)
	}
}
