package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/internal/proc"
)

// processEnv makes the test binary the hidden sub-command.
const processEnv = "PQ_DISPATCH_BENCH_TEST_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(processEnv) == "" {
		pgtest.Main(m)
	}
	if err := Process(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func options(t *testing.T, url string, s Scale) Options {
	t.Setenv(processEnv, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each process, else
	return Options{
		DatabaseURL: url, Quick: true, Scale: s,
		Stdout: io.Discard, Stderr: t.Output(), CommandLine: "pq-dispatch bench it", Version: "v1", Exec: []string{os.Args[0]},
	}
}

// small is how each benchmark is run here, and what it has to report.
var small = map[string]struct {
	scale                   Scale
	figures, floor, targets string // in order, in order, sorted
}{
	"drain": {
		Scale{Jobs: 1200, Rounds: 2},
		`jobs_per_second ratio wal_bytes_per_job server_cpu_us_per_job dispatcher_cpu_us_per_job memory_mib repeated_jobs
		 processes_4_jobs_per_second processes_4_ratio processes_4_wal_bytes_per_job processes_4_server_cpu_us_per_job processes_4_dispatcher_cpu_us_per_job
		 processes_4_memory_mib processes_4_repeated_jobs`,
		`wal_bytes_per_job server_cpu_us_per_job jobs_per_second`,
		`memory_mib processes_4_ratio ratio`,
	},
	"enqueue": {
		Scale{Duration: 200 * time.Millisecond},
		`jobs_per_second ratio backlog_jobs always_notify_jobs_per_second always_notify_ratio always_notify_backlog_jobs`,
		`jobs_per_second backlog_jobs`,
		`ratio`,
	},
	"enqueue-copy": {
		Scale{Jobs: 5000},
		`jobs_per_second ratio`, `jobs_per_second`, `ratio`,
	},
	"latency": {
		Scale{Duration: 500 * time.Millisecond},
		`p50_ms p50_ratio p99_ms p99_ratio max_ms`, `p50_ms p99_ms max_ms`, `p50_ratio p99_ratio`,
	},
	"latency-load": {
		Scale{Jobs: 500, Duration: 300 * time.Millisecond},
		`drain_jobs_per_second offered_jobs_per_second put_jobs_per_second p50_ms p99_ms max_ms producer_late_p99_ms ` +
			`capacity_jobs_per_second capacity_offered_jobs_per_second capacity_put_jobs_per_second capacity_p50_ms capacity_p99_ms capacity_max_ms capacity_producer_late_p99_ms`,
		``, `p99_ms capacity_p99_ms`,
	},
	"schedule": {
		Scale{Rate: 200, Duration: time.Second},
		`jobs early_jobs p50_ms p99_ms max_ms`, ``, `early_jobs p50_ms p99_ms`,
	},
	"recovery": {
		Scale{Jobs: 10, Rounds: 2},
		`kills jobs_killed_per_kill first_rerun_p50_ms first_rerun_p99_ms all_rerun_p50_ms all_rerun_max_ms lost_jobs`, ``,
		`first_rerun_p50_ms first_rerun_p99_ms lost_jobs`,
	},
	"idle": {
		Scale{Duration: 300 * time.Millisecond},
		`statements_per_second_and_process cpu_percent server_cpu_percent wal_bytes_per_second`, `statements_per_second server_cpu_percent`,
		`cpu_percent statements_per_second_and_process`,
	},
	"fairness": {
		Scale{Jobs: 2000},
		`makespan_ms makespan_ratio jobs_of_one_process_min jobs_of_one_process_max
		 urgent_start_p50_ms urgent_start_max_ms urgent_overtaken_max
		 buffered_urgent_start_p50_ms buffered_urgent_start_max_ms buffered_urgent_overtaken_max`, `makespan_ms`,
		`buffered_urgent_overtaken_max makespan_ratio urgent_overtaken_max`,
	},
	"bloat": {
		Scale{Rate: 200, Duration: 500 * time.Millisecond},
		`jobs_per_second p50_ms p99_ms throughput_ratio p99_ratio`, `jobs_per_second p50_ms p99_ms`, `p99_ratio throughput_ratio`,
	},
	"backlog": {
		Scale{Jobs: 5000},
		`ready_jobs ready_jobs_per_second ready_ratio scheduled_jobs scheduled_jobs_per_second scheduled_ratio
		 in_flight_jobs in_flight_jobs_per_second in_flight_ratio`, `jobs_per_second`,
		`in_flight_ratio ready_ratio scheduled_ratio`,
	},
}

// onLinux are figures that only /proc tells.
var onLinux = []string{"server_cpu_us_per_job", "processes_4_server_cpu_us_per_job",
	"dispatcher_cpu_us_per_job", "processes_4_dispatcher_cpu_us_per_job",
	"cpu_percent", "server_cpu_percent"}

func TestEachBenchmarkReportsAllItsFiguresAndLeavesNothing(t *testing.T) {
	for _, b := range Benches() {
		t.Run(b.Name, func(t *testing.T) {
			want, known := small[b.Name]
			if !known {
				t.Fatal("how is it run in a small way?")
			}
			url := pgtest.Database(t)
			o := options(t, url, want.scale)
			var out bytes.Buffer
			o.JSON, o.Stdout = true, &out
			if err := Run(t.Context(), b.Name, o); err != nil {
				t.Fatal(err)
			}
			wantReport(t, out.Bytes(), b.Name, want.figures, want.floor, want.targets)
			wantNothingLeft(t, url)
		})
	}
}

func wantReport(t *testing.T, text []byte, name, figures, floor, targets string) {
	t.Helper()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatalf("the report is not one JSON object: %v\n%s", err, text)
	}
	if diff := cmp.Diff(
		[]string{"bench", "command_line", "figures", "floor", "machine", "ok", "scale", "server_settings", "target", "versions"},
		slices.Sorted(maps.Keys(keys))); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	var r struct {
		Bench          string
		CommandLine    string `json:"command_line"`
		Versions       map[string]string
		ServerSettings map[string]string `json:"server_settings"`
		Machine        Machine
		Figures, Floor map[string]float64
		Target         map[string]map[string]any
		OK             map[string]bool
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		want string
		got  []string
	}{
		"figures": {figures, slices.Collect(maps.Keys(r.Figures))},
		"floor":   {floor, slices.Collect(maps.Keys(r.Floor))},
		"targets": {targets, slices.Collect(maps.Keys(r.Target))},
		"ok":      {targets, slices.Collect(maps.Keys(r.OK))},
	} {
		want := strings.Fields(c.want)
		if _, err := os.Stat("/proc/self/stat"); err != nil && (what == "figures" || what == "floor") {
			want = slices.DeleteFunc(want, func(name string) bool { return slices.Contains(onLinux, name) })
		}
		slices.Sort(want)
		slices.Sort(c.got)
		if diff := cmp.Diff(want, append([]string{}, c.got...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	for name, v := range r.Figures {
		// Some are 0 of right, or when the clock is too coarse for so small a benchmark.
		if v < 0 || v == 0 && strings.HasSuffix(name, "jobs_per_second") {
			t.Errorf("got %s %v, which cannot be", name, v)
		}
	}
	if r.Bench != name || r.CommandLine != "pq-dispatch bench it" || r.Versions["go"] == "" || r.Versions["postgresql"] == "" ||
		r.Versions["pq_dispatch"] != "v1" || r.ServerSettings["synchronous_commit"] != "on" || r.Machine.CPUs < 1 {
		t.Errorf("got %s", text)
	}
	for _, promise := range []string{"early_jobs", "lost_jobs"} {
		if ok, has := r.OK[promise]; has && !ok {
			t.Errorf("got %v %s", r.Figures[promise], promise)
		}
	}
}

// children are the processes of a parent that are no servers.
func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if s, err := proc.Read(pid); err == nil && s.Parent == parent && s.Name != "postgres" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wantNothingLeft looks for processes, goroutines, and schemas in the database.
func wantNothingLeft(t *testing.T, url string) {
	t.Helper()
	if pids := children(os.Getpid()); len(pids) > 0 {
		t.Errorf("got processes %v, want none left", pids)
	}
	var left []string
	query(t, url, &left, `select coalesce(array_agg(nspname::text), '{}') from pg_namespace where nspname like '%pq_dispatch%'`)
	if len(left) > 0 {
		t.Errorf("got schemas %v, want none left", left)
	}
	if err := goleak.Find(pgtest.Goroutines(), goleak.IgnoreAnyFunction("testing.(*T).Run")); err != nil {
		t.Error(err)
	}
}

// query reads one value.
func query(t *testing.T, url string, value any, query string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), query, args...).Scan(value); err != nil {
		t.Fatal(err)
	}
}

// eventually looks again and again until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it did not come about within a minute that %s", what)
		}
	}
}

// begin runs something beside the test, which does not end before it: with the test's context it ends by itself.
func begin(t *testing.T, run func() error) (result func() error) {
	t.Helper()
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = run()
	}()
	result = func() error {
		<-ended
		return err
	}
	t.Cleanup(func() { _ = result() })
	return result
}

// connected waits until a connection has such a name.
func connected(t *testing.T, url, name string) {
	t.Helper()
	eventually(t, name+" is connected", func() (is bool) {
		query(t, url, &is, `
			select exists (
			  select from pg_stat_activity where datname = current_database() and application_name like $1
			)`, name)
		return is
	})
}

func TestCancelledBenchmarkLeavesNothing(t *testing.T) {
	for _, b := range Benches() {
		for when, name := range map[string]string{"at first": "pq_dispatch_bench_%", "with dispatchers": "% dispatcher 1"} {
			if b.Name == "enqueue-copy" && when == "with dispatchers" {
				continue // it has none
			}
			t.Run(b.Name+" "+when, func(t *testing.T) {
				url := pgtest.Database(t)
				o := options(t, url, Scale{})
				o.Quick = false
				if b.Name == "latency" || b.Name == "idle" { // whose floor comes first
					o.Scale = Scale{Duration: 300 * time.Millisecond, Rounds: 1000}
				}
				if b.Name == "drain" || b.Name == "latency-load" {
					o.Scale = Scale{Jobs: 20_000, Rounds: 1000}
				}
				var out bytes.Buffer
				o.Stdout = &out
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				cause := errors.New("Ctrl-C")
				result := begin(t, func() error { return Run(ctx, b.Name, o) })
				connected(t, url, name)
				cancel(cause)
				if err := result(); !errors.Is(err, cause) {
					t.Errorf("got %v, want the cause of the end", err)
				}
				if out.Len() > 0 {
					t.Errorf("got a report of a benchmark that did not end: %s", &out)
				}
				wantNothingLeft(t, url)
			})
		}
	}
}

func TestDispatcherThatDiesIsAnErrorAndNothingIsLeft(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc to find it in")
	}
	for _, name := range []string{"idle", "bloat"} {
		url := pgtest.Database(t)
		o := options(t, url, Scale{Duration: time.Second, Rate: 100})
		result := begin(t, func() error { return Run(t.Context(), name, o) })
		connected(t, url, "% dispatcher 1")
		for _, pid := range children(os.Getpid()) {
			p, err := os.FindProcess(pid)
			if err == nil {
				err = p.Kill()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		err := result()
		if err == nil || !strings.Contains(err.Error(), "dispatcher 1: signal: killed") {
			t.Errorf("%s: got %v, want an error that says which one ended, and how", name, err)
		}
		wantNothingLeft(t, url)
		if t.Failed() {
			t.Fatalf("%s: the benchmark's error: %v", name, err)
		}
	}
}

func TestBenchmarkOnAServerOfItsOwnPrintsATable(t *testing.T) {
	o := options(t, "", Scale{Jobs: 3000})
	var out bytes.Buffer
	o.Stdout = &out
	if err := Run(t.Context(), "enqueue-copy", o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pq-dispatch bench it\n", "(started for this) with fsync on, synchronous_commit on, shared_buffers 128MB", "at least 0.8", "jobs_per_second"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got a table without %q:\n%s", want, &out)
		}
	}
	if pids := children(os.Getpid()); len(pids) > 0 {
		t.Errorf("got processes %v, want none left", pids)
	}
}

func TestProfilesOfTheDispatchersAreWritten(t *testing.T) {
	o := options(t, pgtest.Database(t), Scale{Jobs: 500})
	o.Profile = t.TempDir()
	if err := Run(t.Context(), "drain", o); err != nil {
		t.Fatal(err)
	}
	for i := range 1 + 4 {
		path := filepath.Join(o.Profile, fmt.Sprintf("drain-%d.pprof", i+1))
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("got %v, want a profile", err)
		}
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	if err := Run(t.Context(), "speed", Options{}); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "speed") {
		t.Errorf("got %v, want an error about the name", err)
	}
	err := Run(t.Context(), "idle", options(t, "postgres://127.0.0.1:1/none?connect_timeout=1", Scale{}))
	if err == nil || !strings.Contains(err.Error(), "connect to the database") {
		t.Errorf("got %v, want an error about the connection", err)
	}
	err = Process(t.Context(), strings.NewReader("x"), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "settings on stdin") {
		t.Errorf("got %v, want an error about the settings", err)
	}
}
