package demo

// What is killed, and what must not outlive it: seen in /proc.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// process is what /proc says of one.
type process struct {
	pid, parent int
	command     []string
}

func processes(t *testing.T) (all []process) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if fields[0] == "Z" {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		command := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		all = append(all, process{pid: pid, parent: parent, command: command})
	}
	return all
}

// children are the demo processes of a parent in these roles.
func children(t *testing.T, parent int, roles ...string) (pids []int) {
	for _, p := range processes(t) {
		if p.parent == parent && slices.Contains(roles, p.command[len(p.command)-1]) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

func wantNoChildren(t *testing.T, parent int) {
	t.Helper()
	if pids := children(t, parent, "worker", "producer"); len(pids) > 0 {
		t.Errorf("got processes %v, want none left", pids)
	}
}

func TestWorkerKilledInTheMiddleLosesNothingAndRepeatsNothing(t *testing.T) {
	dir, files, size := tree(t)
	d := opened(t, dir, pgtest.Database(t))
	before, err := inventory(t.Context(), d.options.Dir)
	if err != nil {
		t.Fatal(err)
	}
	blocked := block(t, d)
	wait := start(t.Context(), t, d)
	blocked.await(dispatchers) // each has claims, and transactions that are not committed
	victim := children(t, os.Getpid(), "worker")[0]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	blocked.release()
	w, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	s := Summary{Put: w.put, Problems: w.skipped}
	if err := errors.Join(d.measure(t.Context(), &s), d.verify(t.Context(), before, &s)); err != nil {
		t.Fatal(err)
	}
	s.conclude()
	if !s.OK || w.died != 1 || s.Put != files || s.Done != files || s.Bytes != size {
		t.Errorf("got %+v, %d died; want %d files done, once each, and one died", s, w.died, files)
	}
	wantNoChildren(t, os.Getpid())
}

func TestCancelledRunLeavesNeitherProcessNorSchema(t *testing.T) {
	for when, name := range map[string]string{"at once": "", "while the files are hashed": "worker 1", "in the small queue": "worker 3"} {
		t.Run(when, func(t *testing.T) {
			dir, _, _ := tree(t)
			url := pgtest.Database(t)
			o := options(t, dir, url)
			var out bytes.Buffer
			o.Stdout = &out
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			cause := errors.New("Ctrl-C")
			if name == "" {
				cancel(cause)
			}
			var result error
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				result = Run(ctx, o)
			}()
			t.Cleanup(func() { <-ended }) // if the test gives up waiting
			if name != "" {
				await(t, url, name)
				cancel(cause)
			}
			if <-ended; !errors.Is(result, cause) {
				t.Errorf("got %v, want the cause of the end", result)
			}
			if out.Len() > 0 {
				t.Errorf("got a summary of a demo that did not end: %s", &out)
			}
			wantNoChildren(t, os.Getpid())
			wantNothingLeft(t, url)
		})
	}
}

// await waits until a process of that name is connected.
func await(t *testing.T, url, name string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	eventually(t, func() bool {
		var connected bool
		err := conn.QueryRow(t.Context(), `
			select exists (select from pg_stat_activity where datname = current_database() and application_name like $1)`,
			"% "+name).Scan(&connected)
		if err != nil {
			t.Fatal(err)
		}
		return connected
	})
}

func TestHandlersThatHangDoNotOutliveACancelledDemo(t *testing.T) {
	dir, _, _ := tree(t)
	d := opened(t, dir, pgtest.Database(t))
	blocked := block(t, d)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	wait := start(ctx, t, d)
	blocked.await(dispatchers) // and is not released
	cause := errors.New("Ctrl-C")
	cancel(cause)
	if _, err := wait(); !errors.Is(err, cause) || strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want the cause, and no process that had to be killed", err)
	}
	wantNoChildren(t, os.Getpid())
	blocked.release()
}

func TestWorkersThatAllDieAreAnErrorWithTheirReason(t *testing.T) {
	dir, _, _ := tree(t)
	d := opened(t, dir, pgtest.Database(t))
	blocked := block(t, d)
	wait := start(t.Context(), t, d)
	blocked.await(dispatchers)
	for _, pid := range children(t, os.Getpid(), "worker") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := wait(); err == nil || !strings.Contains(err.Error(), "no dispatcher process is left") || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want an error that says that none is left, and why", err)
	}
	blocked.release()
}

func TestKilledParentTakesAllProcessesAlong(t *testing.T) {
	dir, _, _ := tree(t)
	scratch, err := os.MkdirTemp("", "demo") // t.TempDir would not let the server's account in
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir, "TMPDIR="+scratch)
	parent.Stdout, parent.Stderr = t.Output(), t.Output()
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = parent.Process.Kill()
		_ = parent.Wait()
	})
	eventually(t, func() bool { return len(children(t, parent.Process.Pid, "worker")) >= 1 })
	var offspring []int // with the server's
	for _, p := range processes(t) {
		if p.parent == parent.Process.Pid {
			offspring = append(offspring, p.pid)
		}
	}
	if len(offspring) < 2 {
		t.Errorf("got children %v, want a worker and a server at least", offspring)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, func() bool {
		for _, p := range processes(t) {
			if slices.Contains(offspring, p.pid) || strings.Contains(fmt.Sprint(p.command), scratch) {
				return false
			}
		}
		return true
	})
}
