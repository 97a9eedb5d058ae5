// Package api is the HTTP API of the daemon: to put jobs, to look at them, and to operate them and their queues.
// openapi.yaml says what it takes and gives; a test holds the two together.
package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/time/rate"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	bodyTime = 10 * time.Second // for the body of a request to arrive
	workTime = 10 * time.Second // for what is then asked of the database

	defaultMaxBody = 1 << 20 // bytes
)

// Options of the API. Jobs and Token are needed.
type Options struct {
	Jobs *store.Store // over a pool: many requests are served at once

	// Token returns the bearer token that callers must send. It is asked for each request, so that it may change. When
	// it is empty every request is refused.
	Token func() string

	MaxBody           int64        // largest body of a request, in bytes; zero: 1 MiB
	RequestsPerSecond float64      // of those who have the token; more are told to come later; zero: no limit
	Log               *slog.Logger // nil: slog.Default()
}

type api struct {
	jobs    *store.Store
	token   func() string
	maxBody int64
	limit   *rate.Limiter // nil: none
	log     *slog.Logger
	mux     *http.ServeMux

	// Anyone can cause what these say.
	strangers, failures rate.Sometimes
}

// New returns the API, which serves all below /api/. What changes but the token needs another one: it holds nothing
// that would have to be closed. It panics without Jobs, or if they are over one connection.
func New(o Options) http.Handler {
	if o.Jobs == nil || !o.Jobs.Concurrent() {
		panic("api: Options.Jobs has to be a store over a pool")
	}
	a := &api{
		jobs: o.Jobs, token: o.Token, maxBody: o.MaxBody, log: o.Log, mux: http.NewServeMux(),
		strangers: rate.Sometimes{Interval: time.Minute}, failures: rate.Sometimes{Interval: time.Second},
	}
	if a.maxBody == 0 {
		a.maxBody = defaultMaxBody
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	if o.RequestsPerSecond > 0 {
		a.limit = rate.NewLimiter(rate.Limit(o.RequestsPerSecond), int(max(1, o.RequestsPerSecond)))
	}
	resources := map[string]map[string]route{}
	for _, r := range a.routes() {
		if resources[r.path] == nil {
			resources[r.path] = map[string]route{}
		}
		resources[r.path][r.method] = r
	}
	// By path only: the methods are looked at here, so that a wrong one is answered as any other mistake.
	for path, methods := range resources {
		a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, methods) })
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { a.refuse(w, r, noRoute()) })
	return a
}

// route is what is done for one method on one path.
type route struct {
	method, path string
	parameters   []string // that the query may have
	do           func(*request) (answer, error)
}

func (a *api) routes() []route {
	return []route{
		{http.MethodPost, "/api/v1/queues/{queue}/jobs", nil, a.put},
		{http.MethodPost, "/api/v1/queues/{queue}/jobs/batch", nil, a.putMany},
		{http.MethodGet, "/api/v1/jobs", []string{"queue", "state", "task", "limit", "after"}, a.list},
		{http.MethodGet, "/api/v1/jobs/{id}", nil, a.find},
		{http.MethodDelete, "/api/v1/jobs/{id}", nil, a.discard},
		{http.MethodPost, "/api/v1/jobs/{id}/retry", nil, a.retry},
		{http.MethodPost, "/api/v1/jobs/{id}/cancel", nil, a.cancel},
		{http.MethodGet, "/api/v1/queues", nil, a.queues},
		{http.MethodGet, "/api/v1/queues/{queue}", nil, a.queue},
		{http.MethodPost, "/api/v1/queues/{queue}/pause", nil, a.pause},
		{http.MethodPost, "/api/v1/queues/{queue}/resume", nil, a.resume},
		{http.MethodGet, "/api/v1/dispatchers", nil, a.dispatchers},
		{http.MethodGet, "/api/v1/openapi.yaml", nil, document},
	}
}

//go:embed openapi.yaml
var openapi []byte

func document(*request) (answer, error) {
	return answer{status: http.StatusOK, document: openapi}, nil
}

// answer is that to a request which was done.
type answer struct {
	status   int
	location string // of what was made; empty: none
	value    any    // sent as JSON
	document []byte // sent as YAML, instead of the value
}

func ok(value any) (answer, error) { return answer{status: http.StatusOK, value: value}, nil }

// ServeHTTP lets in who has the token, as often as the limit allows.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := a.admit(w, r); err != nil {
		a.refuse(w, r, err)
		return
	}
	// The mux would redirect to a cleaner path, where another queue may be.
	if p := r.URL.EscapedPath(); path.Clean(p) != p {
		a.refuse(w, r, noRoute())
		return
	}
	a.mux.ServeHTTP(w, r)
}

func (a *api) admit(w http.ResponseWriter, r *http.Request) error {
	if !a.knows(r) {
		a.strangers.Do(func() {
			a.log.Warn("api: request refused: it does not have the token (http.api.token)", "remote", r.RemoteAddr)
		})
		w.Header().Set("WWW-Authenticate", `Bearer realm="pq-dispatch"`)
		return unauthorized.because("send the header Authorization: Bearer TOKEN, with the token of the daemon's configuration (http.api.token)")
	}
	if a.limit == nil {
		return nil
	}
	turn := a.limit.Reserve()
	if wait := turn.Delay(); wait > 0 {
		turn.Cancel()
		p := tooManyRequests.because("the daemon serves %v requests a second (http.api.requests_per_second); send them more slowly, or put many jobs by one", a.limit.Limit())
		p.retryAfter = wait
		return p
	}
	return nil
}

// knows tells whether the request has the token. It compares hashes, so that neither the length nor the first
// wrong letter shows in the time that it takes.
func (a *api) knows(r *http.Request) bool {
	given := r.Header["Authorization"]
	if a.token == nil || len(given) != 1 {
		return false
	}
	want := a.token()
	scheme, got, _ := strings.Cut(given[0], " ")
	wanted, had := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(strings.TrimSpace(got)))
	return subtle.ConstantTimeCompare(wanted[:], had[:]) == 1 && strings.EqualFold(scheme, "Bearer") && want != ""
}

// serve answers a request to one resource, by its method.
func (a *api) serve(w http.ResponseWriter, r *http.Request, methods map[string]route) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // without the body, which the server sees to
	}
	route, known := methods[method]
	if !known {
		allowed := slices.Collect(maps.Keys(methods))
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		w.Header().Set("Allow", strings.Join(append(allowed, http.MethodOptions), ", "))
		if method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		a.refuse(w, r, wrongMethod.because("use one of %s", w.Header().Get("Allow")))
		return
	}
	start := time.Now()
	out, err := a.do(w, r, route)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.log.Debug("api: request", "method", r.Method, "route", r.Pattern, "status", out.status, "duration", time.Since(start))
	a.send(w, r, out)
}

func (a *api) do(w http.ResponseWriter, r *http.Request, route route) (answer, error) {
	asked, err := a.read(w, r, route)
	if err != nil {
		return answer{}, err
	}
	// What is put carries the caller's trace.
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	asked.Request = r.WithContext(ctx)
	return route.do(asked)
}

func (a *api) send(w http.ResponseWriter, r *http.Request, out answer) {
	mediaType, text := "application/yaml", out.document
	if text == nil {
		mediaType = "application/json"
		var err error
		if text, err = encode(out.value); err != nil {
			a.refuse(w, r, err)
			return
		}
	}
	if out.location != "" {
		w.Header().Set("Location", out.location)
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(out.status)
	_, _ = w.Write(text) // who does not listen any more, cannot be told either
}

// encode writes JSON as it is: no browser reads it as HTML, so that <, > and & can stay.
func encode(value any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, internal.because("the answer could not be written as JSON").causedBy(err)
	}
	return b.Bytes(), nil
}

// refuse answers with what was wrong. What is wrong here and not with the request is logged.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err, r.Method)
	level := slog.LevelDebug
	if p.Status >= http.StatusInternalServerError && r.Context().Err() == nil { // else who asked has gone
		a.failures.Do(func() { level = slog.LevelWarn })
	}
	attributes := []any{"method", r.Method, "route", r.Pattern, "status", p.Status, "code", p.Code}
	if p.Status >= http.StatusInternalServerError {
		attributes = append(attributes, "error", p.cause) // of others, the text may be the caller's
	}
	a.log.Log(r.Context(), level, "api: request refused", attributes...)
	if p.retryAfter > 0 {
		seconds := (p.retryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	text, _ := encode(p) // it is made of strings, and has nothing that could fail
	_, _ = w.Write(text)
}
