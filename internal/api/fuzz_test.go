package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// FuzzRequest sends any request, with the token, to an API whose database cannot be reached: what is not the
// caller's mistake is said to be that.
func FuzzRequest(f *testing.F) {
	for _, r := range [][3]string{
		{"GET", "/api/v1/jobs?queue=a&state=waiting&limit=1&after=x", ""}, {"GET", "/api/v1/jobs?limit=99999999999999999999", ""}, {"GET", "/api/v1/jobs?limit=-1&limit=1", ""},
		{"POST", "/api/v1/queues/a/jobs", `{"data": 1}`}, {"POST", "/api/v1/queues/a%2Fb/jobs/batch", `{"jobs": [{"data": 1}, {"data": [2]}]}`}, {"POST", "/api/v1/queues/%00/jobs", `{"data": 1}`},
		{"POST", "/api/v1/queues/a/jobs/batch", `{"jobs": null}`}, {"POST", "/api/v1/queues/a/jobs/batch", `{"jobs": [1, {}, {"data": 1, "data": 2}]}`},
		{"POST", "/api/v1/queues/a/pause", `{"for": "5m", "reason": "\u0000"}`}, {"POST", "/api/v1/queues/a/pause", `{"until": "2030-01-01T00:00:00Z", "until": null}`}, {"POST", "/api/v1/queues/a/resume", ``},
		{"DELETE", "/api/v1/jobs/1", ""}, {"GET", "/api/v1/jobs/-0", ""}, {"GET", "/api/v1/jobs/9223372036854775808", ""}, {"POST", "/api/v1/jobs/1/retry", `{"keep_attempts": true}`},
		{"GET", "/api/v1/../../etc/passwd", ""}, {"GET", "//api/v1/jobs", ""}, {"GET", "/api/v1/queues/..%2f..%2f", ""}, {"BREW", "/api/v1/jobs", ""}, {"GET", "/api/v1/jobs?%zz", ""},
		{"POST", "/api/v1/queues/a/jobs", strings.Repeat(`{"data":`, 10_000)}, {"OPTIONS", "/api/v1/queues/a", ""}, {"HEAD", "/api/v1/dispatchers", ""},
	} {
		f.Add(r[0], r[1], r[2])
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	pool, err := pgxpool.New(f.Context(), "postgres://127.0.0.1:1/nowhere")
	check(f, err)
	f.Cleanup(pool.Close)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		request, err := http.NewRequestWithContext(gone, method, "http://x"+target, strings.NewReader(body))
		if err != nil || request.Host != "x" {
			return // the server would not take it
		}
		request.RequestURI = target
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		handler := New(Options{Jobs: store.New(pool, store.Options{}), Token: func() string { return token }, MaxBody: 64 << 10})
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		got := recorder.Result()
		switch {
		case got.StatusCode/100 == 2 && (strings.HasPrefix(request.URL.Path, "/api/v1/openapi.yaml") || method == http.MethodOptions || strings.HasSuffix(request.URL.Path, "/batch")):
		case got.StatusCode/100 == 4, got.StatusCode == http.StatusServiceUnavailable:
			if !strings.HasPrefix(got.Header.Get("Content-Type"), "application/problem+json") {
				t.Errorf("%s %q %q: got %d as %s, want a problem", method, target, body, got.StatusCode, got.Header.Get("Content-Type"))
			}
		default:
			t.Errorf("%s %q %q: got %d %.300s, want a problem of the caller's or of the database", method, target, body, got.StatusCode, recorder.Body)
		}
		if text := recorder.Body.String(); strings.Contains(text, token) || len(text) > 64<<10 {
			t.Errorf("%s %q: got an answer of %d bytes, or one with the token: %.300s", method, target, len(text), text)
		}
	})
}
