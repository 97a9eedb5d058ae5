//go:build unix

// The daemon as a process: what it is told by a file, signals and the command line, and what it tells.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// service is a daemon that runs.
type service struct {
	*program
	file string // of its configuration
	log  *journal
	at   string // where it listens; empty: not asked yet
}

// journal is a log that is read while it is written, a JSON object a line.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// find returns the attributes of the last entry with that message.
func (j *journal) find(message string) (entry map[string]any) {
	for line := range strings.Lines(j.String()) {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil && e["msg"] == message {
			entry = e
		}
	}
	return entry
}

// daemon starts a daemon with a configuration and waits until it has its sessions.
func (d *database) daemon(config string, environ ...string) *service {
	d.Helper()
	s := d.launch(config, environ...)
	s.says("started")
	return s
}

// launch starts one.
func (d *database) launch(config string, environ ...string) *service {
	d.Helper()
	s := &service{file: filepath.Join(d.TempDir(), "pq-dispatch.yaml"), log: &journal{}}
	s.program = &program{d: d, cmd: exec.Command(os.Args[0], "--database-url", d.url, "run", "-c", s.file)}
	s.write(config)
	s.cmd.Env = append(append(os.Environ(), envProgram+"=1"), environ...)
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, s.log
	s.done = pgtest.Start(d.T, s.cmd)
	d.Cleanup(func() {
		if d.Failed() {
			d.Logf("log of daemon %d:\n%s", s.cmd.Process.Pid, s.log)
		}
	})
	return s
}

func (s *service) write(config string) {
	s.d.Helper()
	if err := os.WriteFile(s.file, []byte(config), 0o600); err != nil {
		s.d.Fatal(err)
	}
}

// says waits until the log has a message, and returns its attributes.
func (s *service) says(message string) (entry map[string]any) {
	s.d.Helper()
	s.d.eventually(fmt.Sprintf("the daemon says %q", message), func() bool {
		select {
		case <-s.done:
			s.d.Fatalf("the daemon has ended:\n%s", s.log)
		default:
		}
		entry = s.log.find(message)
		return entry != nil
	})
	return entry
}

// reload has it read another configuration, and waits for what it says then.
func (s *service) reload(config, message string) map[string]any {
	s.d.Helper()
	if s.log.find("listening") != nil {
		s.address() // before the log is empty
	}
	s.log.mu.Lock()
	s.log.text.Reset()
	s.log.mu.Unlock()
	s.write(config)
	s.signal(syscall.SIGHUP)
	return s.says(message)
}

// address is where it listens.
func (s *service) address() string {
	s.d.Helper()
	if s.at == "" {
		s.at = s.says("listening")["address"].(string)
	}
	return s.at
}

// get asks it over HTTP.
func (s *service) get(path string) (status int, body string) {
	s.d.Helper()
	response, err := http.Get("http://" + s.address() + path)
	if err != nil {
		s.d.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.d.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// empty waits until no job is left, and none has failed for good.
func (d *database) empty() {
	d.Helper()
	d.eventually("no job is left", func() bool {
		if n := d.number(`select count(*) from queue where set_aside`); n > 0 {
			var why string
			_ = d.query.QueryRow(d.Context(), `select last_error from queue where set_aside limit 1`).Scan(&why)
			d.Fatalf("%d jobs were set aside: %s", n, why)
		}
		return d.number(`select count(*) from queue`) == 0
	})
}

// left checks that so many jobs are in the queue, at their first attempt and in nobody's hands.
func (d *database) left(n int) {
	d.Helper()
	d.leftAt(n, 1)
}

// leftAt is left for jobs whose next attempt is that one.
func (d *database) leftAt(n, attempt int) {
	d.Helper()
	if got := d.number(`select count(*) from queue where attempt = $1 and deaths is not distinct from 0 and not set_aside`, attempt); got != n {
		d.Errorf("jobs left whose next attempt is %d: got %d, want %d", attempt, got, n)
	}
}

// text reads a file that may not be there yet.
func text(file string) string {
	content, _ := os.ReadFile(file)
	return string(content)
}

// sh is a command of a configuration: a script, and its arguments from $1 on.
func sh(script string, args ...string) string {
	command, _ := json.Marshal(append([]string{"/bin/sh", "-c", script, "sh"}, args...))
	return string(command)
}

// listening is the part of a configuration that has a listener.
const listening = "http: {address: '127.0.0.1:0'}\n"

// worker is the path of the example of a worker.
func worker(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("the worker is in Python, and there is no python3 in PATH")
	}
	path, err := filepath.Abs("../../examples/worker.py")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheDaemonRunsJobsByAllKindsOfHandlersAndLeavesNothing(t *testing.T) {
	d := newDatabase(t)
	posted := make(chan string, 1)
	endpoint := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posted <- fmt.Sprintf("%s %s %s %s", r.Header.Get("PQ-Dispatch-Queue"), r.Header.Get("PQ-Dispatch-Max-Attempts"), r.Header.Get("Authorization"), body)
		w.WriteHeader(http.StatusNoContent)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = endpoint.Serve(l) }()
	defer endpoint.Close()
	file := filepath.Join(t.TempDir(), "eaten")
	s := d.daemon(listening + `
queues:
  letters: {max_attempts: 7, http: {url: 'http://` + l.Addr().String() + `/', headers: {Authorization: Bearer canary}}}
  pictures: {exec: {env: {KNIFE: sharp}, command: ` + sh(`echo "$PQ_DISPATCH_QUEUE $KNIFE $(cat)" > "$1"`, file) + `}}
  apples: {worker: {command: [` + worker(t) + `], processes: 2}}
`)
	d.must("put", "letters", `{"to": "Ida"}`)
	d.must("put", "pictures", `{"of": "Udo"}`)
	d.must("put", "apples", `{"kind": "Cox"}`)
	d.empty()
	wants(t, "posted", <-posted, `letters 7 Bearer canary {"to": "Ida"}`)
	wants(t, "the program's file", text(file), "pictures sharp {\"of\": \"Udo\"}\n")
	said := s.says("a worker process says")
	wants(t, "standard error of the worker", fmt.Sprint(said["stderr"]), "ate a Cox")
	wants(t, "its queue", fmt.Sprint(said["queue"]), "apples")
	var children []int
	d.eventually("its children are the two workers", func() bool {
		children = childrenOf(t, s.cmd.Process.Pid)
		return runtime.GOOS != "linux" || len(children) == 2
	})
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
	d.allEnd(children)
	wants(t, "standard output", s.stdout.String(), "")
	if strings.Contains(s.log.String(), "canary") {
		t.Errorf("the log has a secret: %s", s.log)
	}
}

// childrenOf are the processes that a process has started and that live; on other systems than Linux none is known.
func childrenOf(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		for field := range strings.FieldsSeq(text(list)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func TestTheDaemonIsToldApartByItsProbes(t *testing.T) {
	d := newDatabase(t)
	dir := t.TempDir()
	s := d.daemon(listening + `queues: {apples: {concurrency: 1, exec: {command: ` + sh(`cd "$1"; echo $$ > pid; until test -e go; do sleep 0.01; done`, dir) + `}}}`)
	d.eventually("it is ready", func() bool { status, _ := s.get("/readyz"); return status == http.StatusOK })
	for _, path := range []string{"/readyz", "/livez"} {
		wants(t, path, fmt.Sprint(cli("", "healthcheck", s.address(), "--path", path).code), "0")
	}
	d.put("apples", 2)
	pids := d.pids(filepath.Join(dir, "pid"), 1)
	s.signal(syscall.SIGTERM)
	s.says("stopping; running jobs may go on")
	status, body := s.get("/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"draining": true`) {
		t.Errorf("readyz of a daemon that drains: got %d %s, want 503", status, body)
	}
	cli("", "healthcheck", s.address()).failsWith(t, exitFailed, "503")
	wants(t, "livez of a daemon that drains", fmt.Sprint(cli("", "healthcheck", s.address(), "--path", "/livez").code), "0")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.ends(exitOK)
	d.allEnd(pids)
	d.left(1)
	cli("", "healthcheck", s.address()).failsWith(t, exitFailed, "no daemon answers")
}

func TestWhatTheGraceCutsOffIsHandedBack(t *testing.T) {
	const up = `echo $PQ_DISPATCH_ATTEMPT > "$1.attempt"; echo $$ > "$1"`
	for name, tt := range map[string]struct {
		script, keys string
		counted      int
	}{
		"a program": {up + `; exec sleep 1000`, ``, 0},
		// It has an hour from its timeout on, in which the grace ends: it has failed all the same. So has an attempt that
		// has not come as far as the trap by then.
		"not one whose time was over before": {`trap '` + up + `' TERM; while :; do sleep 0.1; done`, `timeout: 100ms, max_attempts: 1000, retry: {policy: fixed, delay: 0s}, `, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDatabase(t)
			file := filepath.Join(t.TempDir(), "pid")
			s := d.daemon(`
grace: 0s
queues: {apples: {` + tt.keys + `exec: {kill_after: 1h, command: ` + sh(tt.script, file) + `}}}`)
			d.put("apples", 1)
			pids := d.pids(file, 1)
			s.signal(syscall.SIGTERM)
			s.ends(exitOK)
			d.allEnd(pids)
			attempt, err := strconv.Atoi(strings.TrimSpace(text(file + ".attempt")))
			if err != nil {
				t.Fatal(err)
			}
			d.leftAt(1, attempt+tt.counted)
		})
	}
}

func TestTheSecondSignalHandsJobsBackAndEndsTheDaemon(t *testing.T) {
	d := newDatabase(t)
	dir := t.TempDir()
	s := d.daemon(`
grace: 1h
queues:
  pears: {exec: {command: ` + sh(`echo $$ > "$1/exec"; exec sleep 1000`, dir) + `}}
  apples: {worker: {command: [` + worker(t) + `], processes: 1}}
`)
	d.must("put", "pears", "1")
	d.must("put", "apples", `{"sleep": 1000}`)
	d.pids(filepath.Join(dir, "exec"), 1)
	d.eventually("both run", func() bool {
		return d.number(`select count(*) from pg_locks where locktype = 'advisory' and classid = pq_dispatch.lock_class()::oid`) == 2
	})
	children := childrenOf(t, s.cmd.Process.Pid)
	s.signal(syscall.SIGTERM)
	s.says("stopping; running jobs may go on")
	s.signal(syscall.SIGINT)
	s.says("stopping at once; running jobs are handed back")
	s.ends(128 + int(syscall.SIGTERM))
	d.allEnd(children)
	d.left(2)
	for _, queue := range []string{"pears", "apples"} { // which is also what the metrics call it
		if !strings.Contains(s.log.String(), `"msg":"job handed back","queue":"`+queue+`"`) {
			t.Errorf("got a log that does not say that the job of %s was handed back", queue)
		}
	}
	wants(t, "jobs that are due", fmt.Sprint(d.number(`select count(*) from queue where schedule_at is null or schedule_at <= now()`)), "2")
}

func TestTheThirdSignalWaitsForNothing(t *testing.T) {
	d := newDatabase(t)
	file := filepath.Join(t.TempDir(), "pid")
	// What a handler has started outlives it, unless all of its group is killed.
	stubborn := `trap '' TERM INT; sleep 1000 & echo $! >> "$1"; echo $$ >> "$1"; `
	s := d.daemon(`
queues:
  apples: {exec: {command: ` + sh(stubborn+`while :; do sleep 1; done`, file) + `}}
  pears: {worker: {processes: 1, command: ` + sh(stubborn+`echo '{"ready":true,"protocol":1}'; while :; do sleep 1; done`, file) + `}}
`)
	d.put("apples", 1)
	d.put("pears", 1)
	pids := d.pids(file, 4)
	s.signal(syscall.SIGTERM)
	s.says("stopping; running jobs may go on")
	s.signal(syscall.SIGTERM)
	s.says("stopping at once; running jobs are handed back")
	s.signal(syscall.SIGINT)
	s.ends(128 + int(syscall.SIGINT))
	d.allEnd(pids)
}

func TestAConfigurationThatCannotWorkEndsTheDaemonWithItsReason(t *testing.T) {
	d := newDatabase(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const apples = "queues: {apples: {exec: {command: [/bin/true]}}}\n"
	config, err := pgx.ParseConfig(d.url)
	if err != nil {
		t.Fatal(err)
	}
	wrongPassword := fmt.Sprintf("postgres://%s:canary@%s:%d/%s", config.User, config.Host, config.Port, config.Database)
	for _, tt := range []struct {
		name, config, url string
		code              int
		want              []string
	}{
		{"no queue", "grace: 5s\n", d.url, exitUsage, []string{"no queue is given"}},
		{"two mistakes", "grace: 5\nsweep: x\n" + apples, d.url, exitUsage, []string{"pq-dispatch.yaml:1:8", "pq-dispatch.yaml:2:8", "2 mistakes"}},
		{"no such program", "queues: {apples: {exec: {command: [/nowhere/eat]}}, pears: {worker: {command: [/bin/cat]}}}", d.url, exitUsage, []string{"queue apples", "/nowhere/eat"}},
		{"the address of another", apples + "http: {address: '" + taken.Addr().String() + "'}", d.url, exitUsage, []string{"http.address", taken.Addr().String()}},
		{"not migrated", apples, pgtest.Database(t), exitFailed, []string{"run 'pq-dispatch migrate up'"}},
		{"not migrated in this schema", apples + "database: {schema: orchard}", d.url, exitFailed, []string{"run 'pq-dispatch migrate up --schema orchard'"}},
		{"a wrong password", apples, wrongPassword, exitUsage, []string{"password authentication failed", "database.url of --database-url"}},
		{"a wrong direct password", apples + "database: {direct_url: '" + wrongPassword + "'}", d.url, exitUsage, []string{"password authentication failed", "database.direct_url of ", "pq-dispatch.yaml:2:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
			if err := os.WriteFile(file, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := cli("", "--database-url", tt.url, "run", "-c", file)
			if r.code != tt.code {
				t.Errorf("exit code: got %d, want %d", r.code, tt.code)
			}
			for _, part := range tt.want {
				contains(t, "standard error", r.stderr, part)
			}
			if strings.Contains(r.stderr, "canary") {
				t.Errorf("got the password in %s", r.stderr)
			}
		})
	}
	cli("", "run", "-c", "/nowhere.yaml").failsWith(t, exitUsage, "/nowhere.yaml")
	cli("", "healthcheck").failsWith(t, exitUsage, "arg(s)")
	cli("", "healthcheck", "nowhere").failsWith(t, exitFailed, "http.address")
}

func TestADatabaseThatIsAwayIsWaitedFor(t *testing.T) {
	d := newDatabase(t)
	// A gate before the server, which slams the door on those who come, and opens late.
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gate.Addr().String()
	var tried atomic.Int32
	go func() {
		for {
			client, err := gate.Accept()
			if err != nil {
				return
			}
			client.Close()
			tried.Add(1)
		}
	}()
	config, err := pgx.ParseConfig(d.url)
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", config.User, config.Password, address, config.Database)
	s := (&database{t, closed, d.jobs, d.query}).launch(listening + "queues: {apples: {exec: {command: [/bin/true]}}}")
	s.says("cannot open the lock session; trying again until it works")
	if status, _ := s.get("/livez"); status != http.StatusOK {
		t.Errorf("livez: got %d, want 200", status)
	}
	if status, body := s.get("/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: got %d %s, want 503", status, body)
	}
	before := tried.Load()
	d.eventually("it tries again and again", func() bool { return tried.Load() >= before+3 })
	gate.Close()
	if s.log.find("started") != nil {
		t.Error("it says that it has started before it has its session")
	}
	pass(t, address, net.JoinHostPort(config.Host, fmt.Sprint(config.Port)))
	s.says("started")
	d.put("apples", 1)
	d.empty()
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
}

// pass passes connections on from one address to another until the test ends.
func pass(t *testing.T, from, to string) {
	t.Helper()
	gate, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			client, err := gate.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				context.AfterFunc(ctx, func() { pair[0].Close() })
				open.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		gate.Close()
		cancel()
		open.Wait()
	})
}
