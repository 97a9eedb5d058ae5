package handler

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// endpoint serves, and is a handler for it.
func endpoint(t *testing.T, o HTTPOptions, serve http.HandlerFunc) (*HTTP, *httptest.Server) {
	t.Helper()
	noLeaks(t)
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	o.URL = server.URL + o.URL
	h, err := NewHTTP(o)
	return closing(t, h, err), server
}

var keys = []string{
	"whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("new", 8))),
	base64.StdEncoding.EncodeToString([]byte(strings.Repeat("old", 8))),
}

func TestEndpointIsToldAllAboutTheJob(t *testing.T) {
	var header http.Header
	var body, path string
	h, _ := endpoint(t, HTTPOptions{URL: "/jobs?x=y", MaxAttempts: 25, Headers: map[string]string{"authorization": "Bearer of-bad-news"}},
		func(_ http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			header, body, path = r.Header, string(data), r.Method+" "+r.RequestURI
		})
	job := newJob(`{"kind": "Cox", "n": 1.0}`)
	job.Task, job.Attempt, job.Queue = "eat 100%\r\nX: y", 3, "äpfel"
	job.ScheduleAt, job.ExpectedAt = job.EnqueuedAt.Add(time.Minute), job.EnqueuedAt.Add(time.Hour)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	if err := h.Handle(trace.ContextWithSpanContext(t.Context(), span), job); err != nil {
		t.Fatal(err)
	}
	id := header.Get("webhook-id")
	want := map[string]string{
		"Content-Type": "application/json", "User-Agent": "pq-dispatch", "Authorization": "Bearer of-bad-news",
		"Pq-Dispatch-Job-Id": "7", "Pq-Dispatch-Queue": "%C3%A4pfel", "Pq-Dispatch-Task": "eat 100%25%0D%0AX: y",
		"Pq-Dispatch-Attempt": "3", "Pq-Dispatch-Max-Attempts": "25", "Pq-Dispatch-Enqueued-At": "2026-05-04T03:02:01.000005Z",
		"Pq-Dispatch-Schedule-At": "2026-05-04T03:03:01.000005Z", "Pq-Dispatch-Expected-At": "2026-05-04T04:02:01.000005Z",
		"Traceparent": "00-01000000000000000000000000000000-0200000000000000-01",
		"Webhook-Id":  id, "Idempotency-Key": id, "Webhook-Timestamp": header.Get("webhook-timestamp"),
		"Content-Length": fmt.Sprint(len(job.Data)),
	}
	got := map[string]string{}
	for name := range header {
		got[name] = header.Get(name)
	}
	delete(got, "Accept-Encoding")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got the headers (-want +got):\n%s", diff)
	}
	if body != string(job.Data) || path != "POST /jobs?x=y" {
		t.Errorf("got %s with %s, want the data as it stands", path, body)
	}
}

func TestProducersTraceGoesOnWhereNoneIsOfTheRun(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, test := range map[string]struct {
		metadata map[string]string
		want     string
	}{
		"valid":   {map[string]string{"traceparent": parent, "tracestate": "a=b"}, parent},
		"none":    {nil, ""},
		"garbage": {map[string]string{"traceparent": "00-x\r\nEvil: yes"}, ""},
	} {
		job := newJob(`1`)
		job.Metadata = test.metadata
		if got := traceOf(t.Context(), job).Get("traceparent"); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestUserAndPasswordOfTheURLAreBasicAuthentication(t *testing.T) {
	var user, password string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { user, password, _ = r.BasicAuth() }))
	defer server.Close()
	h, err := NewHTTP(HTTPOptions{URL: strings.Replace(server.URL, "://", "://me:p%40ss@", 1)})
	h = closing(t, h, err)
	if err := h.Handle(t.Context(), newJob(`1`)); err != nil || user != "me" || password != "p@ss" {
		t.Errorf("got %q, %q, %v; want what the URL says", user, password, err)
	}
}

func TestSignatureIsVerifiedByTheStandardsLibraryWithEitherSecret(t *testing.T) {
	var headers []http.Header
	var body []byte
	h, _ := endpoint(t, HTTPOptions{Secrets: keys}, func(_ http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		headers = append(headers, r.Header)
	})
	job := newJob(`{"kind": "<Cox> & é"}`)
	for range 2 {
		if err := h.Handle(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		job.Attempt++
	}
	for _, key := range keys {
		verifier, err := standardwebhooks.NewWebhook(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, header := range headers {
			if err := verifier.Verify(body, header); err != nil {
				t.Errorf("got %v, want a valid signature", err)
			}
		}
		if verifier.Verify(append(body, ' '), headers[0]) == nil {
			t.Error("got a valid signature of another body, want none")
		}
	}
	if n := len(strings.Fields(headers[0].Get("webhook-signature"))); n != 2 {
		t.Errorf("got %d signatures, want one for each secret", n)
	}
	if a, b := headers[0].Get("webhook-id"), headers[1].Get("webhook-id"); a != b || a == "" {
		t.Errorf("got the ids %q and %q for two attempts, want the same", a, b)
	}
	other := newJob(`1`)
	other.EnqueuedAt = other.EnqueuedAt.Add(time.Microsecond)
	if messageID(other) == messageID(job) {
		t.Error("got the same id for a job of the same number, put at another time")
	}
}

func TestStatusDecidesWhatBecomesOfTheJob(t *testing.T) {
	date := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for _, test := range []struct {
		status int
		header map[string]string
		body   string
		kind   string
		says   string
		delay  time.Duration // -1: the policy's
	}{
		{status: 200, body: "fine", kind: "done"},
		{status: 204, kind: "done"},
		{status: 299, kind: "done"},
		{status: 410, body: "no apples any more", kind: "discard", says: "410 Gone: no apples any more"},
		{status: 400, body: "bad \x1b[31mapple\x00\xff\n", kind: "retry", says: "400 Bad Request: bad [31mapple?", delay: -1},
		{status: 404, kind: "retry", says: "404 Not Found", delay: -1},
		{status: 500, body: strings.Repeat("é", 10000), kind: "retry", says: "500 Internal Server Error: éé", delay: -1},
		{status: 500, header: map[string]string{"Retry-After": "9"}, kind: "retry", says: "500", delay: -1},
		{status: 799, kind: "retry", says: "799", delay: -1},
		{status: 429, kind: "retry", says: "429 Too Many Requests", delay: -1},
		{status: 429, header: map[string]string{"Retry-After": "120"}, kind: "retry", says: "429", delay: 2 * time.Minute},
		{status: 503, header: map[string]string{"Retry-After": "0"}, kind: "retry", says: "503", delay: 0},
		{status: 503, header: map[string]string{"Retry-After": date.Add(time.Hour).Format(http.TimeFormat), "Date": date.Format(http.TimeFormat)},
			kind: "retry", says: "503", delay: time.Hour},
		{status: 503, header: map[string]string{"Retry-After": "soon"}, kind: "retry", says: "503", delay: -1},
		{status: 503, header: map[string]string{"Retry-After": "99999999999999999999999"}, kind: "retry", says: "503", delay: retry.MaxDelay},
	} {
		t.Run(fmt.Sprint(test.status, test.header), func(t *testing.T) {
			h, server := endpoint(t, HTTPOptions{}, func(w http.ResponseWriter, _ *http.Request) {
				for name, value := range test.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			err := h.Handle(t.Context(), newJob(`1`))
			if kindOf(err) != test.kind || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %s (%v), want %s that says %q", kindOf(err), err, test.kind, test.says)
			}
			if err != nil && len(err.Error()) > maxExcerpt+200 {
				t.Errorf("got an error of %d bytes, want it bounded", len(err.Error()))
			}
			if test.kind != "retry" {
				return
			}
			if !strings.Contains(err.Error(), server.Listener.Addr().String()) {
				t.Errorf("got %v, want it to name the endpoint", err)
			}
			if got, _ := retry.Decide(retry.Fixed(7*time.Second), 1, 5, err); test.delay < 0 && got != 7*time.Second || test.delay >= 0 && got != test.delay {
				t.Errorf("got a delay of %v, want %v (less than 0: the policy's, 7s)", got, test.delay)
			}
		})
	}
}

func TestNoSecretIsInAnError(t *testing.T) {
	const canary = "c4n4ry-of-the-mine"
	secret := base64.StdEncoding.EncodeToString([]byte(canary + canary))
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintln(w, r.RequestURI, r.Header, secret)
	}
	server := httptest.NewServer(http.HandlerFunc(echo))
	defer server.Close()
	options := func(url string) HTTPOptions {
		o := HTTPOptions{URL: url, Secrets: []string{secret}, Headers: map[string]string{"X-Api-Key": canary}}
		if !strings.Contains(url, "@") {
			o.Headers["Authorization"] = "Bearer " + canary + "2"
		}
		return o
	}
	leaks := func(err error) bool {
		if err == nil {
			t.Fatal("got no error")
		}
		text := err.Error()
		return strings.Contains(text, "c4n4ry") || strings.Contains(text, secret) ||
			strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("me:"+canary)))
	}
	address := server.Listener.Addr().String()
	for name, url := range map[string]string{
		"echoed":  "http://me:" + canary + "@" + address + "/" + canary + "?token=" + canary,
		"bearer":  server.URL,
		"refused": "http://me:" + canary + "@127.0.0.1:1/" + canary + "?token=" + canary,
		"address": "http://me:" + canary + "@evil.test.:1/" + canary,
		"no name": "http://me:" + canary + "@nowhere.test.:1/" + canary,
		"no TLS":  "https://me:" + canary + "@" + address + "/" + canary,
	} {
		h, err := NewHTTP(options(url))
		if err != nil {
			t.Fatal(err)
		}
		watch(t, h, map[string]func(int) string{"evil.test.": always("169.254.169.254")})
		if err := h.Handle(t.Context(), newJob(`1`)); leaks(err) {
			t.Errorf("%s: got %v, with a secret in it", name, err)
		}
		_ = h.Close(t.Context())
	}
	for name, o := range map[string]HTTPOptions{
		"malformed": options("http://me:c4n4ry/" + canary + "@host:x/%zz"),
		"scheme":    options("c4n4ry://me:" + canary + "@host/"),
		"control":   options("http://host/\x7f" + canary),
		"secret":    {URL: "http://host", Secrets: []string{canary}},
		"header":    {URL: "http://host", Headers: map[string]string{"X-Api-Key": canary + "\n"}},
	} {
		if _, err := NewHTTP(o); leaks(err) {
			t.Errorf("%s: got %v, with a secret in it", name, err)
		}
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	good := strings.Repeat("QUJD", 8)
	for says, o := range map[string]HTTPOptions{
		"neither http nor https":         {},
		"scheme is neither http":         {URL: "ftp://host/"},
		"Authorization is given twice":   {URL: "http://me:pw@h/", Headers: map[string]string{"authorization": "b"}},
		"no host":                        {URL: "http:///path"},
		"link-local":                     {URL: "http://169.254.169.254/"},
		"no name of a header":            {URL: "http://h", Headers: map[string]string{"a b": "c"}},
		"newline at its end":             {URL: "http://h", Headers: map[string]string{"A": "c\n"}},
		"Webhook-Id is set for each job": {URL: "http://h", Headers: map[string]string{"webhook-id": "c"}},
		"Pq-Dispatch-X is set for each":  {URL: "http://h", Headers: map[string]string{"PQ-Dispatch-X": "c"}},
		"Host is set for each job":       {URL: "http://h", Headers: map[string]string{"host": "c"}},
		"A is given twice":               {URL: "http://h", Headers: map[string]string{"A": "b", "a": "b"}},
		"secret 2 is not 24 to 64 bytes": {URL: "http://h", Secrets: []string{good, "c2hvcnQ="}},
		"secret 1 is not 24 to 64 bytes": {URL: "http://h", Secrets: []string{"not base64!"}},
		"Timeout is -1s":                 {URL: "http://h", Timeout: -time.Second},
		"MaxConnsPerHost is -1":          {URL: "http://h", MaxConnsPerHost: -1},
		"MaxResponse is -1":              {URL: "http://h", MaxResponse: -1},
	} {
		if _, err := NewHTTP(o); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "handler: http: ") {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	}
}

func TestConnectionIsUsedAgainUnlessTheAnswerIsTooLarge(t *testing.T) {
	for name, test := range map[string]struct {
		size  int
		again bool // mostly: net/http drops a connection of which it has not noticed within 50 ms that the request was sent
	}{
		"nothing":           {0, true},
		"less than the cap": {60 << 10, true},
		"more than the cap": {1 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := endpoint(t, HTTPOptions{MaxResponse: 64 << 10}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = w.Write(make([]byte, test.size))
			})
			allowed := watch(t, h, nil)
			for range 5 {
				if err := h.Handle(t.Context(), newJob(`1`)); err != nil {
					t.Fatal(err)
				}
			}
			if n := allowed.Load(); (n < 5) != test.again {
				t.Errorf("got %d connections for 5 jobs, want any of them used again: %v", n, test.again)
			}
		})
	}
}

func TestNoMoreConnectionsAreOpenedThanMayBe(t *testing.T) {
	var now, most atomic.Int64
	gate := make(chan struct{})
	h, _ := endpoint(t, HTTPOptions{MaxConnsPerHost: 2}, func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-gate
		now.Add(-1)
	})
	allowed := watch(t, h, nil)
	var jobs sync.WaitGroup
	for range 50 {
		jobs.Go(func() {
			if err := h.Handle(t.Context(), newJob(`1`)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "two requests are served", func() bool { return now.Load() >= 2 })
	n := allowed.Load() // later on, a connection may have been given up for another
	close(gate)
	jobs.Wait()
	if n > 2 || most.Load() > 2 {
		t.Errorf("got %d connections, %d requests at once; want at most 2", n, most.Load())
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	h, _ := endpoint(t, HTTPOptions{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server would not notice
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(dispatcher.ErrSessionLost)
	if err := h.Handle(ctx, newJob(`1`)); !errors.Is(err, dispatcher.ErrSessionLost) {
		t.Errorf("got %v, want the context's cause", err)
	}
	limited, cancelLimited := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, dispatcher.ErrTimeout)
	defer cancelLimited()
	if err := h.Handle(limited, newJob(`1`)); !errors.Is(err, dispatcher.ErrTimeout) {
		t.Errorf("got %v, want the context's cause", err)
	}
	h.options.Timeout = 20 * time.Millisecond
	if err := h.Handle(t.Context(), newJob(`1`)); err == nil || !strings.Contains(err.Error(), "no answer within 20ms") {
		t.Errorf("got %v, want that no answer came in time", err)
	}
}

func TestAnswerThatBreaksOffOrHangsCounts(t *testing.T) {
	h, _ := endpoint(t, HTTPOptions{Timeout: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "begun")
		w.(http.Flusher).Flush()
		if r.Header.Get("pq-dispatch-task") == "hangs" {
			<-r.Context().Done()
		}
	})
	for _, task := range []string{"hangs", "breaks off"} {
		job := newJob(`1`)
		job.Task = task
		err := h.Handle(t.Context(), job)
		for err != nil && strings.Contains(err.Error(), "no answer within") && h.options.Timeout < patience { // so slow is the machine
			h.options.Timeout *= 2
			err = h.Handle(t.Context(), job)
		}
		if err != nil {
			t.Errorf("%s: got %v, want nil: the status was 200", task, err)
		}
	}
}

func TestIdleConnectionThatTheServerHasClosedIsNoError(t *testing.T) {
	noLeaks(t)
	// Each connection has one answer, though it says nothing of that.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 64<<10))
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				_, _ = conn.Read(make([]byte, 64<<10)) // the next request, which gets none
			})
		}
	})
	defer served.Wait()
	defer listener.Close()
	h, err := NewHTTP(HTTPOptions{URL: "http://" + listener.Addr().String()})
	h = closing(t, h, err)
	for range 3 {
		if err := h.Handle(t.Context(), newJob(`1`)); err != nil {
			t.Errorf("got %v, want that it is sent once more", err)
		}
	}
	_ = h.Close(t.Context())
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	h, _ := endpoint(t, HTTPOptions{}, func(http.ResponseWriter, *http.Request) {})
	if h.client.Proxy != nil {
		t.Error("got a transport with a proxy, want none") // requests to loopback never use one
	}
	if err := h.Handle(t.Context(), newJob(`1`)); err != nil {
		t.Error(err)
	}
}

func TestCloseWaitsForRequestsAndInterruptsThemWhenItsTimeIsOver(t *testing.T) {
	arrived := make(chan struct{}, 2)
	answer := make(chan struct{})
	h, _ := endpoint(t, HTTPOptions{}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	})
	results := make(chan error, 2)
	go func() { results <- h.Handle(t.Context(), newJob(`1`)) }()
	<-arrived
	closed := make(chan error, 1)
	go func() { closed <- h.Close(t.Context()) }()
	eventually(t, "the handler is closing", func() bool {
		h.runs.mu.Lock()
		defer h.runs.mu.Unlock()
		return h.runs.closed
	})
	if err := h.Handle(t.Context(), newJob(`1`)); kindOf(err) != "snooze" {
		t.Errorf("got %v from a closed handler, want the job put off", err)
	}
	close(answer)
	if err := <-closed; err != nil {
		t.Errorf("got %v from Close, want nil", err)
	}
	if err := <-results; err != nil {
		t.Errorf("got %v, want the job done", err)
	}

	answer = nil
	h, _ = endpoint(t, HTTPOptions{}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	go func() { results <- h.Handle(t.Context(), newJob(`1`)) }()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from Close, want the context's error", err)
	}
	if err := <-results; !errors.Is(err, errClosed) {
		t.Errorf("got %v, want the run interrupted", err)
	}
}

func TestHeadersGivenAreNotChangedByTheNextJob(t *testing.T) {
	var tasks []string
	h, _ := endpoint(t, HTTPOptions{}, func(_ http.ResponseWriter, r *http.Request) {
		tasks = append(tasks, r.Header.Get("pq-dispatch-task"))
	})
	for _, task := range []string{"eat", ""} {
		job := newJob(`1`)
		job.Task = task
		if err := h.Handle(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(tasks, []string{"eat", ""}) {
		t.Errorf("got the tasks %q, want eat and none", tasks)
	}
	if got := slices.Sorted(maps.Keys(h.header)); !slices.Equal(got, []string{"Content-Type", "User-Agent"}) {
		t.Errorf("got the handler's own headers %q", got)
	}
}
