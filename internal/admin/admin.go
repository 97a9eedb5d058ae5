// Package admin is what those who run the daemon ask of it, and what it tells them: probes, metrics and
// profiles over HTTP, and its state to systemd.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Bounds of the listener. Who is slow to ask, or to listen, holds a connection for no longer than these.
const (
	headerTime = 5 * time.Second  // for the head of a request
	readTime   = 30 * time.Second // for all of it
	writeTime  = 30 * time.Second // for the answer; a profile's own duration comes on top
	idleTime   = 60 * time.Second // between requests
	maxHeader  = 16 << 10         // bytes

	// closeTime is how long the requests that are under way have when the listener closes.
	closeTime = 5 * time.Second
)

// Routes are what the listener serves. What is nil is not there.
type Routes struct {
	Health  *Health
	Metrics http.Handler
	API     http.Handler // all below /api/, the prefix included; it sees to its own limits and access
	PProf   bool         // Go's profiles, below /debug/pprof/: not for strangers, who could slow the process down
}

// Handler serves the routes. Nothing but the API takes a body or another method than GET and HEAD.
func (r Routes) Handler() http.Handler {
	mux := http.NewServeMux()
	if r.Health != nil {
		mux.HandleFunc("GET /livez", r.Health.live)
		mux.HandleFunc("GET /readyz", r.Health.ready)
	}
	if r.Metrics != nil {
		mux.Handle("GET /metrics", r.Metrics)
	}
	if r.PProf {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound) // arguments may hold an address with a password
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if r.API != nil {
		mux.Handle("/api/", r.API)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, request)
	})
}

// Listener is an address that is listened on.
type Listener struct {
	listener net.Listener
	server   *http.Server
}

// Listen takes the address, such as 127.0.0.1:9464, and fails if it cannot. It must be followed by
// [Listener.Run], which serves and lets go of it.
func Listen(ctx context.Context, address string, handler http.Handler, log *slog.Logger) (*Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("admin: choose another http.address: %w", err)
	}
	return &Listener{listener: l, server: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		// Anyone who can connect can cause these.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr is the address, with the port that was chosen if it was 0.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Run serves until ctx ends, then lets the requests under way end for up to 5 s and cuts off the others. It
// returns nil after that. While the daemon drains it should go on, so that the probes hear of it: its
// ctx is to end after the dispatcher has.
func (l *Listener) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- l.server.Serve(l.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin: serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if l.server.Shutdown(closing) != nil {
		_ = l.server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: serve %s: %w", l.Addr(), err)
	}
	return nil
}
