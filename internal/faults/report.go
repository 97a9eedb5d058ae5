// What is told of a run.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
)

// results are those of a run.
type results struct {
	Seed    uint64
	Replay  string
	Skipped []string
	Stages  []*result
	began   time.Time
	took    time.Duration
}

// result is that of a stage.
type result struct {
	*judge.Verdict
	Name, Replay string
	Journals     string // where they are kept; empty: they are not
}

// OK tells whether nothing happened that must not.
func (r results) OK() bool {
	return len(r.Stages) > 0 && !slices.ContainsFunc(r.Stages, func(s *result) bool { return !s.OK() })
}

// sum is over all stages.
type sum struct {
	Injections, Jobs, Failed, Indeterminate, RolledBack, Accepted, SetAside, Runs, Broken, Deaths, Overlaps, Superseded, Forgiven, Ordered, Overtaken int
	Counts                                                                                                                                            map[judge.What]int
	Faults                                                                                                                                            map[string]*faultSum
	Lateness, Cancelled                                                                                                                               judge.Quantiles // the worst of each
}

// faultSum is what came of one kind of fault.
type faultSum struct {
	Injections, InTime, Late, Loaded int
	Overlaps                         int           // after a session that broke, and before the next fault
	Worst                            time.Duration // until the work was back
}

func (r results) sum() sum {
	s := sum{Counts: map[judge.What]int{}, Faults: map[string]*faultSum{}}
	for _, st := range r.Stages {
		s.Jobs += st.Put
		s.Failed += st.PutFailed
		s.Indeterminate += st.PutIndeterminate
		s.RolledBack += st.PutRolledBack
		s.Accepted += st.Accepted
		s.SetAside += st.SetAside
		s.Runs += st.Runs
		s.Broken += st.Broken
		s.Deaths += st.Deaths
		s.Overlaps += st.OverlapsBroken
		s.Superseded += st.Superseded
		s.Forgiven += st.Forgiven
		s.Ordered += st.Ordered
		s.Overtaken += st.Overtaken
		for what, n := range st.Counts {
			s.Counts[what] += n
		}
		for name, n := range st.Injected {
			s.Injections += n
			s.of(name).Injections += n
		}
		for name, n := range st.Overlaps {
			s.of(cmp.Or(name, "before any")).Overlaps += n
		}
		for _, back := range st.Returns {
			f := s.of(back.Fault)
			switch took := back.Back; {
			case took >= 0 && took <= 5*time.Second:
				f.InTime++
				f.Worst = max(f.Worst, took)
			case back.Excused:
				f.Loaded++
			default:
				f.Late++
				f.Worst = max(f.Worst, took, 5*time.Second)
			}
		}
		s.Lateness, s.Cancelled = worst(s.Lateness, st.Lateness), worst(s.Cancelled, st.Cancelled)
	}
	return s
}

func (s *sum) of(fault string) *faultSum {
	if s.Faults[fault] == nil {
		s.Faults[fault] = &faultSum{}
	}
	return s.Faults[fault]
}

func worst(a, b judge.Quantiles) judge.Quantiles {
	return judge.Quantiles{N: a.N + b.N, P50: max(a.P50, b.P50), P99: max(a.P99, b.P99), Max: max(a.Max, b.Max)}
}

// write prints the table.
func (r results) write(w io.Writer) {
	s := r.sum()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "fault\tinjections\tback within 5 s\tslower\texcused\tslowest\toverlaps\n")
	for _, name := range slices.Sorted(maps.Keys(s.Faults)) {
		f := s.Faults[name]
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%v\t%d\n", name, f.Injections, f.InTime, f.Late, f.Loaded, f.Worst.Round(10*time.Millisecond), f.Overlaps)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, what := range judge.All {
		fmt.Fprintf(t, "%s\t%d\n", what, s.Counts[what])
	}
	_ = t.Flush()
	fmt.Fprintf(w, `
%d injections in %v; %d jobs put, %d puts failed, %d rolled back, %d indeterminate; %d completed in %d runs, %d set aside
%d processes and %d lock sessions ended; %d overlaps after a broken session, %.1f per 1000 faults; %d completions forestalled by a lost claim's outcome; %d jobs lost as announced; the order of %d was judged; %d overtaken in queues of several processes
lateness p50 %v, p99 %v, max %v; contexts ended within %v (%d of them) of the loss of their session
`,
		s.Injections, r.took.Round(time.Second), s.Jobs, s.Failed, s.RolledBack, s.Indeterminate, s.Accepted, s.Runs, s.SetAside,
		s.Deaths, s.Broken, s.Overlaps, 1000*float64(s.Overlaps)/float64(max(1, s.Injections)), s.Superseded, s.Forgiven, s.Ordered, s.Overtaken,
		round(s.Lateness.P50), round(s.Lateness.P99), round(s.Lateness.Max), round(s.Cancelled.Max), s.Cancelled.N)
	for _, name := range r.Skipped {
		fmt.Fprintf(w, "skipped: %s\n", name)
	}
	for _, st := range r.Stages {
		if !st.OK() {
			st.writeViolations(w)
		}
	}
	verdict := "passed"
	if !r.OK() {
		verdict = "FAILED"
	}
	fmt.Fprintf(w, "%s: %s\n", verdict, r.Replay)
}

// writeViolations tells each with its evidence, in ms since the first of it.
func (s *result) writeViolations(w io.Writer) {
	fmt.Fprintf(w, "\nstage %s; again: %s\njournals: %s\n", s.Name, s.Replay, s.Journals)
	for _, v := range s.Violations {
		fmt.Fprintf(w, "  %s: %s\n", v.What, v.Text)
		for _, e := range v.Evidence {
			fmt.Fprintf(w, "    %10.1f ms  %-16s %-14s token %d job %d attempt %d %s%s\n", float64(e.Time-v.Evidence[0].Time)/1e6,
				e.Process, e.Kind, e.Token, e.Job, e.Attempt, delay(e), firstLine(e.Text))
		}
	}
}

func delay(e journal.Event) string {
	if e.Due == 0 {
		return ""
	}
	return fmt.Sprintf("+%v ", round(time.Duration(e.Due)))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

// writeJSON prints one object. Its keys stay.
func (r results) writeJSON(w io.Writer) error {
	s := r.sum()
	type faultJSON struct {
		Injections   int     `json:"injections"`
		InTime       int     `json:"back_in_time"`
		Slower       int     `json:"slower"`
		Excused      int     `json:"excused"`
		SlowestMilli float64 `json:"slowest_ms"`
		Overlaps     int     `json:"overlaps_after_broken_session"`
	}
	type violationJSON struct {
		Stage string `json:"stage"`
		What  string `json:"what"`
		Text  string `json:"text"`
	}
	out := struct {
		OK            bool                 `json:"ok"`
		Seed          uint64               `json:"seed"`
		Replay        string               `json:"replay"`
		Seconds       float64              `json:"seconds"`
		Injections    int                  `json:"injections"`
		Put           int                  `json:"put"`
		PutFailed     int                  `json:"put_failed"`
		RolledBack    int                  `json:"put_rolled_back"`
		Indeterminate int                  `json:"put_indeterminate"`
		Completed     int                  `json:"completed"`
		SetAside      int                  `json:"set_aside"`
		Runs          int                  `json:"runs"`
		Deaths        int                  `json:"deaths"`
		Sessions      int                  `json:"sessions_ended"`
		Overlaps      int                  `json:"overlaps_after_broken_session"`
		Superseded    int                  `json:"completions_forestalled"`
		Forgiven      int                  `json:"lost_as_announced"`
		Ordered       int                  `json:"order_judged"`
		Overtaken     int                  `json:"overtaken"`
		LateP50       float64              `json:"lateness_p50_ms"`
		LateP99       float64              `json:"lateness_p99_ms"`
		LateMax       float64              `json:"lateness_max_ms"`
		CancelMax     float64              `json:"cancelled_within_ms"`
		Counts        map[string]int       `json:"counts"`
		Faults        map[string]faultJSON `json:"faults"`
		Skipped       []string             `json:"skipped"`
		Violations    []violationJSON      `json:"violations"`
	}{
		OK: r.OK(), Seed: r.Seed, Replay: r.Replay, Seconds: r.took.Seconds(), Injections: s.Injections,
		Put: s.Jobs, PutFailed: s.Failed, RolledBack: s.RolledBack, Indeterminate: s.Indeterminate,
		Completed: s.Accepted, SetAside: s.SetAside, Runs: s.Runs, Deaths: s.Deaths, Sessions: s.Broken,
		Overlaps: s.Overlaps, Superseded: s.Superseded, Forgiven: s.Forgiven, Ordered: s.Ordered, Overtaken: s.Overtaken,
		LateP50: ms(s.Lateness.P50), LateP99: ms(s.Lateness.P99), LateMax: ms(s.Lateness.Max), CancelMax: ms(s.Cancelled.Max),
		Counts: map[string]int{}, Faults: map[string]faultJSON{},
		Skipped: append([]string{}, r.Skipped...), Violations: []violationJSON{},
	}
	for _, what := range judge.All {
		out.Counts[string(what)] = s.Counts[what]
	}
	for name, f := range s.Faults {
		out.Faults[name] = faultJSON{f.Injections, f.InTime, f.Late, f.Loaded, ms(f.Worst), f.Overlaps}
	}
	for _, st := range r.Stages {
		for _, v := range st.Violations {
			out.Violations = append(out.Violations, violationJSON{st.Name, string(v.What), v.Text})
		}
	}
	to := json.NewEncoder(w)
	to.SetIndent("", "  ")
	return to.Encode(out)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
