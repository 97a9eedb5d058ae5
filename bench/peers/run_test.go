package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// comparison is a runner with a server, as compare makes one, for contenders that are prepared in it.
func comparison(t *testing.T) *runner {
	t.Helper()
	server, err := startServer(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.close(); err != nil {
			t.Error(err)
		}
	})
	return &runner{scale: quickScale, server: server, templates: map[string]string{}}
}

func TestEveryContenderRunsEachJobOnce(t *testing.T) {
	r := comparison(t)
	for _, c := range contenders(defaultNode) {
		t.Run(c.ID, func(t *testing.T) {
			if err := c.ready(); err != nil {
				t.Skip(err)
			}
			if err := r.prepare(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			filled, put := 50, 10
			if c.ID == "pgboss-default" { // one job every two seconds
				filled, put = 1, 1
			}
			err := r.try(t.Context(), c, settings{Starts: true, Measure: measureStamp}, func(ctx context.Context, w *trial) error {
				if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return w.fill(ctx, tx, 1, filled) }); err != nil {
					return err
				}
				for i := range put {
					if err := w.put(ctx, job{ID: int64(filled + i + 1)}, time.Time{}); err != nil {
						return err
					}
				}
				want := filled + put
				if n, err := w.unfinished(ctx); err != nil || n != want {
					t.Errorf("got %d unfinished jobs, %v, want %d", n, err, want)
				}
				if err := w.workers.start(ctx, 2, w.settings); err != nil {
					return err
				}
				if err := w.workers.awaitDone(ctx, want); err != nil {
					return err
				}
				if err := w.finished(ctx); err != nil {
					return err
				}
				if got, want := ids(startsOf(w.workers)), upTo(want); !slices.Equal(got, want) {
					t.Errorf("got runs of %v, want each of %d jobs once", got, len(want))
				}
				if _, _, ok := w.workers.Span(); !ok {
					t.Error("got no times of the first and the last job")
				}
				used, err := w.db.usage(ctx)
				if err != nil || used.queries == 0 || used.wal == 0 {
					t.Errorf("got %+v, %v, want what the server has used", used, err)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func startsOf(f *fleet) (starts []run) {
	f.Look(func(all members) { starts = all.Starts() })
	return starts
}

func ids(starts []run) (all []int64) {
	for _, s := range starts {
		all = append(all, s.ID)
	}
	slices.Sort(all)
	return all
}

func upTo(n int) (all []int64) {
	for i := range int64(n) {
		all = append(all, i+1)
	}
	return all
}

// tiny is as little as shows that all is measured.
var tiny = scale{
	processes: []int{1, 2}, rates: []float64{100},
	drain: 100 * time.Millisecond, load: 300 * time.Millisecond, latency: 300 * time.Millisecond, lead: 2 * time.Second,
	schedule: 200 * time.Millisecond, late: 5 * time.Second, enqueue: 100 * time.Millisecond,
	longest: time.Second, moment: time.Second, recovery: 30 * time.Second, rest: 100 * time.Millisecond, idle: 500 * time.Millisecond,
	before: 1500 * time.Millisecond, outage: 200 * time.Millisecond, after: 2 * time.Second, patience: 20 * time.Second,
}

func TestComparisonMeasuresEveryWorkloadOfEveryContender(t *testing.T) {
	var chosen []*contender
	for _, c := range here() {
		if c.ID == "pq-dispatch" || c.ID == "always-notify" {
			chosen = append(chosen, c)
		}
	}
	results, err := compare(t.Context(), options{quick: true, rounds: 1, contenders: chosen, workloads: allWorkloads, stderr: t.Output(), scale: &tiny, absent: neverPresent(false)})
	if err != nil {
		t.Fatal(err)
	}
	if len(results.Contenders) != 2 || len(results.Absent) != 0 {
		t.Errorf("got contenders %+v, absent %+v, want two and none", results.Contenders, results.Absent)
	}
	cost := []string{"wal_bytes_per_job", "queries_per_job"}
	pickups := []string{"jobs_per_second", "pickup_p50_ms", "pickup_p95_ms", "pickup_p99_ms", "pickup_p999_ms"}
	want := map[string][]string{
		result.Drain:    append([]string{"jobs_per_second", "jobs"}, cost...),
		result.Load:     append(pickups, cost...),
		result.Latency:  append(pickups, cost...),
		result.Schedule: {"lateness_p50_ms", "lateness_p99_ms", "early"},
		result.Enqueue:  append([]string{"puts_per_second", "backlog_jobs"}, cost...),
		result.Xmin:     {"jobs_per_second", "ratio"},
		result.Recovery: {"rerun_p50_ms", "held_jobs"},
		result.Idle:     {"queries_per_minute"},
	}
	seen := map[string]int{}
	for _, m := range results.Measured {
		seen[m.Workload+" "+m.Contender]++
		for _, name := range want[m.Workload] {
			if v, ok := m.Figures[name]; !ok || v < 0 {
				t.Errorf("%s of %s: got %v, want %s", m.Workload, m.Contender, m.Figures, name)
			}
		}
		if m.Figures["repeated_jobs"] != 0 || m.Figures["early"] != 0 {
			t.Errorf("%s of %s: got %v, want no job twice or early", m.Workload, m.Contender, m.Figures)
		}
	}
	for _, workload := range allWorkloads {
		for _, c := range chosen {
			want := 1
			if workload == result.Drain {
				want = 2
			}
			if seen[workload+" "+c.ID] != want {
				t.Errorf("%s of %s: got %d measurements, want %d", workload, c.ID, seen[workload+" "+c.ID], want)
			}
		}
	}
	if results.Settings["fsync"] != "on" || results.Versions["postgresql"] == "" {
		t.Errorf("got settings %v, versions %v", results.Settings, results.Versions)
	}
}

func TestJobsOutliveFaultsAndWhatBecameOfThemIsTold(t *testing.T) {
	results, err := compare(t.Context(), options{
		quick: true, rounds: 1, contenders: []*contender{pqDispatch(), baselines()[0]}, workloads: []string{result.Outage, result.HalfOpen}, stderr: t.Output(), scale: &tiny,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results.Measured) != 2 {
		t.Fatalf("got %+v, want one of each fault, and none of the baseline, which would end", results.Measured)
	}
	for _, m := range results.Measured {
		for _, name := range []string{"held_jobs", "rerun_jobs", "repeated_jobs", "first_start_ms"} {
			if _, ok := m.Figures[name]; !ok {
				t.Errorf("%s: got %v, %q; want %s", m.Workload, m.Figures, m.Note, name)
			}
		}
		for _, name := range []string{"lost_jobs", "stuck_jobs"} {
			if got, ok := m.Figures[name]; !ok || got != 0 {
				t.Errorf("%s: got %v, %q; want %s 0", m.Workload, m.Figures, m.Note, name)
			}
		}
	}
}

func TestWithoutStatementsQueriesAreNotCountedAndAllElseIsMeasured(t *testing.T) {
	server, err := openServer(t.Context(), t.Output(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, settings, err := server.shown(t.Context()); err != nil || !strings.HasPrefix(settings["queries counted by"], "nothing") {
		t.Errorf("got %q, %v; want it to say that they are not", settings["queries counted by"], err)
	}
	if err := server.age(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	var ahead int // segments to be used again, after the present one
	err = server.admin.QueryRow(t.Context(), `select count(*) from pg_ls_waldir() where name > pg_walfile_name(pg_current_wal_lsn())`).Scan(&ahead)
	if err != nil || ahead < 3 {
		t.Errorf("got %d WAL segments ahead, %v; want those that were made", ahead, err)
	}
	r := &runner{scale: tiny, server: server, templates: map[string]string{}, rates: map[rateOf]float64{}}
	c := pqDispatch()
	if err := r.prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	d, err := r.drain(t.Context(), c, 1, 200, false)
	if err != nil {
		t.Fatal(err)
	}
	if queries, some := d.figures["queries_per_job"]; some || d.figures["jobs_per_second"] <= 0 || d.figures["wal_bytes_per_job"] <= 0 {
		t.Errorf("got %v, with %v queries a job; want all but those", d.figures, queries)
	}
}

func TestContenderThatFailsIsInTheResultsAndTheOthersGoOn(t *testing.T) {
	good := baselines()[0]
	crashing := baselines()[0]
	crashing.ID, crashing.Name, crashing.work, crashing.exec = "crashing", "Crashing", nil, []string{"false"}
	unprepared := baselines()[0]
	unprepared.ID, unprepared.Name = "unprepared", "Unprepared"
	unprepared.prepare = func(context.Context, string) error { return errors.New("no migrations") }
	absent := nodes(t.TempDir())[0]

	results, err := compare(t.Context(), options{quick: true, rounds: 2, contenders: []*contender{crashing, unprepared, absent, good}, workloads: []string{result.Latency}, stderr: t.Output(), scale: &tiny})
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, a := range results.Absent {
		reasons = append(reasons, a.Name+": "+a.Reason)
	}
	said := strings.Join(reasons, "\n")
	for _, want := range []string{"Unprepared: prepare its database: no migrations", "Graphile Worker, default: not installed: run npm ci", "Crashing, in latency 100/s: w0: exit status 1"} {
		if !strings.Contains(said, want) {
			t.Errorf("got %q, want %q in it", said, want)
		}
	}
	measured := map[string]int{}
	for _, m := range results.Measured {
		measured[m.Contender]++
		if (m.Contender == "crashing") != strings.HasPrefix(m.Note, "failed: ") {
			t.Errorf("got %+v", m)
		}
	}
	if measured["crashing"] != 1 || measured[good.ID] != 2 {
		t.Errorf("got measurements %v, want one of that which fails and two of the other", measured)
	}
}

func TestNothingIsBegunWhenTheTimeIsOverAndTheResultsSayWhatIsMissing(t *testing.T) {
	results, err := compare(t.Context(), options{quick: true, rounds: 2, within: 1, contenders: baselines()[:1], workloads: []string{result.Drain}, stderr: t.Output(), scale: &tiny})
	if err != nil {
		t.Fatal(err)
	}
	if len(results.Measured) != 0 || len(results.Absent) != 1 || results.Absent[0].Name != "round 1 from drain on" {
		t.Errorf("got %+v, absent %+v; want nothing measured, and that it says so", results.Measured, results.Absent)
	}
}

func TestComparisonEndsWithItsContext(t *testing.T) {
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	var said bytes.Buffer
	if _, err := compare(ctx, options{rounds: 1, contenders: baselines(), workloads: allWorkloads, stderr: &said}); err == nil {
		t.Error("got no error")
	}
}
