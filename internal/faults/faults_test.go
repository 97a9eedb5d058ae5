package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// TestMain lets the test program be the processes of a run, as the program itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleCommand {
		if err := playRole(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestAPutIsFailedOnlyIfItIsCertain(t *testing.T) {
	refused := func(code string) error { return fmt.Errorf("store: put: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		name string
		err  error
		want journal.Kind
	}{
		{"the connection broke", io.ErrUnexpectedEOF, journal.PutIndeterminate},
		{"the server ends the session", refused("57P01"), journal.PutIndeterminate},
		{"the server says that the connection failed", refused("08006"), journal.PutIndeterminate},
		{"no answer in time", os.ErrDeadlineExceeded, journal.PutIndeterminate},
		{"the connection is closed already, maybe by an earlier part of the put", pgconn.ErrConnClosed, journal.PutIndeterminate},
		{"the disk is full", refused("53100"), journal.PutFailed},
		{"the commit was a rollback", pgx.ErrTxCommitRollback, journal.PutFailed},
		{"it failed before the commit", errors.Join(errNotCommitted, io.ErrUnexpectedEOF), journal.PutFailed},
		{"it was rolled back by its own wish", errChangedMind, journal.PutRolledBack},
	} {
		if got := certainty(c.err); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTheServersLogTellsWhenLocksAreFree(t *testing.T) {
	l := serverLog{offset: 1_000 * int64(time.Second)}
	at := func(ms int64) int64 { return 500*int64(time.Second) + ms*int64(time.Millisecond) }
	for _, c := range []struct {
		line string
		want journal.Event
	}{
		{"1500.250 42 LOG:  disconnection: session time: 0:00:01.2 user=postgres database=faults", journal.Event{Time: at(250), Kind: journal.BackendEnded, Job: 42}},
		{"1500.250 7 LOG:  received immediate shutdown request", journal.Event{Time: at(250), Kind: journal.ServerDown}},
		{"1500.250 7 LOG:  terminating any other active server processes", journal.Event{Time: at(250), Kind: journal.ServerDown}},
		{"1500.250 7 LOG:  checkpoint starting", journal.Event{}},
		{"	continued line", journal.Event{}},
		{"NaN 7 LOG:  disconnection: session time", journal.Event{}},
		{"1500.250 x LOG:  disconnection: session time", journal.Event{}},
		{"", journal.Event{}},
	} {
		got, ok := l.event([]byte(c.line))
		if ok != (c.want != journal.Event{}) {
			t.Errorf("%q: got %v, want %v", c.line, ok, !ok)
		}
		if diff := cmp.Diff(c.want, got); ok && diff != "" {
			t.Errorf("%q: %s", c.line, diff)
		}
	}
}

func TestFaultsWithEqualNeedsShareAStageAndEachIsInjected(t *testing.T) {
	fault := func(name string, n scene.Needs) scene.Fault { return scene.Fault{Name: name, Family: "f", Needs: n} }
	p := &plan{injections: 10, faults: []scene.Fault{
		fault("a", scene.Needs{}), fault("b", scene.Needs{Own: true}), fault("c", scene.Needs{}),
		fault("d", scene.Needs{Settings: map[string]string{"x": "1"}}),
		fault("e", scene.Needs{Missing: func() string { return "a thing" }}),
	}}
	acts, skipped := p.acts()
	got := map[string]int{}
	total := 0
	for _, a := range acts {
		var names []string
		for _, f := range a.faults {
			names = append(names, f.Name)
		}
		got[strings.Join(names, "+")] = a.injections
		total += a.injections
	}
	if diff := cmp.Diff(map[string]int{"a+c": 6, "d": 3, "b": 1}, got); diff != "" {
		t.Error(diff)
	}
	if total != p.injections {
		t.Errorf("got %d injections, want %d", total, p.injections)
	}
	if diff := cmp.Diff([]string{"e (not here: a thing)"}, skipped); diff != "" {
		t.Error(diff)
	}
}

func TestEachFaultHasANameAFamilyAndADescription(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range faults {
		if f.Name == "" || f.Family == "" || f.About == "" || f.Inject == nil || seen[f.Name] || strings.ContainsAny(f.Name, " ,") {
			t.Errorf("got %q of family %q, %q; want a name of its own without spaces and commas, and the others", f.Name, f.Family, f.About)
		}
		seen[f.Name] = true
	}
}

func TestTheArgumentsMakeAPlan(t *testing.T) {
	for _, c := range []struct {
		args             string
		injections, jobs int
		bad              bool
	}{
		{"", 600, 500_000, false},
		{"-quick", 60, 20_000, false},
		{"-fault kill9,restart", 10, 0, false},
		{"-duration 1h", 0, 500_000, false},
		{"-fault kill9 -injections 3 -jobs 7", 3, 7, false},
		{"-fault nonsense", 0, 0, true},
		{"-nonsense", 0, 0, true},
		{"nonsense", 0, 0, true},
	} {
		p, err := parse(strings.Fields(c.args))
		if (err != nil) != c.bad {
			t.Errorf("%q: got error %v, want one: %v", c.args, err, c.bad)
		}
		if err != nil {
			continue
		}
		if p.injections != c.injections || p.jobs != c.jobs || p.seed == 0 {
			t.Errorf("%q: got %d injections, %d jobs, seed %d; want %d, %d and a seed", c.args, p.injections, p.jobs, p.seed, c.injections, c.jobs)
		}
		if slices.ContainsFunc(p.faults, func(f scene.Fault) bool { return f.Name == "none" }) {
			t.Errorf("%q: got the fault none, which nobody asked for", c.args)
		}
	}
}

func TestTheKeysOfTheJSONStay(t *testing.T) {
	var b bytes.Buffer
	r := results{Stages: []*result{{Verdict: &judge.Verdict{}}}}
	if err := r.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`cancelled_within_ms completed completions_forestalled counts deaths faults injections lateness_max_ms
		lateness_p50_ms lateness_p99_ms lost_as_announced ok order_judged overlaps_after_broken_session overtaken put put_failed put_indeterminate
		put_rolled_back replay runs seconds seed sessions_ended set_aside skipped violations`)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
}

func TestARunUnderKillsAndBrokenSessionsPasses(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a quarter of a minute")
	}
	p, err := parse([]string{"-quick", "-seed", "3", "-fault", "kill9-handler,kill-lock-session,restart", "-injections", "3", "-jobs", "500"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.run(t.Context(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil && !errors.Is(err, errViolations) {
		t.Fatal(err)
	}
	for _, s := range got.Stages {
		for what, n := range s.Counts {
			if n > 0 && what != judge.Slow && what != judge.Late && what != judge.Uncancelled { // which a busy machine can bring about
				t.Errorf("got %d %s, want none: %v", n, what, s.Violations)
			}
		}
		if s.Put < 500 || s.Accepted == 0 || s.Deaths == 0 || s.Broken == 0 || len(s.Returns) != 3 {
			t.Errorf("got %d jobs put, %d completed, %d deaths, %d broken sessions, %d faults; want the work and 3 faults to be seen",
				s.Put, s.Accepted, s.Deaths, s.Broken, len(s.Returns))
		}
	}
	if n := len(got.sum().Faults); n != 3 {
		t.Errorf("got %d faults in the table, want 3", n)
	}
}
