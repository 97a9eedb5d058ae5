//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

func init() {
	children["stays"] = func() { select {} }
	children["stubborn"] = func() { // it and its child ignore SIGTERM
		signal.Ignore(syscall.SIGTERM)
		if os.Getenv("PARENT") == "" {
			os.Setenv("PARENT", "yes")
			must(again("stubborn").Start())
		}
		select {}
	}
	children["obliging"] = func() { // says that the job is done when it is told to stop
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "ready")
		touch("READY")
		<-told
		fmt.Fprintln(os.Stderr, "as you like")
	}
	children["parent"] = func() { // leaves one behind in its group
		cmd := again("stays")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		must(cmd.Start())
	}
	children["escaping parent"] = func() { // leaves one behind that has left the group, and holds the pipes
		cmd := again("stays")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		must(cmd.Start())
		fmt.Println("left one behind")
	}
	children["daemon"] = func() { // a program with handlers, to be killed
		dir := os.Getenv("PIDS")
		p := Program{Command: []string{os.Args[0]}, Env: map[string]string{childVariable: "stays", "PIDS": dir}}
		e, err := NewExec(ExecOptions{Program: p})
		must(err)
		p.Env = map[string]string{childVariable: "worker", "PIDS": dir}
		w, err := NewWorker(WorkerOptions{Program: p, Processes: 2})
		must(err)
		go w.Handle(context.Background(), newJob(`"hang"`))
		must(e.Handle(context.Background(), newJob(`1`)))
	}
	children["waits for a file"] = func() {
		touch("READY")
		for {
			if _, err := os.Stat(os.Getenv("GO")); err == nil {
				return
			}
			syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 1000})
		}
	}
}

// touch makes the file that a variable names.
func touch(variable string) {
	if name := os.Getenv(variable); name != "" {
		must(os.WriteFile(name, nil, 0o600))
	}
}

func exists(name string) func() bool {
	return func() bool {
		_, err := os.Stat(name)
		return err == nil
	}
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// allEnd waits until none of the processes noted in dir is left, of at least n.
func allEnd(t *testing.T, dir string, n int) {
	t.Helper()
	pids := notedPIDs(t, dir)
	if len(pids) < n {
		t.Errorf("got %d processes, want %d", len(pids), n)
	}
	t.Cleanup(func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
}

// run is a job run by a program of that kind.
func run(t *testing.T, o ExecOptions, job *dispatcher.Job) (*logs, error) {
	t.Helper()
	log := newLogs()
	o.Logger = log.logger()
	e, err := NewExec(o)
	e = closing(t, e, err)
	return log, e.Handle(t.Context(), job)
}

func TestProgramGetsTheJobAndACleanEnvironment(t *testing.T) {
	noLeaks(t)
	t.Setenv("PQ_DISPATCH_DATABASE_URL", "postgres://secret")
	t.Setenv("WANTED", "yes")
	t.Setenv("UNWANTED", "no")
	dir := t.TempDir()
	p := child(t, "report", "GREETING", "hello = world", "WANTED", "own")
	p.Command = append(p.Command, "$(id); `id` && *", "")
	p.Dir, p.Inherit = dir, []string{"WANTED", "HOME", "NOT_SET"}
	t.Setenv("HOME", "/home/ida")
	job := newJob(`{"kind": "Cox"}`)
	job.Task, job.Attempt, job.MaxAttempts, job.Queue = "eat", 2, 3, "äpfel\nx"
	job.ScheduleAt = job.EnqueuedAt.Add(time.Minute)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	log := newLogs()
	e, err := NewExec(ExecOptions{Program: p, MaxAttempts: 25, Logger: log.logger()})
	e = closing(t, e, err)
	if err := e.Handle(trace.ContextWithSpanContext(t.Context(), span), job); err != nil {
		t.Fatal(err)
	}
	var got report
	line := log.await(t, "the output", has("msg", "output of a job"))
	if err := json.Unmarshal([]byte(line["stdout"].(string)), &got); err != nil {
		t.Fatal(err)
	}
	if queue, is := line["queue"]; is || line["job"] != 7.0 {
		t.Errorf("got job %v of queue %v in the log, want 7, and the queue left to the logger, which tells it once", line["job"], queue)
	}
	slices.Sort(got.Env)
	real, _ := filepath.EvalSymlinks(dir)
	want := report{
		Stdin: `{"kind": "Cox"}`, Args: p.Command[1:], Dir: real,
		Env: []string{
			"GREETING=hello = world", childVariable + "=report", "HOME=/home/ida",
			"PQ_DISPATCH_ATTEMPT=2", "PQ_DISPATCH_ENQUEUED_AT=2026-05-04T03:02:01.000005Z", "PQ_DISPATCH_EXPECTED_AT=",
			"PQ_DISPATCH_JOB_ID=7", "PQ_DISPATCH_MAX_ATTEMPTS=3", "PQ_DISPATCH_QUEUE=äpfel\nx",
			"PQ_DISPATCH_SCHEDULE_AT=2026-05-04T03:03:01.000005Z", "PQ_DISPATCH_TASK=eat",
			"TRACEPARENT=00-01000000000000000000000000000000-0200000000000000-00", "WANTED=own",
		},
	}
	slices.Sort(want.Env)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (-want +got):\n%s", diff)
	}
}

func TestExitCodeDecidesWhatBecomesOfTheJob(t *testing.T) {
	noLeaks(t)
	for code, want := range map[int]string{0: "done", 1: "retry", 2: "retry", 64: "retry", 65: "discard", 66: "retry", 75: "retry", 255: "retry"} {
		_, err := run(t, ExecOptions{Program: child(t, "exit", "CODE", strconv.Itoa(code), "SAY", "worm\x1b[2J in \xff it\n")}, newJob(`1`))
		if got := kindOf(err); got != want {
			t.Errorf("exit %d: got %s (%v), want %s", code, got, err, want)
		}
		if says := fmt.Sprintf("exit status %d: worm[2J in ? it", code); err != nil && !strings.HasSuffix(err.Error(), says) {
			t.Errorf("exit %d: got %q, want it to end in %q", code, err, says)
		}
	}
}

func TestOutputIsReadWhollyAndKeptInPart(t *testing.T) {
	noLeaks(t)
	log, err := run(t, ExecOptions{Program: child(t, "flood"), MaxOutput: 1500}, newJob(`"`+strings.Repeat("a", 4<<20)+`"`))
	if err == nil || !strings.HasSuffix(err.Error(), "xxx\nthe end é") || len(err.Error()) > maxTail+100 || len(err.Error()) < maxTail-100 {
		t.Errorf("got an error of %d bytes, want the last %d of stderr", len(fmt.Sprint(err)), maxTail)
	}
	line := log.await(t, "the output", has("msg", "output of a job"))
	if line["bytes"] != 1001000.0 || len(line["stdout"].(string)) != 1500 || line["level"] != "DEBUG" {
		t.Errorf("got %v bytes, %d of them in the log at %v; want 1001000, 1500 at DEBUG", line["bytes"], len(line["stdout"].(string)), line["level"])
	}
}

func TestLargeDataReachesTheProgram(t *testing.T) {
	noLeaks(t)
	data := `"` + strings.Repeat("é", 8<<20) + `"`
	log, err := run(t, ExecOptions{Program: child(t, "report"), MaxOutput: 32 << 20}, newJob(data))
	if err != nil {
		t.Fatal(err)
	}
	var got report
	line := log.await(t, "the output", has("msg", "output of a job"))
	if err := json.Unmarshal([]byte(line["stdout"].(string)), &got); err != nil || got.Stdin != data {
		t.Errorf("got %d bytes on stdin (%v), want %d", len(got.Stdin), err, len(data))
	}
}

func TestProgramThatCannotBeStartedIsARetry(t *testing.T) {
	noLeaks(t)
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/nowhere/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, ExecOptions{Program: Program{Command: []string{path}}}, newJob(`1`))
	if kindOf(err) != "retry" || !strings.Contains(err.Error(), "handler: start: fork/exec "+path) {
		t.Errorf("got %v, want an error that names it", err)
	}
}

func TestProgramsThatMakeNoSenseAreRefused(t *testing.T) {
	self, _ := os.Executable()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, p := range map[string]Program{
		"command is empty":             {},
		`"sh" is not an absolute path`: {Command: []string{"sh", "-c", "id"}},
		"no such file":                 {Command: []string{"/nowhere/program"}},
		"permission denied":            {Command: []string{plain}},
		"cannot be run":                {Command: []string{filepath.Dir(plain)}},
		"command contains NUL":         {Command: []string{self, "\x00"}},
		`directory "tmp" is not`:       {Command: []string{self}, Dir: "tmp"},
		`directory "/nowhere" is not`:  {Command: []string{self}, Dir: "/nowhere"},
		`"A=B" is no name`:             {Command: []string{self}, Env: map[string]string{"A=B": ""}},
		`"" is no name`:                {Command: []string{self}, Inherit: []string{""}},
		"A contains NUL":               {Command: []string{self}, Env: map[string]string{"A": "\x00"}},
		"PQ_DISPATCH_DATABASE_URL is":  {Command: []string{self}, Inherit: []string{"PQ_DISPATCH_DATABASE_URL"}},
		"TRACEPARENT is":               {Command: []string{self}, Env: map[string]string{"TRACEPARENT": ""}},
		"KillAfter is -1s":             {Command: []string{self}, KillAfter: -time.Second},
	} {
		_, err := NewExec(ExecOptions{Program: p})
		_, workerErr := NewWorker(WorkerOptions{Program: p})
		for _, err := range []error{err, workerErr} {
			if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "handler: ") {
				t.Errorf("got %v, want an error that says %q", err, says)
			}
		}
	}
	if _, err := NewExec(ExecOptions{Program: Program{Command: []string{self}}, MaxOutput: -1}); err == nil {
		t.Error("got nil for a MaxOutput of -1, want an error")
	}
	if _, err := NewWorker(WorkerOptions{Program: Program{Command: []string{self}}, Processes: -1}); err == nil {
		t.Error("got nil for -1 processes, want an error")
	}
}

// cancelled runs a job by a program that stays, and ends its context for that cause once n processes run.
func cancelled(t *testing.T, p Program, n int, cause error) error {
	t.Helper()
	dir := t.TempDir()
	p.Env["PIDS"] = dir
	e, err := NewExec(ExecOptions{Program: p})
	e = closing(t, e, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- e.Handle(ctx, newJob(`1`)) }()
	eventually(t, "the processes run", func() bool { return len(notedPIDs(t, dir)) == n })
	if ready := p.Env["READY"]; ready != "" {
		eventually(t, "the program is ready", exists(ready))
	}
	cancel(cause)
	err = <-result
	allEnd(t, dir, n)
	return err
}

func TestProgramIsToldToStopWhenItsTimeIsOver(t *testing.T) {
	noLeaks(t)
	p := child(t, "stays")
	p.KillAfter = time.Hour
	if err := cancelled(t, p, 1, dispatcher.ErrTimeout); err == nil || !strings.Contains(err.Error(), "handler: stopped: signal: terminated") {
		t.Errorf("got %v, want that it was stopped", err)
	}
}

func TestProgramAndItsChildAreKilledIfTheyDoNotStop(t *testing.T) {
	noLeaks(t)
	p := child(t, "stubborn")
	p.KillAfter = 50 * time.Millisecond
	if err := cancelled(t, p, 2, dispatcher.ErrTimeout); err == nil || !strings.Contains(err.Error(), "handler: stopped: signal: killed") {
		t.Errorf("got %v, want that it was killed", err)
	}
}

func TestProgramThatExitsWith0WhenToldToStopHasNotDoneTheJob(t *testing.T) {
	noLeaks(t)
	p := child(t, "obliging", "READY", filepath.Join(t.TempDir(), "ready"))
	p.KillAfter = time.Hour
	if err := cancelled(t, p, 1, dispatcher.ErrTimeout); kindOf(err) != "retry" || !strings.HasSuffix(err.Error(), "exit status 0: ready\nas you like") {
		t.Errorf("got %v, want an error that says how it ended", err)
	}
}

func TestStoppingDispatcherDoesNotWaitForLongPatience(t *testing.T) {
	p := Program{KillAfter: time.Hour}
	for cause, want := range map[error]time.Duration{
		dispatcher.ErrTimeout: time.Hour, dispatcher.ErrSessionLost: time.Hour, dispatcher.ErrStopping: stoppingPatience, errClosed: 0,
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if got := p.patience(ctx); got != want {
			t.Errorf("%v: got %v, want %v", cause, got, want)
		}
	}
	p.KillAfter = time.Second
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(dispatcher.ErrStopping)
	if got := p.patience(ctx); got != time.Second {
		t.Errorf("got %v, want 1s", got)
	}
}

func TestWhatAProgramLeavesInItsGroupIsKilled(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	if _, err := run(t, ExecOptions{Program: child(t, "parent", "PIDS", dir)}, newJob(`1`)); err != nil {
		t.Errorf("got %v, want the job done", err)
	}
	for _, pid := range notedPIDs(t, dir) { // the child may have been killed before it could note itself
		eventually(t, "it ends", func() bool { return !alive(pid) })
	}
}

func TestProcessThatHasLeftTheGroupDoesNotHoldTheJobUp(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	t.Cleanup(func() {
		for _, pid := range notedPIDs(t, dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // nobody else does
		}
	})
	log, err := run(t, ExecOptions{Program: child(t, "escaping parent", "PIDS", dir)}, newJob(`"`+strings.Repeat("a", 1<<20)+`"`))
	if err != nil {
		t.Errorf("got %v, want the job done", err)
	}
	log.await(t, "its output", has("stdout", "left one behind"))
	eventually(t, "both are known", func() bool { return len(notedPIDs(t, dir)) == 2 })
}

func TestChildOutlivesTheThreadsOfOthers(t *testing.T) {
	noLeaks(t)
	ready, proceed := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "go")
	e, err := NewExec(ExecOptions{Program: child(t, "waits for a file", "READY", ready, "GO", proceed)})
	e = closing(t, e, err)
	result := make(chan error, 20)
	for range cap(result) {
		go func() { result <- e.Handle(t.Context(), newJob(`1`)) }()
	}
	eventually(t, "a program runs", exists(ready))
	// Each goroutine that returns with its thread locked takes the thread with it.
	for range 200 {
		over := make(chan struct{})
		go func() {
			defer close(over)
			runtime.LockOSThread()
		}()
		<-over
	}
	if err := os.WriteFile(proceed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range cap(result) {
		if err := <-result; err != nil {
			t.Errorf("got %v, want that no program is killed", err)
		}
	}
}

func TestCloseWaitsForProgramsAndKillsThemWhenItsTimeIsOver(t *testing.T) {
	noLeaks(t)
	ready, proceed := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "go")
	p := child(t, "waits for a file", "READY", ready, "GO", proceed)
	for _, wait := range []bool{true, false} {
		e, err := NewExec(ExecOptions{Program: p})
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(ready)
		_ = os.Remove(proceed)
		result := make(chan error, 1)
		go func() { result <- e.Handle(t.Context(), newJob(`1`)) }()
		eventually(t, "the program runs", exists(ready))
		ctx, cancel := context.WithCancel(t.Context())
		if !wait {
			cancel()
		}
		closed := make(chan error, 1)
		go func() { closed <- e.Close(ctx) }()
		if wait {
			if err := os.WriteFile(proceed, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-result; (err == nil) != wait {
			t.Errorf("waiting %v: got %v from the run", wait, err)
		}
		if err := <-closed; (err == nil) != wait {
			t.Errorf("waiting %v: got %v from Close", wait, err)
		}
		if err := e.Handle(t.Context(), newJob(`1`)); kindOf(err) != "snooze" {
			t.Errorf("got %v from a closed handler, want the job put off", err)
		}
		cancel()
		if err := e.Close(ctx); err != nil {
			t.Errorf("got %v from a second Close, which has found nothing to stop; want nil", err)
		}
	}
}

func TestTailKeepsWholeCharactersOfTheEnd(t *testing.T) {
	for limit := range 12 {
		kept := tail{limit: limit + 1}
		for _, c := range []byte("aé€\U0001F34Eb") {
			if n, err := kept.Write([]byte{c}); n != 1 || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		if got := kept.String(); len(got) > kept.limit || !strings.HasSuffix("aé€\U0001F34Eb", got) {
			t.Errorf("%d bytes: got %q, want an end of the text", kept.limit, got)
		}
	}
	var kept head
	kept.limit = 3
	_, _ = io.WriteString(&kept, "ab")
	_, _ = io.WriteString(&kept, "cd")
	if string(kept.kept) != "abc" || kept.size != 4 {
		t.Errorf("got %q of %d, want abc of 4", kept.kept, kept.size)
	}
}
