// Whether the daemon lives, and whether it is ready.

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// checkTime bounds what one look at the database, or one question to the dispatcher's loop, may take.
	checkTime = time.Second

	// freshTime is how long the answer to one is given again: however many probe, the database is asked at
	// most every so often.
	freshTime = 2 * time.Second
)

// Dispatcher can be asked how it is: a [dispatcher.Dispatcher]. Its loop answers, so that an answer shows that it
// is not stuck; an error says that none came before ctx ended, or that the dispatcher does not run.
type Dispatcher interface {
	State(ctx context.Context) (dispatcher.State, error)
}

// Database is asked whether it can be reached and has a schema that this build works with: a [store.Store].
type Database interface {
	CheckSchema(ctx context.Context) error
}

// Health answers the probes. Make it with [NewHealth].
type Health struct {
	dispatcher Dispatcher
	database   Database
	log        *slog.Logger
	draining   atomic.Bool

	turn   chan struct{} // of capacity 1, and owned by who has put into it: what follows
	until  time.Time     // when the last report is no longer good
	report report
	told   bool // whether it was ever logged
}

// NewHealth is the health of a dispatcher and its database. What makes it change from ready to not ready, and
// back, goes to log.
func NewHealth(d Dispatcher, db Database, log *slog.Logger) *Health {
	return &Health{dispatcher: d, database: db, log: log, turn: make(chan struct{}, 1)}
}

// Drain makes the daemon not ready, from now on: it is about to end. It stays alive.
func (h *Health) Drain() { h.draining.Store(true) }

// report is the answer to a readiness probe. It says no more than a stranger may know.
type report struct {
	Ready    bool             `json:"ready"`
	Draining bool             `json:"draining"`
	Checks   map[string]check `json:"checks"`
}

type check struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // if not
}

// live answers 200 if the dispatcher's loop does, or the daemon is about to end. That the database is away
// does not count: a restart would not bring it back.
func (h *Health) live(w http.ResponseWriter, r *http.Request) {
	if err := h.Alive(r.Context()); err != nil {
		http.Error(w, "the dispatcher does not answer", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// Alive returns nil if the dispatcher's loop answers within a second, or the daemon is about to end.
func (h *Health) Alive(ctx context.Context) error {
	if h.draining.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	_, err := h.dispatcher.State(ctx)
	return err
}

// ready answers 200 or 503, with the reasons as JSON.
func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	found, err := h.look(r.Context())
	if err != nil {
		return // who asked has gone
	}
	w.Header().Set("Content-Type", "application/json")
	if !found.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(found)
}

// look returns the last report, or makes a new one if that is too old. One is made at a time, and who asks
// meanwhile gets it too.
func (h *Health) look(ctx context.Context) (report, error) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return report{}, ctx.Err()
	}
	if !time.Now().Before(h.until) {
		h.report = h.examine(context.WithoutCancel(ctx)) // it is for the others too
		h.until = time.Now().Add(freshTime)
	}
	found := h.report
	found.Draining = h.draining.Load() // at once, not when the report is renewed
	found.Ready = found.Ready && !found.Draining
	return found, nil
}

// examine asks the database and the dispatcher at the same time.
func (h *Health) examine(ctx context.Context) report {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var asking sync.WaitGroup
	var fromDatabase, fromLoop error
	var state dispatcher.State
	asking.Go(func() { fromDatabase = h.database.CheckSchema(ctx) })
	asking.Go(func() { state, fromLoop = h.dispatcher.State(ctx) })
	asking.Wait()

	database, schema := verdict(fromDatabase == nil, "cannot be reached within 1 s"), check{OK: true}
	switch {
	case isAbout(fromDatabase, store.ErrNotMigrated, store.ErrNewerSchema, store.ErrName):
		database, schema = check{OK: true}, check{Reason: fromDatabase.Error()}
	case fromDatabase != nil:
		schema = check{Reason: "not known while the database cannot be asked"}
	}
	found := report{Checks: map[string]check{
		"database":     database,
		"schema":       schema,
		"dispatcher":   verdict(fromLoop == nil, "its loop does not answer"),
		"listener":     verdict(fromLoop == nil && state.Listening, "the connection that listens is not up; it reconnects by itself"),
		"lock_session": verdict(fromLoop == nil && state.Holding, "the connection that holds the locks is not up; it reconnects by itself"),
	}}
	found.Ready = true
	for _, c := range found.Checks {
		found.Ready = found.Ready && c.OK
	}
	h.tell(found, errors.Join(fromDatabase, fromLoop))
	return found
}

func verdict(ok bool, reason string) check {
	if ok {
		return check{OK: true}
	}
	return check{Reason: reason}
}

func isAbout(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// tell logs what has changed since the last report.
func (h *Health) tell(found report, err error) {
	if h.told && found.Ready == h.report.Ready || h.draining.Load() {
		return
	}
	h.told = true
	if found.Ready {
		h.log.Info("ready")
		return
	}
	var failed []string
	for _, name := range []string{"database", "schema", "dispatcher", "listener", "lock_session"} {
		if !found.Checks[name].OK {
			failed = append(failed, name)
		}
	}
	h.log.Warn("not ready", "failed", failed, "error", err)
}
