//go:build linux

// S11. What the daemon was told in confidence it shows nowhere: not while all is well, not when everything fails, and
// not to the programs that it starts.

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// canaries are secrets by what they are. Each is in one place only, and to be found nowhere else.
type canaries map[string]string

func newCanaries() canaries {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	c := canaries{"webhook key": base64.StdEncoding.EncodeToString(key)}
	for _, what := range []string{
		"database password", "API token", "wrong API token", "URL password", "URL query", "header", "handler's variable", "daemon's variable", "job data", "wrong password",
	} {
		c[what] = "canary" + strings.ToLower(rand.Text()[:16])
	}
	return c
}

// missing fails if one of the secrets is in a text, as it is or encoded, but for those that belong there.
func (c canaries) missing(t *testing.T, where, text string, but ...string) {
	t.Helper()
	for what, secret := range c {
		allowed := false
		for _, b := range but {
			allowed = allowed || b == what
		}
		for _, form := range []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))[:20]} {
			if i := strings.Index(text, form); i >= 0 && !allowed {
				t.Errorf("%s: got the %s: ...%q", where, what, text[max(0, i-200):i+len(form)])
				break
			}
		}
	}
}

// keeper keeps what it is sent, whatever it is: a collector of spans and metrics.
type keeper struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (k *keeper) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintf(&k.text, "%s %v\n%s\n", r.URL, r.Header, body)
}

func (k *keeper) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text.String()
}

func TestNoSecretIsShownAnywhere(t *testing.T) {
	d, c := newDatabase(t), newCanaries()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}

	// A user with a password, on the server of the test.
	user := "canary_user_" + strings.ToLower(rand.Text()[:10])
	if _, err := d.query.Exec(t.Context(), `create role `+user+` superuser login password '`+c["database password"]+`'`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := d.query.Exec(context.Background(), `drop owned by `+user+`; drop role `+user, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	server, err := pgx.ParseConfig(d.url)
	if err != nil {
		t.Fatal(err)
	}
	address := func(password string, port uint16) string {
		return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", user, password, server.Host, port, server.Database)
	}

	// An endpoint that says back all that it was sent, and fails.
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s %s %s %v", user, password, r.URL, r.Header)
	}))
	defer echo.Close()
	collector := &keeper{}
	otlp := httptest.NewServer(collector)
	defer otlp.Close()

	secretly := strings.Replace(echo.URL, "://", "://u:"+c["URL password"]+"@", 1) + "/hook?key=" + c["URL query"]
	nowhere := "http://u:" + c["URL password"] + "@127.0.0.1:1/?key=" + c["URL query"]
	config := func(more string) string {
		return "log: {level: debug}\n" +
			"database: {url_file: " + file("database_url", address(c["database password"], server.Port)) + "}\n" +
			"http: {address: '127.0.0.1:0', pprof: true, api: {enabled: true, token_file: " + file("token", c["API token"]) + "}}\n" +
			"queue: {max_attempts: 2, retry: {policy: fixed, delay: 10ms}}\n" +
			"queues:\n" +
			"  echo: {http: {url: '" + secretly + "', headers: {X-Api-Key: 'Bearer " + c["header"] + "'}, secrets_file: " + file("webhook", "whsec_"+c["webhook key"]) + "}}\n" +
			"  nowhere: {http: {url: '" + nowhere + "'}}\n" +
			"  fails: {exec: {command: " + sh(`cat > /dev/null; echo no luck >&2; exit 1`) + ", env: {KEY: " + c["handler's variable"] + "}}}\n" +
			"  stays: {exec: {command: " + sh(`echo $$ > "$1.new"; mv "$1.new" "$1"; cat > /dev/null; exec sleep 1000`, filepath.Join(dir, "pid")) + ", env: {KEY: " + c["handler's variable"] + "}}}\n" +
			"  dies: {worker: {command: " + sh(`echo '{"ready":true,"protocol":1}'; read -r line; echo garbage`) + ", processes: 1}}\n" + more
	}

	s := &service{file: filepath.Join(dir, "pq-dispatch.yaml"), log: &journal{}}
	s.program = &program{d: d, cmd: exec.Command(os.Args[0], "run", "-c", s.file)}
	s.write(config(""))
	s.cmd.Env = []string{
		envProgram + "=1", "PATH=" + os.Getenv("PATH"), "UNRELATED_SECRET=" + c["daemon's variable"],
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + otlp.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_METRIC_EXPORT_INTERVAL=200",
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, s.log
	s.done = pgtest.Start(t, s.cmd)
	s.says("started")

	ask := func(token, method, path, body string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer.Status, answer.Header, string(text))
	}
	var said strings.Builder // by the API
	for _, queue := range []string{"echo", "nowhere", "fails", "stays", "dies"} {
		said.WriteString(ask(c["API token"], "POST", "/api/v1/queues/"+queue+"/jobs", `{"data": "`+c["job data"]+`"}`))
	}
	for _, wrong := range []string{c["wrong API token"], ""} {
		said.WriteString(ask(wrong, "POST", "/api/v1/queues/echo/jobs", `{"data": "`+c["job data"]+`"}`))
		said.WriteString(ask(wrong, "GET", "/api/v1/jobs", ""))
	}
	said.WriteString(ask(c["API token"], "POST", "/api/v1/queues/echo/jobs", `{"data": }`))
	d.eventually("four jobs have failed for good, and one runs", func() bool {
		return d.number(`select count(*) from queue where set_aside`) == 4 && text(filepath.Join(dir, "pid")) != ""
	})
	for _, path := range []string{"/api/v1/jobs", "/api/v1/queues", "/api/v1/dispatchers", "/api/v1/openapi.yaml"} {
		said.WriteString(ask(c["API token"], "GET", path, ""))
	}
	c.missing(t, "the API", said.String())

	// Of the jobs' errors, who has the endpoint echo its own secrets gets them hidden.
	rows, err := d.query.Query(t.Context(), `select q_name || ': ' || last_error from queue where last_error is not null order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	errors, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(errors) != 4 {
		t.Fatalf("got the errors %q, %v; want 4", errors, err)
	}
	c.missing(t, "last_error", strings.Join(errors, "\n"))

	// Who may look at processes.
	pid := strconv.Itoa(s.cmd.Process.Pid)
	c.missing(t, "the daemon's command line", text("/proc/"+pid+"/cmdline"))
	child := strings.TrimSpace(text(filepath.Join(dir, "pid")))
	c.missing(t, "a handler's command line", text("/proc/"+child+"/cmdline"))
	environ := text("/proc/" + child + "/environ")
	if !strings.Contains(environ, c["handler's variable"]) {
		t.Errorf("got the environment %q, want the handler's own variable in it", environ)
	}
	c.missing(t, "a handler's environment", environ, "handler's variable")

	for _, path := range []string{
		"/metrics", "/livez", "/readyz", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap?debug=1",
		"/debug/pprof/allocs?debug=1", "/debug/pprof/block?debug=1", "/debug/pprof/mutex?debug=1", "/debug/pprof/threadcreate?debug=1", "/debug/pprof/cmdline",
		"/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=0.1",
	} {
		status, body := s.get(path)
		if status != http.StatusOK && path != "/debug/pprof/cmdline" {
			t.Errorf("%s: got %d, want 200", path, status)
		}
		c.missing(t, path, body)
	}

	d.eventually("spans and metrics have come", func() bool {
		return strings.Contains(collector.String(), "process echo") && strings.Contains(collector.String(), "/v1/metrics")
	})

	// What fails when it is told anew, and when its sessions are cut off. The log of before is looked at first:
	// a reload empties it.
	c.missing(t, "the log", s.log.String())
	s.reload(config("  bad: {http: {url: 'http://u:"+c["wrong password"]+"@h:port:x/?"+c["URL query"]+"'}}\n"), "configuration not applied, the one before stays")
	c.missing(t, "the log of a reload", s.log.String())
	if _, err := d.query.Exec(t.Context(), `alter role `+user+` password '`+c["wrong password"]+`'`); err != nil {
		t.Fatal(err)
	}
	if _, err := d.query.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where usename = $1`, user); err != nil {
		t.Fatal(err)
	}
	d.eventually("the daemon says that its password is refused", func() bool { return strings.Contains(s.log.String(), "password authentication failed") })

	// The end, with what every goroutine does. (It may have given up by itself.)
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	<-s.done
	if !strings.Contains(s.log.String(), "goroutine ") {
		t.Logf("it had ended before it was asked for its goroutines")
	}
	c.missing(t, "the log of the end", s.log.String()+s.stdout.String())
	c.missing(t, "the collector", collector.String())

	// The commands that look at a configuration, and starts that fail.
	for _, args := range [][]string{{"config", "print", "-c", s.file}, {"config", "print", "--sources", "-c", s.file}, {"config", "check", "-c", s.file}} {
		r := cli("", args...)
		c.missing(t, strings.Join(args[:2], " "), r.stdout+r.stderr)
	}
	for name, broken := range map[string]string{
		"a wrong password": address("canary"+c["URL password"], server.Port), "nobody there": address(c["database password"], 1),
		"a port that is none": strings.Replace(address(c["database password"], 1), ":1/", ":x/", 1), "no address at all": "postgres://u:" + c["database password"] + "@@/",
		"pairs": "host=127.0.0.1 port=1 user=u password='" + c["database password"] + "'", "a word": c["database password"],
	} {
		path := file("broken", broken)
		s.write("database: {url_file: " + path + "}\nqueues: {a: {exec: {command: [/bin/true]}}}\n")
		for _, args := range [][]string{{"doctor", "--database-url", broken}, {"stats", "--database-url", broken}, {"config", "print", "-c", s.file}, {"config", "check", "-c", s.file}} {
			r := cli("", args...)
			c.missing(t, name+": "+args[0], r.stdout+r.stderr)
		}
	}
}
