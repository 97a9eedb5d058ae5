package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}}

const token = "canary-0123456789abcdef"

// service is an API with a database of its own. All that it answers is checked against its document.
type service struct {
	testing.TB
	handler http.Handler
	pool    *pgxpool.Pool
	jobs    *store.Store
	log     *logged
}

func start(t testing.TB) *service { return startWith(t, migrated.Database(t), Options{}) }

func startWith(t testing.TB, url string, o Options) *service {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, pgtest.Goroutines(), before) })
	pool, err := pgxpool.New(t.Context(), url)
	check(t, err)
	t.Cleanup(pool.Close)
	s := &service{TB: t, pool: pool, jobs: store.New(pool, store.Options{}), log: &logged{}}
	o.Jobs, o.Log = s.jobs, slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Token == nil {
		o.Token = func() string { return token }
	}
	s.handler = New(o)
	return s
}

// logged is what was written to the log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// response is an answer that has been checked.
type response struct {
	status int
	header http.Header
	text   string
	body   map[string]any // nil: it is not an object of JSON
}

func (r response) String() string { return fmt.Sprintf("%d %.500s", r.status, r.text) }

// ask sends a request with the token. A body is JSON.
func (s *service) ask(method, path, body string, header ...string) response {
	s.Helper()
	var content io.Reader = http.NoBody
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(s.Context(), method, path, content)
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	return s.send(r)
}

func (s *service) send(r *http.Request) response {
	s.Helper()
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, r)
	return s.examine(r, recorder.Result())
}

// examine reads an answer, and checks it.
func (s *service) examine(r *http.Request, answer *http.Response) response {
	s.Helper()
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil {
		s.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	got := response{status: answer.StatusCode, header: answer.Header, text: string(text)}
	if strings.HasSuffix(got.header.Get("Content-Type"), "json") {
		decoder := json.NewDecoder(strings.NewReader(got.text))
		decoder.UseNumber()
		if err := decoder.Decode(&got.body); err != nil {
			s.Errorf("%s %s: got %v: %v", r.Method, r.URL, got, err)
		}
	}
	checkDocumented(s, r, got)
	return got
}

// want asks, and fails unless that is the status, and of a problem the code.
func (s *service) want(status int, code, method, path, body string, header ...string) response {
	s.Helper()
	got := s.ask(method, path, body, header...)
	gotCode, _ := got.body["code"].(string)
	if got.status != status || gotCode != code {
		s.Fatalf("%s %s %.200s: got %v, want %d %s", method, path, body, got, status, code)
	}
	return got
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *service) exec(sql string, args ...any) {
	s.Helper()
	if _, err := s.pool.Exec(s.Context(), sql, args...); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
}

func (s *service) wantJobs(want int) {
	s.Helper()
	var got int
	check(s, s.pool.QueryRow(s.Context(), `select count(*) from queue`).Scan(&got))
	if got != want {
		s.Errorf("got %d jobs in the table, want %d", got, want)
	}
}

// put puts a job through the API and returns its id.
func (s *service) put(queue, body string) string {
	s.Helper()
	got := s.want(http.StatusCreated, "", "POST", "/api/v1/queues/"+queue+"/jobs", body)
	return got.body["id"].(string)
}

func TestThePageNamesAllProblemsAndPaths(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	check(t, err)
	for _, k := range kinds {
		line := fmt.Sprintf("| %d | <a id=%q></a>`%s` |", k.status, k.code, k.code)
		if !strings.Contains(string(text), line) {
			t.Errorf("docs/api.md: want a line with %s", line)
		}
	}
	for _, r := range new(api).routes() {
		if !strings.Contains(string(text), strings.TrimPrefix(r.path, "/api/v1")) && !strings.HasSuffix(r.path, "/resume") {
			t.Errorf("docs/api.md does not mention %s", r.path)
		}
	}
}
