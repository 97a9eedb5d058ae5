//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"bufio"
	"context"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

// example is the path of an example, whose interpreter has to be there.
func example(t *testing.T, name, interpreter string) Program {
	t.Helper()
	if _, err := exec.LookPath(interpreter); err != nil {
		t.Skipf("%s is not installed, so examples/%s is not tried", interpreter, name)
	}
	path, err := filepath.Abs(filepath.Join("..", "..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	// What a version manager puts in the place of an interpreter may need HOME.
	return Program{Command: []string{path}, Inherit: []string{"PATH", "HOME"}}
}

func TestExamplesOfWorkersWork(t *testing.T) {
	for name, interpreter := range map[string]string{"worker.py": "python3", "worker.mjs": "node", "worker.sh": "sh"} {
		t.Run(name, func(t *testing.T) {
			o := WorkerOptions{Program: example(t, name, interpreter), StartTimeout: patience}
			o.Env, o.KillAfter = map[string]string{}, 2*patience
			w, log := newWorker(t, o)
			for range 3 {
				if err := w.Handle(t.Context(), newJob(`{"kind": "Cox,\"data\":"}`)); err != nil {
					t.Fatalf("got %v, want the job done", err)
				}
			}
			log.await(t, "what it says", has("stderr", "ate"))
			want := "fail"
			if name == "worker.sh" {
				want = "retry"
			}
			if err := w.Handle(t.Context(), newJob(`"a stone"`)); kindOf(err) != want || !strings.Contains(err.Error(), "cannot eat") {
				t.Errorf("got %s (%v), want %s", kindOf(err), err, want)
			}
			if name == "worker.sh" {
				return // it hears of no cancel
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			result := make(chan error, 1)
			go func() { result <- w.Handle(ctx, newJob(`{"sleep": 86400}`)) }()
			cancel(dispatcher.ErrTimeout) // perhaps before it has come to sleep
			if err := <-result; kindOf(err) != "retry" || strings.Contains(err.Error(), "signal") {
				t.Errorf("got %v, want that it stops by itself", err)
			}
			if err := w.Handle(t.Context(), newJob(`{"kind": "Cox"}`)); err != nil {
				t.Errorf("got %v after a cancel, want the job done", err)
			}
			if name != "worker.py" {
				return
			}
			if err := w.Handle(t.Context(), newJob(`{"later": 60}`)); kindOf(err) != "snooze" {
				t.Errorf("got %v, want it put off", err)
			}
		})
	}
}

func TestExampleOfAProgramWorks(t *testing.T) {
	log, err := run(t, ExecOptions{Program: example(t, "exec.sh", "sh")}, newJob(`{"kind": "Cox"}`))
	if err != nil {
		t.Fatal(err)
	}
	log.await(t, "its output", has("stdout", `ate {"kind": "Cox"}`))
	_, err = run(t, ExecOptions{Program: example(t, "exec.sh", "sh")}, newJob(`"a stone"`))
	if kindOf(err) != "discard" || !strings.Contains(err.Error(), `job 7 of apples: cannot eat "a stone"`) {
		t.Errorf("got %s (%v), want the job discarded", kindOf(err), err)
	}
}

func TestExampleOfAnEndpointWorks(t *testing.T) {
	noLeaks(t)
	p := example(t, "webhook.py", "python3")
	server := exec.CommandContext(t.Context(), p.Command[0], "0")
	server.Env = append(os.Environ(), "WEBHOOK_SECRET="+keys[0])
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.WaitDelay = 10 * time.Second
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url = strings.TrimSpace(url)
	h, err := NewHTTP(HTTPOptions{URL: url, Secrets: []string{keys[1], keys[0]}}) // either will do
	h = closing(t, h, err)
	for data, want := range map[string]string{`{"kind": "Cox"}`: "done", `"stale"`: "discard"} {
		if err := h.Handle(t.Context(), newJob(data)); kindOf(err) != want {
			t.Errorf("%s: got %s (%v), want %s", data, kindOf(err), err, want)
		}
	}
	wrong := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("no", 16)))
	h, err = NewHTTP(HTTPOptions{URL: url, Secrets: []string{wrong}})
	h = closing(t, h, err)
	if err := h.Handle(t.Context(), newJob(`1`)); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: bad signature") {
		t.Errorf("got %v, want it refused", err)
	}
}
