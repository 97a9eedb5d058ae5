//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

// What a job costs beside its own work, one after another:
//
//	go test -run '^$' -bench . ./internal/handler
func BenchmarkExec(b *testing.B) {
	path, err := exec.LookPath("true")
	if err != nil {
		b.Skip("there is no program named true")
	}
	e, err := NewExec(ExecOptions{Program: Program{Command: []string{path}}})
	jobs(b, closing(b, e, err))
}

func BenchmarkExecPython(b *testing.B) {
	path, err := exec.LookPath("python3")
	if err != nil {
		b.Skip("there is no python3")
	}
	e, err := NewExec(ExecOptions{Program: Program{Command: []string{path, "-c", "import json"}, Inherit: []string{"PATH", "HOME"}}})
	jobs(b, closing(b, e, err))
}

func BenchmarkWorker(b *testing.B) {
	w, err := NewWorker(WorkerOptions{Program: child(b, "worker"), Logger: slog.New(slog.DiscardHandler)})
	jobs(b, closing(b, w, err))
}

func BenchmarkWorkerPython(b *testing.B) {
	path, err := exec.LookPath("python3")
	if err != nil {
		b.Skip("there is no python3")
	}
	const loop = `
import json, sys
print('{"ready":true,"protocol":1}', flush=True)
for line in sys.stdin:
    print(json.dumps({"id": json.loads(line)["id"], "outcome": "done"}), flush=True)`
	w, err := NewWorker(WorkerOptions{
		Program: Program{Command: []string{path, "-c", loop}, Inherit: []string{"PATH", "HOME"}}, Logger: slog.New(slog.DiscardHandler), StartTimeout: time.Minute})
	jobs(b, closing(b, w, err))
}

func BenchmarkHTTP(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.Cleanup(server.Close)
	h, err := NewHTTP(HTTPOptions{URL: server.URL, Secrets: keys})
	jobs(b, closing(b, h, err))
}

func jobs(b *testing.B, h dispatcher.Handler) {
	job := newJob(`"done"`)
	if err := h.Handle(b.Context(), job); err != nil { // once it has started
		b.Fatal(err)
	}
	for b.Loop() {
		if err := h.Handle(b.Context(), job); err != nil {
			b.Fatal(err)
		}
	}
}
