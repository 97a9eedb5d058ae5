package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestABadRequestIsRefusedAndChangesNothing(t *testing.T) {
	const put, batch = "POST /api/v1/queues/apples/jobs", "POST /api/v1/queues/apples/jobs/batch"
	const pause, list = "POST /api/v1/queues/apples/pause", "GET /api/v1/jobs"
	tests := []struct {
		request, body string
		status        int
		code, says    string // a part of the detail
		place         string // the pointer or the parameter
	}{
		{put, ``, 422, "invalid_field", "any JSON", "/data"},
		{put, `{}`, 422, "invalid_field", "any JSON", "/data"},
		{put, `{"data": 1`, 400, "malformed_json", "byte 10", ""},
		{put, `{"data": 1} x`, 400, "malformed_json", "byte 13", ""},
		{put, `{"data": 1}{"data": 1}`, 400, "malformed_json", "byte 12", ""},
		{put, `{"data": 01}`, 400, "malformed_json", "byte", ""},
		{put, `{"data": NaN}`, 400, "malformed_json", "byte", ""},
		{put, `{"data": 1,}`, 400, "malformed_json", "byte", ""},
		{put, `{'data': 1}`, 400, "malformed_json", "byte", ""},
		{put, "{\"data\": \"\xff\"}", 400, "malformed_json", "UTF-8", ""},
		{put, "\ufeff{\"data\": 1}", 400, "malformed_json", "byte", ""},
		{put, `  `, 400, "malformed_json", "", ""},
		{put, strings.Repeat(`{"data":`, 20_000), 400, "malformed_json", "depth", ""},
		{put, `null`, 422, "invalid_field", "object", ""},
		{put, `[{"data": 1}]`, 422, "invalid_field", "object", ""},
		{put, `"data"`, 422, "invalid_field", "object", ""},
		{put, `{"data": 1, "dalay": "5m"}`, 422, "unknown_field", `"dalay" is not known here; known are: data, delay`, "/dalay"},
		{put, `{"Data": 1}`, 422, "unknown_field", `"Data"`, "/Data"},
		{put, `{"data": 1, "a/b~c": 1}`, 422, "unknown_field", `"a/b~c"`, "/a~1b~0c"},
		{put, `{"data": 1, "` + strings.Repeat("é", 100) + `": 1}`, 422, "unknown_field", "known are", "/" + strings.Repeat("é", 40)},
		{put, `{"data": 1, "data": 2}`, 422, "invalid_field", "twice", "/data"},
		{put, `{"data": 1, "d\u0061ta": 2}`, 422, "invalid_field", "twice", "/data"},
		{put, `{"data": 1, "delay": 5}`, 422, "invalid_field", "30s", "/delay"},
		{put, `{"data": 1, "delay": "soon"}`, 422, "invalid_field", "30s", "/delay"},
		{put, `{"data": 1, "delay": ""}`, 422, "invalid_field", "30s", "/delay"},
		{put, `{"data": 1, "delay": "-5m"}`, 422, "invalid_field", "30s", "/delay"},
		{put, `{"data": 1, "delay": "99999999d"}`, 422, "invalid_field", "30s", "/delay"},
		{put, `{"data": 1, "delay": "5m", "schedule_at": "2030-01-02T15:04:05Z"}`, 422, "invalid_field", "not both", "/delay"},
		{put, `{"data": 1, "schedule_at": "tomorrow"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "schedule_at": "2030-02-30T00:00:00Z"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "schedule_at": "2030-01-02T1:04:05Z"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "schedule_at": "2030-01-02T15:04:05,5Z"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "schedule_at": "2030-01-02T15:04:05+99:00"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "schedule_at": "2030-01-02"}`, 422, "invalid_field", "2030-01-02", "/schedule_at"},
		{put, `{"data": 1, "expected_at": 1893596645}`, 422, "invalid_field", "2030-01-02", "/expected_at"},
		{put, `{"data": 1, "task": ""}`, 422, "invalid_field", "empty", "/task"},
		{put, `{"data": 1, "task": "a\u0000"}`, 422, "invalid_field", "NUL", "/task"},
		{put, `{"data": 1, "task": ["a"]}`, 422, "invalid_field", "name", "/task"},
		{put, `{"data": 1, "max_attempts": 0}`, 422, "invalid_field", "from 1", "/max_attempts"},
		{put, `{"data": 1, "max_attempts": -1}`, 422, "invalid_field", "from 1", "/max_attempts"},
		{put, `{"data": 1, "max_attempts": 1000000001}`, 422, "invalid_field", "from 1", "/max_attempts"},
		{put, `{"data": 1, "max_attempts": 1e99}`, 422, "invalid_field", "from 1", "/max_attempts"},
		{put, `{"data": 1, "max_attempts": "3"}`, 422, "invalid_field", "from 1", "/max_attempts"},
		{put, `{"data": "\u0000"}`, 422, "invalid_data", "NUL", "/data"},
		{put, `{"data": "\ud800"}`, 422, "invalid_data", "surrogate", "/data"},
		{put, `{"data": {"a": 1, "a": 2}}`, 422, "invalid_data", "twice", "/data"},
		{put, `{"data": 1e99999}`, 422, "invalid_data", "exponent", "/data"},
		{put, `{"data": ` + strings.Repeat("[", 1001) + strings.Repeat("]", 1001) + `}`, 422, "invalid_data", "1000 deep", "/data"},
		{put, `{"data": "` + strings.Repeat("x", 1<<20) + `"}`, 413, "data_too_large", "limit is 1048576", "/data"},
		{put, `{"data": "` + strings.Repeat("x", 2<<20) + `"}`, 413, "body_too_large", "limit is 2097152", ""},
		{put + "?delay=5m", `{"data": 1}`, 400, "invalid_parameter", "not known", "delay"},
		{"POST /api/v1/queues/%00/jobs", `{"data": 1}`, 400, "invalid_parameter", "NUL", "queue"},
		{"POST /api/v1/queues/%ff/jobs", `{"data": 1}`, 400, "invalid_parameter", "UTF-8", "queue"},
		{"POST /api/v1/queues/" + strings.Repeat("x", 201) + "/jobs", `{"data": 1}`, 400, "invalid_parameter", "201 bytes", "queue"},
		{"POST /api/v1/queues//jobs", `{"data": 1}`, 404, "not_found", "openapi", ""},
		{"POST /api/v1/queues/../jobs", `{"data": 1}`, 404, "not_found", "openapi", ""},
		{"POST /api/v1/queues/a/b/jobs", `{"data": 1}`, 404, "not_found", "percent-encoded", ""},
		{"GET /api/v1/jobs/", "", 404, "not_found", "openapi", ""},
		{"GET /api/", "", 404, "not_found", "openapi", ""},
		{"GET /api/v2/jobs", "", 404, "not_found", "openapi", ""},
		{"GET /", "", 404, "not_found", "openapi", ""},
		{"GET /api/v1/queues/apples/jobs", "", 405, "method_not_allowed", "POST", ""},
		{"PUT /api/v1/jobs/1", `{}`, 405, "method_not_allowed", "DELETE, GET, HEAD, OPTIONS", ""},
		{"TRACE /api/v1/jobs", "", 405, "method_not_allowed", "GET", ""},
		{batch, `{"data": {"a": 1}}`, 422, "invalid_field", "array", "/data"},
		{batch, `{"data": []}`, 422, "invalid_field", "1 to 10000", "/data"},
		{batch, `{"data": null}`, 422, "invalid_field", "1 to 10000", "/data"},
		{batch, `{"data": [1` + strings.Repeat(",1", 10_000) + `]}`, 422, "invalid_field", "1 to 10000", "/data"},
		{batch, `{"data": [1, "\u0000", 3]}`, 422, "invalid_data", "NUL", "/data/1"},
		{batch, `{"data": [1` + strings.Repeat(",1", 4000) + `,"\u0000"]}`, 422, "invalid_data", "NUL", "/data/4001"},
		{batch, `{"data": [1, "` + strings.Repeat("x", 1<<20) + `"]}`, 413, "data_too_large", "limit", "/data/1"},
		{batch, `{"data": [1], "delay": "x"}`, 422, "invalid_field", "30s", "/delay"},
		{pause, `{"until": "2030-01-02T15:04:05Z", "for": "1h"}`, 422, "invalid_field", "not both", "/for"},
		{pause, `{"for": "0s"}`, 422, "invalid_field", "30s", "/for"},
		{pause, `{"until": "2001-01-02T15:04:05Z"}`, 422, "invalid_field", "passed", "/until"},
		{pause, `{"reason": 7}`, 422, "invalid_field", "text", "/reason"},
		{"POST /api/v1/queues/apples/resume", `{"for": "1h"}`, 422, "unknown_field", "", "/for"},
		{"POST /api/v1/jobs/1/cancel", `{"reason": "x"}`, 422, "unknown_field", "", "/reason"},
		{"POST /api/v1/jobs/1/retry", `{"keep_attempts": 1}`, 422, "invalid_field", "true or false", "/keep_attempts"},
		{"GET /api/v1/jobs/x", "", 400, "invalid_parameter", "number", "id"},
		{"GET /api/v1/jobs/+1", "", 400, "invalid_parameter", "number", "id"},
		{"GET /api/v1/jobs/007", "", 400, "invalid_parameter", "number", "id"},
		{"GET /api/v1/jobs/9223372036854775808", "", 400, "invalid_parameter", "number", "id"},
		{"DELETE /api/v1/jobs/x", "", 400, "invalid_parameter", "number", "id"},
		{"GET /api/v1/jobs/9223372036854775807", "", 404, "no_job", "done", ""},
		{"DELETE /api/v1/jobs/-1", "", 404, "no_job", "done", ""},
		{"POST /api/v1/jobs/999999/retry", "", 404, "no_job", "done", ""},
		{"POST /api/v1/jobs/999999/cancel", "{}", 404, "no_job", "done", ""},
		{list + "?limit=0", "", 400, "invalid_parameter", "1000", "limit"},
		{list + "?limit=1001", "", 400, "invalid_parameter", "1000", "limit"},
		{list + "?limit=x", "", 400, "invalid_parameter", "1000", "limit"},
		{list + "?state=ripe", "", 400, "invalid_parameter", "set_aside", "state"},
		{list + "?state=", "", 400, "invalid_parameter", "empty", "state"},
		{list + "?queue=", "", 400, "invalid_parameter", "empty", "queue"},
		{list + "?task=%00", "", 400, "invalid_parameter", "NUL", "task"},
		{list + "?task=%ff", "", 400, "invalid_parameter", "UTF-8", "task"},
		{list + "?after=x", "", 400, "invalid_parameter", "cursor", "after"},
		{list + "?state=running&state=waiting", "", 400, "invalid_parameter", "more than once", "state"},
		{list + "?color=red", "", 400, "invalid_parameter", "known are: queue", "color"},
		{list + "?a;b", "", 400, "invalid_parameter", "percent-encode", ""},
		{list + "?a=%zz", "", 400, "invalid_parameter", "percent-encode", ""},
	}
	s := startWith(t, migrated.Database(t), Options{MaxBody: 2 << 20})
	for _, test := range tests {
		method, path, _ := strings.Cut(test.request, " ")
		got := s.ask(method, path, test.body)
		place := got.body["pointer"]
		if place == nil {
			place = got.body["parameter"]
		}
		detail, _ := got.body["detail"].(string)
		if place == nil {
			place = ""
		}
		if got.status != test.status || got.body["code"] != test.code || !strings.Contains(detail, test.says) || place != test.place {
			t.Errorf("%s %.100s: got %v, want %d %s about %q that says %q", test.request, test.body, got, test.status, test.code, test.place, test.says)
		}
	}
	s.wantJobs(0)
	if got := s.want(200, "", "GET", "/api/v1/queues/apples", ""); got.body["paused"] != nil {
		t.Errorf("got %v, want a queue that is not paused", got)
	}
}

func TestOnlyJSONIsTaken(t *testing.T) {
	s := start(t)
	for _, header := range [][]string{
		{"Content-Type", ""},
		{"Content-Type", "text/plain"},
		{"Content-Type", "application/x-www-form-urlencoded"},
		{"Content-Type", "application/json-seq"},
		{"Content-Type", "application/json; charset=latin1"},
		{"Content-Type", "application/json; charset"},
		{"Content-Encoding", "gzip"},
	} {
		s.want(415, "unsupported_media_type", "POST", "/api/v1/queues/apples/jobs", `{"data": 1}`, header...)
	}
	s.wantJobs(0)
	for _, header := range [][]string{
		{"Content-Type", "application/json; charset=UTF-8"},
		{"Content-Type", "Application/JSON"},
		{"Content-Encoding", "identity"},
	} {
		s.want(201, "", "POST", "/api/v1/queues/apples/jobs", `{"data": 1}`, header...)
	}
}

func TestWithoutTheTokenEveryRequestIsRefused(t *testing.T) {
	url := migrated.Database(t)
	current := token
	s := startWith(t, url, Options{Token: func() string { return current }, RequestsPerSecond: 1e-9})
	refused := func(what string, authorization ...string) {
		t.Helper()
		for _, route := range append(new(api).routes(), route{method: "OPTIONS", path: "/api/v1/jobs"}, route{method: "GET", path: "/api/nowhere"}) {
			r := httptest.NewRequestWithContext(t.Context(), route.method, strings.NewReplacer("{queue}", "apples", "{id}", "1").Replace(route.path), strings.NewReader("x"))
			r.Header["Authorization"] = authorization
			recorder := httptest.NewRecorder()
			s.handler.ServeHTTP(recorder, r)
			if recorder.Code != 401 || recorder.Header().Get("WWW-Authenticate") != `Bearer realm="pq-dispatch"` || !strings.Contains(recorder.Body.String(), `"unauthorized"`) {
				t.Errorf("%s, %s %s: got %d %s, want 401", what, route.method, route.path, recorder.Code, recorder.Body)
			}
		}
	}
	refused("no header")
	refused("no scheme", token)
	refused("another scheme", "Basic "+token)
	refused("an empty token", "Bearer ")
	refused("a part of it", "Bearer "+token[:len(token)-1])
	refused("more than it", "Bearer "+token+"x")
	refused("two headers", "Bearer "+token, "Bearer "+token)
	current = ""
	refused("no token is set, none is given", "Bearer ")
	refused("no token is set, no header")
	refused("no token is set, one is given", "Bearer "+token)
	s.handler.(*api).token = nil
	refused("no way to a token", "Bearer ")
	s.handler.(*api).token = func() string { return current }
	current = "another-0123456789abcdef"
	refused("the one before", "Bearer "+token)
	// Strangers have not used up the one request that the limit allows.
	s.want(200, "", "GET", "/api/v1/jobs", "", "Authorization", "bearer "+current)
	if log := s.log.String(); strings.Contains(log, token) || strings.Contains(log, current) {
		t.Errorf("the log has a token: %s", log)
	}
}

func TestMoreRequestsThanTheLimitAreToldToComeLater(t *testing.T) {
	s := startWith(t, migrated.Database(t), Options{RequestsPerSecond: 0.01})
	s.want(200, "", "GET", "/api/v1/jobs", "")
	for range 3 {
		got := s.want(429, "too_many_requests", "GET", "/api/v1/jobs", "")
		if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < 1 || n > 100 {
			t.Errorf("got Retry-After %q, want 1 to 100", got.header.Get("Retry-After"))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := &service{TB: t, handler: New(Options{Jobs: store.New(nil, store.Options{}), Token: func() string { return token }, RequestsPerSecond: 2})}
		got := []int{}
		for range 3 {
			got = append(got, s.ask("GET", "/api/v1/openapi.yaml", "").status)
		}
		time.Sleep(500 * time.Millisecond)
		for range 2 {
			got = append(got, s.ask("GET", "/api/v1/openapi.yaml", "").status)
		}
		if want := "[200 200 429 200 429]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestHeadAndOptions(t *testing.T) {
	s := start(t)
	id := s.put("apples", `{"data": 1}`)
	server := httptest.NewServer(s.handler)
	defer server.Close()
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"HEAD", "/api/v1/jobs", 200, ""},
		{"HEAD", "/api/v1/jobs/" + id, 200, ""},
		{"HEAD", "/api/v1/jobs/999", 404, ""},
		{"HEAD", "/api/v1/queues/apples/pause", 405, "POST, OPTIONS"},
		{"OPTIONS", "/api/v1/jobs/" + id, 204, "DELETE, GET, HEAD, OPTIONS"},
		{"OPTIONS", "/api/v1/queues/apples/jobs", 204, "POST, OPTIONS"},
		{"OPTIONS", "/api/nowhere", 404, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, server.URL+test.path, http.NoBody)
		check(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		got, err := server.Client().Do(r)
		check(t, err)
		text, err := io.ReadAll(got.Body)
		check(t, err)
		got.Body.Close()
		allow := got.Header.Get("Allow")
		if got.StatusCode != test.status || allow != test.allow || test.method == "HEAD" && len(text) > 0 || got.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: got %d, Allow %q, %q, want %d, Allow %q", test.method, test.path, got.StatusCode, allow, text, test.status, test.allow)
		}
		if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: got the headers %v, want no caching and no sniffing", test.method, test.path, got.Header)
		}
	}
	s.want(200, "", "GET", "/api/v1/jobs/"+id, "")
}

// dial serves the API over a connection whose time is that of the test's bubble.
func dial(t *testing.T, handler http.Handler) (connection net.Conn, stop func()) {
	ours, theirs := net.Pipe()
	once := make(chan net.Conn, 1)
	once <- theirs
	server := &http.Server{Handler: handler}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(oneConnection(once)) })
	return ours, func() {
		ours.Close()
		close(once)
		serving.Wait()
		_ = server.Shutdown(context.Background()) // when the connection is done with
	}
}

type oneConnection chan net.Conn

func (l oneConnection) Accept() (net.Conn, error) {
	if c, is := <-l; is {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l oneConnection) Close() error   { return nil }
func (l oneConnection) Addr() net.Addr { return &net.TCPAddr{} }

func TestABodyThatDoesNotArriveIsRefusedInTime(t *testing.T) {
	for name, test := range map[string]struct {
		framing, first, each string
		status               int
		code                 string
	}{
		"it stops":         {"Content-Length: 100", `{"data":`, "", 408, "slow_body"},
		"it drips":         {"Content-Length: 100", `{"data":`, " ", 408, "slow_body"},
		"chunks drip":      {"Transfer-Encoding: chunked", "1\r\n{\r\n", "1\r\n \r\n", 408, "slow_body"},
		"chunks are wrong": {"Transfer-Encoding: chunked", "zz\r\n", "", 400, "unreadable_body"},
		"it is too large":  {"Content-Length: 1000000000000", "", "", 413, "body_too_large"},
		"chunks too large": {"Transfer-Encoding: chunked", "20\r\n" + strings.Repeat("x", 32) + "\r\n", "20\r\n" + strings.Repeat("x", 32) + "\r\n", 413, "body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := New(Options{Jobs: store.New(nil, store.Options{}), Token: func() string { return token }, MaxBody: 100})
				connection, stop := dial(t, handler)
				defer stop()
				start := time.Now()
				var sending sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				sending.Go(func() {
					_, err := io.WriteString(connection, "POST /api/v1/queues/apples/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
						"Authorization: Bearer "+token+"\r\n"+test.framing+"\r\n\r\n"+test.first)
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					for err == nil && test.each != "" {
						select {
						case <-tick.C:
							_, err = io.WriteString(connection, test.each)
						case <-ctx.Done():
							return
						}
					}
				})
				got, err := http.ReadResponse(bufio.NewReader(connection), nil)
				check(t, err)
				text, err := io.ReadAll(got.Body)
				check(t, err)
				if got.StatusCode != test.status || !strings.Contains(string(text), `"`+test.code+`"`) || !got.Close {
					t.Errorf("got %s, closed: %v, %s, want %d %s and the end of the connection", got.Status, got.Close, text, test.status, test.code)
				}
				if took := time.Since(start); took > bodyTime+time.Second {
					t.Errorf("got the answer after %v, want it within %v", took, bodyTime)
				}
				cancel()
				connection.Close()
				sending.Wait()
			})
		})
	}
}

func TestADatabaseThatIsAwayIsSaidInTime(t *testing.T) {
	requests := []struct{ method, path, body string }{
		{"POST", "/api/v1/queues/apples/jobs", `{"data": "canary-data"}`},
		{"POST", "/api/v1/queues/apples/jobs/batch", `{"data": ["canary-data"]}`},
		{"GET", "/api/v1/jobs", ""},
		{"GET", "/api/v1/jobs/1", ""},
		{"DELETE", "/api/v1/jobs/1", ""},
		{"POST", "/api/v1/jobs/1/retry", ""},
		{"POST", "/api/v1/queues/apples/pause", ""},
		{"POST", "/api/v1/queues/apples/resume", ""},
		{"GET", "/api/v1/queues", ""},
		{"GET", "/api/v1/dispatchers", ""},
	}
	all := func(s *service, code, says string) {
		s.Helper()
		for _, r := range requests {
			got := s.want(503, code, r.method, r.path, r.body)
			if got.header.Get("Retry-After") != "5" || !strings.Contains(got.text, says) {
				s.Errorf("%s %s: got %v, Retry-After %q, want it later, and %q", r.method, r.path, got, got.header.Get("Retry-After"), says)
			}
			if strings.Contains(got.text, "127.0.0.1") || strings.Contains(got.text, "canary") {
				s.Errorf("%s %s: got %v, which tells of what is inside", r.method, r.path, got)
			}
		}
		if log := s.log.String(); strings.Contains(log, "canary") || !strings.Contains(log, `"level":"WARN"`) {
			s.Errorf("got the log %s, want it to warn, without data", log)
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		l.Close()
		all(startWith(t, "postgres://nobody@"+l.Addr().String()+"/nowhere?sslmode=disable", Options{}), "database_unavailable", "ask again")
	})
	t.Run("no such database", func(t *testing.T) {
		url, _, _ := strings.Cut(migrated.Database(t), "?")
		all(startWith(t, strings.TrimSuffix(url, "/")+"_no_such?sslmode=disable", Options{}), "database_unavailable", "ask again")
	})
	t.Run("not migrated", func(t *testing.T) {
		all(startWith(t, pgtest.Database(t), Options{}), "not_migrated", "migrate up")
	})
}

func TestErrorsOfTheDatabaseAreToldApart(t *testing.T) {
	const unknown, again = "not known whether", "ask again"
	fatal := &pgconn.PgError{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01"}
	refused := func(code string) error { return &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: code} }
	for _, test := range []struct {
		method string
		err    error
		status int
		says   string
	}{
		{"POST", io.ErrUnexpectedEOF, 503, unknown},
		{"POST", context.DeadlineExceeded, 503, unknown},
		{"DELETE", context.DeadlineExceeded, 503, unknown},
		{"GET", io.ErrUnexpectedEOF, 503, again},
		{"HEAD", context.DeadlineExceeded, 503, again},
		{"POST", fatal, 503, unknown}, // the server stops, perhaps after the commit
		{"GET", fatal, 503, again},
		{"POST", refused("40P01"), 503, again},
		{"POST", refused("53300"), 503, again},
		{"POST", fmt.Errorf("%w: %w", store.ErrStandby, refused("25006")), 503, again},
		{"POST", fmt.Errorf("%w: %w", store.ErrLockTable, refused("PQ532")), 503, again},
		{"POST", fmt.Errorf("%w: %w", store.ErrNewerSchema, io.EOF), 503, "migrate"},
		{"POST", fmt.Errorf("%w: %w", store.ErrData, refused("22P05")), 422, "jsonb"},
		{"POST", refused("42501"), 500, "log"},
		{"POST", refused(""), 500, "log"},
	} {
		p := problemOf(fmt.Errorf("store: put: %w", test.err), test.method)
		if p.Status != test.status || !strings.Contains(p.Error(), test.says) || p.Status >= 500 && !errors.Is(p.cause, test.err) {
			t.Errorf("%s, %v: got %v, want %d that says %q", test.method, test.err, p, test.status, test.says)
		}
	}
}

func TestWhatIsAskedOfTheDatabaseIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Options{Jobs: store.New(nil, store.Options{})}).(*api)
		start := time.Now()
		_, err := a.do(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), route{method: "GET", do: func(r *request) (answer, error) {
			<-r.Context().Done()
			return answer{}, r.Context().Err()
		}})
		if took := time.Since(start); took != workTime || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v, want the end of its time after %v", err, took, workTime)
		}
	})
}

// The database is there, but holds the request up.
func TestARequestThatTheDatabaseHoldsUpIsGivenUp(t *testing.T) {
	s := start(t)
	s.put("apples", `{"data": 1}`)
	tx, err := s.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `lock table queue in access exclusive mode`)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // sooner than the API's own bound, which ctx stands for
	defer cancel()
	request := &request{Request: httptest.NewRequestWithContext(ctx, "POST", "/", http.NoBody), body: []byte(`{"data": 1}`)}
	request.SetPathValue("queue", "apples")
	_, err = s.handler.(*api).put(request)
	if p := problemOf(err, "POST"); p.Code != "database_unavailable" || !strings.Contains(p.Detail, "not known") {
		t.Errorf("got %v, want 503", p)
	}
	check(t, tx.Rollback(t.Context()))
	s.wantJobs(1)
}

func TestAnErrorOfTheDatabaseItselfIsTheDaemons(t *testing.T) {
	s := start(t)
	s.exec(`alter table queue add check (q_name <> 'pears')`)
	got := s.want(500, "internal", "POST", "/api/v1/queues/pears/jobs", `{"data": "canary-data"}`)
	if strings.Contains(got.text, "constraint") {
		t.Errorf("got %v, want no word of the database", got)
	}
	if log := s.log.String(); !strings.Contains(log, "violates check constraint") || strings.Contains(log, "canary") {
		t.Errorf("got the log %s, want what the database says, without data", log)
	}
}

func TestAStoreOverOneConnectionPanics(t *testing.T) {
	s := start(t)
	tx, err := s.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	for name, jobs := range map[string]*store.Store{"none": nil, "a transaction": s.jobs.With(tx)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: got no panic, want one", name)
				}
			}()
			New(Options{Jobs: jobs})
		}()
	}
}
