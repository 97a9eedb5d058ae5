package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var discard = slog.New(slog.DiscardHandler)

// loop is a dispatcher's that answers, or does not.
type loop struct {
	listening, holding atomic.Bool
	stuck              atomic.Bool
}

func newLoop() *loop {
	l := &loop{}
	l.listening.Store(true)
	l.holding.Store(true)
	return l
}

func (l *loop) State(ctx context.Context) (dispatcher.State, error) {
	if l.stuck.Load() {
		<-ctx.Done()
		return dispatcher.State{}, ctx.Err()
	}
	return dispatcher.State{Listening: l.listening.Load(), Holding: l.holding.Load()}, nil
}

// database answers with an error, or without one, or not at all.
type database struct {
	asked atomic.Int32
	err   atomic.Pointer[error]
	stuck bool
}

func (d *database) CheckSchema(ctx context.Context) error {
	d.asked.Add(1)
	if d.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *database) fail(err error) *database {
	d.err.Store(&err)
	return d
}

// probe asks and returns the status, and the report if there is one.
func probe(t *testing.T, h *Health, path string) (int, report) {
	t.Helper()
	response := httptest.NewRecorder()
	Routes{Health: h}.Handler().ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	var got report
	if path == "/readyz" {
		if err := json.Unmarshal(response.Body.Bytes(), &got); err != nil {
			t.Errorf("got %q, want JSON: %v", response.Body, err)
		}
	}
	return response.Code, got
}

func TestTheDaemonIsReadyIfAllThatItNeedsIsThere(t *testing.T) {
	const checks = "database schema dispatcher listener lock_session"
	tests := map[string]struct {
		change func(*loop, *database, *Health)
		failed string
	}{
		"all is there":             {func(*loop, *database, *Health) {}, ""},
		"the database is away":     {func(_ *loop, d *database, _ *Health) { d.fail(errors.New("refused, password=x")) }, "database schema"},
		"the database hangs":       {func(_ *loop, d *database, _ *Health) { d.stuck = true }, "database schema"},
		"it is not migrated":       {func(_ *loop, d *database, _ *Health) { d.fail(fmt.Errorf("x: %w", store.ErrNotMigrated)) }, "schema"},
		"its schema is newer":      {func(_ *loop, d *database, _ *Health) { d.fail(fmt.Errorf("x: %w", store.ErrNewerSchema)) }, "schema"},
		"it does not listen":       {func(l *loop, _ *database, _ *Health) { l.listening.Store(false) }, "listener"},
		"it holds no lock session": {func(l *loop, _ *database, _ *Health) { l.holding.Store(false) }, "lock_session"},
		"its loop is stuck":        {func(l *loop, _ *database, _ *Health) { l.stuck.Store(true) }, "dispatcher listener lock_session"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, d := newLoop(), &database{}
				h := NewHealth(l, d, discard)
				test.change(l, d, h)
				start := time.Now()
				status, got := probe(t, h, "/readyz")
				if took := time.Since(start); took > checkTime {
					t.Errorf("got the answer after %v, want it within %v", took, checkTime)
				}
				var failed []string
				for name := range strings.FieldsSeq(checks) {
					if got.Checks[name].OK {
						continue
					}
					failed = append(failed, name)
					if got.Checks[name].Reason == "" || strings.Contains(got.Checks[name].Reason, "password") {
						t.Errorf("%s: got the reason %q, want one that a stranger may read", name, got.Checks[name].Reason)
					}
				}
				if got := strings.Join(failed, " "); got != test.failed {
					t.Errorf("got %q failed, want %q", got, test.failed)
				}
				want := http.StatusOK
				if test.failed != "" {
					want = http.StatusServiceUnavailable
				}
				if status != want || got.Ready != (test.failed == "") {
					t.Errorf("got status %d, ready %v; want %d", status, got.Ready, want)
				}
			})
		})
	}
}

func TestADrainingDaemonLivesButIsNotReady(t *testing.T) {
	l, d := newLoop(), &database{}
	h := NewHealth(l, d, discard)
	if status, _ := probe(t, h, "/readyz"); status != http.StatusOK {
		t.Errorf("got status %d, want 200", status)
	}
	h.Drain()
	status, got := probe(t, h, "/readyz") // the last report is still fresh
	if status != http.StatusServiceUnavailable || got.Ready || !got.Draining {
		t.Errorf("got status %d, %+v; want 503 and draining", status, got)
	}
	l.stuck.Store(true) // it has ended
	if status, _ := probe(t, h, "/livez"); status != http.StatusOK {
		t.Errorf("got %d from /livez, want 200", status)
	}
}

func TestTheDaemonLivesIfItsLoopAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop()
		d := (&database{}).fail(errors.New("away"))
		h := NewHealth(l, d, discard)
		if status, _ := probe(t, h, "/livez"); status != http.StatusOK {
			t.Errorf("got status %d while only the database is away, want 200", status)
		}
		l.stuck.Store(true)
		if status, _ := probe(t, h, "/livez"); status != http.StatusServiceUnavailable {
			t.Errorf("got status %d while the loop is stuck, want 503", status)
		}
		if got := d.asked.Load(); got != 0 {
			t.Errorf("got %d questions to the database, want none: it says nothing about life", got)
		}
	})
}

func TestProbesCannotLoadTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{}
		h := NewHealth(newLoop(), d, discard)
		for range 3 {
			var probing sync.WaitGroup
			for range 100 {
				probing.Go(func() {
					if _, err := h.look(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			probing.Wait()
			time.Sleep(freshTime)
		}
		if got := d.asked.Load(); got != 3 {
			t.Errorf("got %d questions to the database for 300 probes in 3 periods, want 3", got)
		}
	})
}

func TestAProbeThatGoesAwayHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(newLoop(), &database{stuck: true}, discard)
		go func() { _, _ = h.look(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.look(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want it to have gone", err)
		}
		time.Sleep(checkTime)
	})
}

func TestWhatChangesIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLoop()
		h := NewHealth(l, &database{}, slog.New(slog.NewTextHandler(&out, nil)))
		for _, up := range []bool{true, true, false, false, true} {
			l.listening.Store(up)
			if _, err := h.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(freshTime)
		}
		got := out.String()
		if strings.Count(got, "msg=ready") != 2 || strings.Count(got, `msg="not ready" failed=[listener]`) != 1 {
			t.Errorf("got the log\n%s\nwant ready, not ready, ready", got)
		}
	})
}

func TestARealDatabaseIsReadyOnceItIsMigrated(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	jobs := store.New(pool, store.Options{})
	look := func() report {
		t.Helper()
		found, err := NewHealth(newLoop(), jobs, discard).look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if got := look(); got.Ready || !got.Checks["database"].OK || got.Checks["schema"].OK || !strings.Contains(got.Checks["schema"].Reason, "migrate up") {
		t.Errorf("got %+v before the migration, want the schema to fail, with what to do", got)
	}
	if err := jobs.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(); !got.Ready {
		t.Errorf("got %+v after the migration, want it ready", got)
	}
	pool.Close()
	if got := look(); got.Ready || got.Checks["database"].OK {
		t.Errorf("got %+v without a connection, want the database to fail", got)
	}
}
