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
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/internal/tune"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// tuneProcessEnv makes the test binary the other hidden sub-command. TestMain knows only the one.
const tuneProcessEnv = "PQ_DISPATCH_BENCH_TEST_TUNE_PROCESS"

func init() {
	if os.Getenv(tuneProcessEnv) == "" {
		return
	}
	if err := TuneProcess(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func tuneOptions(t *testing.T, url string) TuneOptions {
	o := TuneOptions{Options: options(t, url, Scale{}), Budget: 10 * time.Second}
	t.Setenv(processEnv, "")
	t.Setenv(tuneProcessEnv, "1")
	o.CommandLine = "pq-dispatch bench tune it"
	return o
}

func TestTuneReportsAllItsKeysAndLeavesNothing(t *testing.T) {
	const short = 5 * time.Second
	url := pgtest.Database(t)
	for name, set := range map[string]func(*TuneOptions){
		"as fast as possible": func(o *TuneOptions) { o.Plot = filepath.Join(t.TempDir(), "tune.svg") },
		"at a rate":           func(o *TuneOptions) { o.Budget, o.Rate, o.Work, o.Payload = short, 100, 2*time.Millisecond, 4<<10 },
		"at a rate in groups": func(o *TuneOptions) { o.Budget, o.Rate = short, 5000 },
		"with a command":      func(o *TuneOptions) { o.Budget, o.Command = short, []string{"/bin/sh", "-c", "cat > /dev/null"} },
	} {
		t.Run(name, func(t *testing.T) {
			o := tuneOptions(t, url)
			set(&o)
			var out bytes.Buffer
			o.JSON, o.Stdout = true, &out
			err := Tune(t.Context(), o)
			for errors.Is(err, ErrBudget) { // the command takes as long as the machine lets it
				o.Budget *= 2
				err = Tune(t.Context(), o)
			}
			if err != nil {
				t.Fatal(err)
			}
			var keys map[string]json.RawMessage
			if err := json.Unmarshal(out.Bytes(), &keys); err != nil {
				t.Fatalf("%v: %s", err, &out)
			}
			delete(keys, "rejected") // if there is one
			if diff := cmp.Diff([]string{"advice", "bench", "budget_seconds", "command_line", "default", "elapsed_seconds", "embedded", "go", "jobs", "machine",
				"ratio", "recommended", "server_settings", "stopped", "trials", "versions", "yaml"}, slices.Sorted(maps.Keys(keys))); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			var r TuneReport
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			for _, p := range []Prediction{r.Default, r.Recommended} {
				if p.Throughput.Trials == 0 || p.Throughput.Low > p.Throughput.Median || p.Throughput.Median > p.Throughput.High || p.P50.Median > p.P99.Median || p.P99.Median <= 0 {
					t.Errorf("got the prediction %+v", p)
				}
			}
			if r.CommandLine != o.CommandLine || r.Default.Setting != tune.Default || len(r.Trials) == 0 || r.Ratio.Estimate < 1 || len(r.Advice) == 0 ||
				r.Jobs.Rate != o.Rate || r.Jobs.PayloadBytes != max(stampDigits, o.Payload) {
				t.Errorf("got %s", &out)
			}
			if o.Plot != "" {
				if svg, err := os.ReadFile(o.Plot); err != nil || !strings.Contains(string(svg), "concurrency 100") {
					t.Errorf("got %v and the plot %s", err, svg)
				}
			}
			wantNothingLeft(t, url)
		})
	}
}

func TestTuneFindsThatSlowHandlersWantMoreOfThem(t *testing.T) {
	o := tuneOptions(t, pgtest.Database(t))
	o.Work, o.Budget = 100*time.Millisecond, 25*time.Second // the default runs 1000 a second
	r, err := search(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// A machine that is busy with other things may not have the time for it, or have no more to give than the default takes.
	if r.Recommended.Setting == tune.Default && (r.Stopped == tune.OutOfTime || !slices.ContainsFunc(r.Trials, func(trial tune.Trial) bool {
		return trial.Setting.Concurrency*trial.Setting.Processes >= 200 && trial.Sample.Throughput > 1.3*r.Default.Throughput.Median
	})) {
		t.Skipf("the machine is too busy for it: %d trials, the default ran %.0f a second", len(r.Trials), r.Default.Throughput.Median)
	}
	if s := r.Recommended.Setting; s.Concurrency*s.Processes < 200 || r.Ratio.Low <= 1 || r.Recommended.Throughput.Median <= r.Default.Throughput.Median {
		t.Errorf("got %+v, with %+v instead of %+v", s, r.Recommended, r.Default)
	}
	var out strings.Builder
	if err := r.text(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pq-dispatch bench tune it\n", "that take 100ms", "The recommended setting has more jobs a second", "For the daemon:", "dispatcher.New(jobs", "not recommended, it breaks this promise"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got no %q in:\n%s", want, &out)
		}
	}
}

func TestTheVerdictSaysWhatTheFiguresSay(t *testing.T) {
	better := tune.Setting{Concurrency: 200, Processes: 1}
	for _, test := range []struct {
		report TuneReport
		want   []string
	}{
		{TuneReport{Recommended: Prediction{Setting: better}, Ratio: tune.Ratio{Estimate: 2, Low: 1.5, High: 3}}, []string{"more jobs a second", "times 2.00 (95 %: 1.50 to 3.00)"}},
		{TuneReport{Recommended: Prediction{Setting: better, KeepsUp: true}, Jobs: tunedJobs{Rate: 5}}, []string{"has a lower p99"}},
		{TuneReport{Recommended: Prediction{Setting: tune.Default}, Rejected: &better}, []string{"Keep the default: concurrency 200 had looked better"}},
		{TuneReport{Recommended: Prediction{Setting: tune.Default}, Stopped: tune.OutOfTime}, []string{"Keep the default", "in the time that there was"}},
		{TuneReport{Recommended: Prediction{Setting: tune.Default}, Stopped: tune.Converged, Jobs: tunedJobs{Rate: 5}}, []string{"Keep the default", "does NOT keep up with 5 puts a second"}},
	} {
		for _, want := range test.want {
			if got := test.report.verdict(); !strings.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		}
	}
}

func TestTuneRefusesWhereAQueueIsInUse(t *testing.T) {
	for name, use := range map[string]struct {
		want string
		by   func(t *testing.T, pool *pgxpool.Pool, jobs *store.Store)
	}{
		"a job that waits": {"jobs are waiting or running", func(t *testing.T, _ *pgxpool.Pool, jobs *store.Store) {
			if _, err := jobs.Queue("apples").Put(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}},
		"a job for later": {"jobs are waiting or running", func(t *testing.T, _ *pgxpool.Pool, jobs *store.Store) {
			if _, err := jobs.Queue("apples").Put(t.Context(), 1, store.ScheduleAt(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}},
		"a put under way": {"being put, or waited for", func(t *testing.T, pool *pgxpool.Pool, jobs *store.Store) {
			tx, err := pool.Begin(t.Context())
			if err == nil {
				t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
				_, err = jobs.Queue("apples").With(tx).Put(t.Context(), 1)
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		"a dispatcher without jobs": {"dispatchers are at work", func(t *testing.T, _ *pgxpool.Pool, jobs *store.Store) {
			session, err := jobs.OpenSession(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { session.Close(context.WithoutCancel(t.Context())) })
		}},
		"jobs that come and go": {"jobs come and go", func(t *testing.T, pool *pgxpool.Pool, jobs *store.Store) {
			ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				tick := time.NewTicker(50 * time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					_, _ = pool.Exec(ctx, `with gone as (delete from queue where false) insert into queue (q_name, data, dequeued_at) values ('apples', '1', now())`)
					select {
					case <-tick.C:
					case <-ctx.Done():
					}
				}
			}()
			t.Cleanup(func() { cancel(); <-ended })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.Database(t)
			pool, err := pgxpool.New(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			jobs := store.New(pool, store.Options{})
			if err := jobs.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			use.by(t, pool, jobs)
			var out bytes.Buffer
			o := tuneOptions(t, url)
			o.Stdout = &out
			err = Tune(t.Context(), o)
			if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), use.want) || !strings.Contains(err.Error(), "queue") || out.Len() > 0 {
				t.Errorf("got %v and %q, want it refused because %s", err, &out, use.want)
			}
			var schemas int
			query(t, url, &schemas, `select count(*)::int from pg_namespace where nspname like 'pq_dispatch_%'`)
			if schemas != 0 {
				t.Errorf("got %d schemas, want none made", schemas)
			}
		})
	}
}

func TestAQueueThatRestsIsNotInUse(t *testing.T) {
	url := pgtest.Database(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, o := range []store.Options{{}, {Table: "other"}, {Schema: "third", Table: "Odd"}} {
		if err := store.New(pool, o).Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), `insert into third."Odd" (q_name, data, dequeued_at, set_aside) values ('apples', '1', now(), true)`); err != nil {
		t.Fatal(err)
	}
	if err := refuseInUse(t.Context(), url); err != nil {
		t.Errorf("got %v, want a queue with a job set aside taken for one that rests", err)
	}
	if _, err := pool.Exec(t.Context(), `update third."Odd" set dequeued_at = null, set_aside = false`); err != nil {
		t.Fatal(err)
	}
	if err := refuseInUse(t.Context(), url); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "third.Odd") {
		t.Errorf("got %v, want the table that is in use", err)
	}
	if _, err := pool.Exec(t.Context(), `drop table third."Odd"`); err != nil {
		t.Fatal(err)
	}
	if err := refuseInUse(t.Context(), url); err != nil {
		t.Errorf("got %v of a table that is gone", err)
	}
}

func TestTuneThatIsCancelledLeavesNothing(t *testing.T) {
	for when, name := range map[string]string{"at first": "pq_dispatch_bench_%", "with dispatchers": "% dispatcher 1", "in the search": "% dispatcher 4"} {
		t.Run(when, func(t *testing.T) {
			url := pgtest.Database(t)
			o := tuneOptions(t, url)
			o.Budget = 3 * time.Minute // so that each dispatcher lives long enough to be seen
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			cause := errors.New("Ctrl-C")
			result := begin(t, func() error { return Tune(ctx, o) })
			connected(t, url, name)
			cancel(cause)
			if err := result(); !errors.Is(err, cause) {
				t.Errorf("got %v, want the cause of the end", err)
			}
			wantNothingLeft(t, url)
		})
	}
}

func TestTuneWhoseDispatcherIsKilledSaysSoAndLeavesNothing(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc to find it in")
	}
	url := pgtest.Database(t)
	o := tuneOptions(t, url)
	o.Work = 400 * time.Millisecond // so that it lives for a while
	o.Budget = time.Minute
	result := begin(t, func() error { return Tune(t.Context(), o) })
	connected(t, url, "% dispatcher 2")
	for _, pid := range children(os.Getpid()) {
		p, err := os.FindProcess(pid)
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := result(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got %v, want an error that says how it ended", err)
	}
	wantNothingLeft(t, url)
}

func TestTuneSaysWhatIsWrong(t *testing.T) {
	url := pgtest.Database(t)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		set  func(*TuneOptions)
		is   error
		want string
	}{
		"a command that fails at once": {func(o *TuneOptions) { o.Command = []string{"/bin/sh", "-c", "echo rotten >&2; exit 1"} }, ErrCommand, "rotten"},
		"a command that is not there":  {func(o *TuneOptions) { o.Command = []string{filepath.Join(dir, "nothing")} }, ErrCommand, "no such file"},
		"a command that fails later": {func(o *TuneOptions) {
			o.Command = []string{"/bin/sh", "-c", `test -e ` + dir + `/once && exit 3; touch ` + dir + `/once`}
		}, nil, "a job has failed: exit status 3"},
		"jobs that take too long":  {func(o *TuneOptions) { o.Work = 5 * time.Second }, ErrBudget, "4m0s at least"},
		"a server that is nowhere": {func(o *TuneOptions) { o.DatabaseURL = "postgres://127.0.0.1:1/none?connect_timeout=1" }, nil, "connect to the database"},
		"no room for the plot":     {func(o *TuneOptions) { o.Plot, o.Budget = filepath.Join(dir, "none", "x.svg"), 4*time.Second }, os.ErrNotExist, "x.svg"},
	} {
		t.Run(name, func(t *testing.T) {
			o := tuneOptions(t, url)
			test.set(&o)
			err := Tune(t.Context(), o)
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			wantNothingLeft(t, url)
		})
	}
	if err := TuneProcess(t.Context(), strings.NewReader("x"), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "settings on stdin") {
		t.Errorf("got %v, want an error about the settings", err)
	}
}

func TestStampsAreReadFromDataOfAnySize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stamp := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1e18, 2e18)).Draw(t, "stamp")
		size := rapid.IntRange(0, 5000).Draw(t, "size")
		data := newTuneData(size).at(stamp)
		if !json.Valid(data) {
			t.Fatalf("got %s", data)
		}
		if got, err := stampOf(data); err != nil || got != stamp {
			t.Fatalf("got %d, %v of %s, want %d", got, err, data, stamp)
		}
		if shortest := newTuneData(0).at(1e18); stamp > 0 && size > 50 && len(data) != size || len(data) > max(size, len(shortest)) {
			t.Fatalf("got %d bytes, want %d", len(data), size)
		}
	})
	for _, wrong := range []string{"", "null", `{"pad": "1"}`, `{"at": "x"}`, `"1"`} {
		if got, err := stampOf([]byte(wrong)); err == nil {
			t.Errorf("got %d of %s, want an error", got, wrong)
		}
	}
}
