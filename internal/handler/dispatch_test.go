//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// All three, with a real dispatcher and a real table: what they return becomes what was meant.
func TestJobsOfATableAreRunByAllKindsOfHandlers(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	jobs := store.New(pool, store.Options{})
	if err := jobs.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		switch string(data) {
		case `"discard"`:
			w.WriteHeader(http.StatusGone)
		case `"retry"`:
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "worm")
		}
	}))
	t.Cleanup(server.Close)
	quiet := slog.New(slog.DiscardHandler)

	h, err := NewHTTP(HTTPOptions{URL: server.URL})
	h = closing(t, h, err)
	w, err := NewWorker(WorkerOptions{Program: child(t, "worker"), Processes: 2, Logger: quiet})
	w = closing(t, w, err)
	e, err := NewExec(ExecOptions{Program: child(t, "as it says"), Logger: quiet})
	e = closing(t, e, err)

	d := dispatcher.New(jobs, dispatcher.Options{Logger: quiet, Queue: dispatcher.QueueOptions{Retry: retry.Fixed(0), MaxAttempts: 2}})
	ids := map[string]int64{}
	for queue, handler := range map[string]dispatcher.Handler{"http": h, "worker": w, "exec": e} {
		d.HandleAll(queue, handler)
		for _, what := range []string{"done", "discard", "retry"} {
			id, err := jobs.Queue(queue).Put(t.Context(), what)
			if err != nil {
				t.Fatal(err)
			}
			ids[queue+" "+what] = id
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("got %v from Run", err)
		}
	}()
	for name, id := range ids {
		_, what, _ := strings.Cut(name, " ")
		eventually(t, name+" has its outcome", func() bool {
			var lastError string
			var there int
			err := pool.QueryRow(t.Context(), `
				select count(*), coalesce(max(last_error), '')
				from public.queue
				where id = $1 and (last_error is null or attempt = 2)`, id).Scan(&there, &lastError)
			if err != nil {
				t.Fatal(err)
			}
			if what == "retry" {
				return strings.Contains(lastError, "worm")
			}
			return there == 0
		})
	}
}

func init() {
	children["as it says"] = func() {
		data, err := io.ReadAll(os.Stdin)
		must(err)
		if code := map[string]int{`"discard"`: exitDiscard, `"retry"`: 75}[string(data)]; code != 0 {
			fmt.Fprintln(os.Stderr, "worm")
			os.Exit(code)
		}
	}
}
