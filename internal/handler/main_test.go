package handler

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// childVariable makes the test binary a program that runs jobs, of the kind that it names.
const childVariable = "HANDLER_TEST_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childVariable); kind != "" {
		notePID()
		children[kind]()
		os.Exit(0)
	}
	pgtest.Main(m)
}

// patience is how long a test waits for what must happen. No test passes or fails by how long it takes.
const patience = 60 * time.Second

// children are the programs. More of them are in the files of the tests that need them.
var children = map[string]func(){
	"report": func() { // all that it was given
		stdin, err := io.ReadAll(os.Stdin)
		must(err)
		dir, err := os.Getwd()
		must(err)
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PWD=") || strings.HasPrefix(v, "GOCOVERDIR=") })
		text, err := json.Marshal(report{Stdin: string(stdin), Args: os.Args[1:], Dir: dir, Env: env})
		must(err)
		fmt.Println(string(text))
	},
	"exit": func() {
		fmt.Fprint(os.Stderr, os.Getenv("SAY"))
		code, err := strconv.Atoi(os.Getenv("CODE"))
		must(err)
		os.Exit(code)
	},
	"flood": func() { // much on both, and not a look at stdin
		line := strings.Repeat("x", 1000) + "\n"
		for range 1000 {
			fmt.Print(line)
			fmt.Fprint(os.Stderr, line)
		}
		fmt.Fprint(os.Stderr, "the end é")
		os.Exit(1)
	},
}

type report struct {
	Stdin, Dir string
	Args, Env  []string
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// notePID lets the test know of this process, so that it can see whether it ends.
func notePID() {
	if dir := os.Getenv("PIDS"); dir != "" {
		must(os.WriteFile(filepath.Join(dir, strconv.Itoa(os.Getpid())), nil, 0o600))
	}
}

// child is the program of that kind, with variables given as name and value in turn.
func child(t testing.TB, kind string, env ...string) Program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := Program{Command: []string{self}, Env: map[string]string{childVariable: kind}}
	if testing.CoverMode() != "" { // without it a child would say so on stderr
		p.Env["GOCOVERDIR"] = t.TempDir()
	}
	for i := 0; i < len(env); i += 2 {
		p.Env[env[i]] = env[i+1]
	}
	return p
}

// again is this program once more, as a child of a child.
func again(kind string) *exec.Cmd {
	self, err := os.Executable()
	must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+kind)
	return cmd
}

// noLeaks fails the test if goroutines are left behind at its end.
func noLeaks(t *testing.T) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, current, pgtest.Goroutines())
		}
	})
}

// newJob is a job of the queue apples with that data.
func newJob(data string) *dispatcher.Job {
	return &dispatcher.Job{Job: &store.Job{
		ID: 7, Queue: "apples", Data: json.RawMessage(data), Attempt: 1,
		EnqueuedAt: time.Date(2026, 5, 4, 3, 2, 1, 5000, time.UTC),
	}}
}

type closer interface {
	Close(ctx context.Context) error
}

// closing closes the handler at the end of the test.
func closing[H closer](t testing.TB, h H, err error) H {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Errorf("got %v from Close", err)
		}
	})
	return h
}

// kindOf names what an error of a handler means to the dispatcher.
func kindOf(err error) string {
	switch fmt.Sprintf("%T", err) {
	case "<nil>":
		return "done"
	case fmt.Sprintf("%T", dispatcher.Snooze(0)):
		return "snooze"
	case fmt.Sprintf("%T", dispatcher.Discard("")):
		return "discard"
	case "*backoff.PermanentError":
		return "fail"
	}
	return "retry"
}

// logs is a log to be looked at.
type logs struct {
	mu    sync.Mutex
	lines []map[string]any
	came  chan struct{} // closed and replaced at each line
}

func newLogs() *logs { return &logs{came: make(chan struct{})} }

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logs) Write(p []byte) (int, error) {
	line := map[string]any{}
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.came)
	l.came = make(chan struct{})
	return len(p), nil
}

// await returns the first line that is looked for.
func (l *logs) await(t testing.TB, what string, found func(line map[string]any) bool) map[string]any {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for seen := 0; ; {
		l.mu.Lock()
		lines, came := l.lines, l.came
		l.mu.Unlock()
		for _, line := range lines[seen:] {
			if found(line) {
				return line
			}
		}
		seen = len(lines)
		select {
		case <-came:
		case <-deadline.C:
			t.Fatalf("got the log %v, want %s in it", lines, what)
		}
	}
}

func has(key, part string) func(map[string]any) bool {
	return func(line map[string]any) bool { return strings.Contains(fmt.Sprint(line[key]), part) }
}

// eventually waits for what nobody tells.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(5*time.Millisecond), time.NewTimer(patience)
	defer tick.Stop()
	defer deadline.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("got no end of waiting, want that %s", what)
		}
	}
}

// notedPIDs are the processes that were started with PIDS set to dir.
func notedPIDs(t testing.TB, dir string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// lines are those of stdin, for a child.
func lines() *bufio.Scanner {
	scanner := bufio.NewScanner(os.Stdin)
	scanner.Buffer(nil, 64<<20)
	return scanner
}
