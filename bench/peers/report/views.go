// What the report shows: each view is a workload, its figures, and the plot that suits them. And what of it can be
// said in a sentence.

package main

import (
	"fmt"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// figure is a number that a workload gives, by its name in the results.
type figure struct {
	name   string
	bound  string // the figure that says "more than" instead; empty: there is none
	title  string // over a column
	unit   unit
	higher bool // is better
}

// axis is what the runs of a workload differ in.
type axis struct {
	title string
	of    func(result.Measurement) float64
}

var (
	processes = &axis{"worker processes", func(m result.Measurement) float64 { return float64(m.Processes) }}
	offered   = &axis{"jobs put per second", func(m result.Measurement) float64 { return m.Offered }}
)

// shape is a kind of plot.
type shape int

const (
	none  shape = iota
	bars        // of the first figure, from 0
	dots        // of the figures that are times, on a logarithmic scale
	lines       // a plot for each figure, over the axis
)

type view struct {
	id, title, about string

	workload string
	single   bool // only runs with one worker process
	x        *axis
	shape    shape
	figures  []figure // the first one is what the view is about
}

func percentiles(prefix string) []figure {
	return []figure{
		{name: prefix + "_p50_ms", title: "p50", unit: milliseconds},
		{name: prefix + "_p95_ms", title: "p95", unit: milliseconds},
		{name: prefix + "_p99_ms", title: "p99", unit: milliseconds},
		{name: prefix + "_p999_ms", title: "p99.9", unit: milliseconds},
	}
}

var (
	jobsPerSecond = figure{name: "jobs_per_second", title: "jobs/s", higher: true}
	costs         = []figure{
		{name: "server_cpu_us_per_job", title: "server CPU per job", unit: microseconds},
		{name: "wal_bytes_per_job", title: "WAL per job", unit: octets},
		{name: "queries_per_job", title: "queries per job"},
	}
)

var views = []*view{
	{
		id: "throughput", title: "Throughput of one worker process", shape: bars, workload: result.Drain, single: true,
		about:   "Jobs that do nothing were put before; one worker process runs them all.",
		figures: []figure{jobsPerSecond},
	}, {
		id: "processes", title: "Throughput of more worker processes", shape: lines, workload: result.Drain, x: processes,
		about:   "The same with several worker processes beside the server on the same machine: what it shows first is how many cores that has.",
		figures: []figure{jobsPerSecond},
	}, {
		id: "cost", title: "What a job costs the server", workload: result.Drain, single: true,
		about:   "In the run with one worker process, per job, from its claim to its completion.",
		figures: costs,
	}, {
		id: "load", title: "Pick-up over the offered load", shape: lines, workload: result.Load, x: offered,
		about: "Jobs are put at a steady rate, whether or not the workers keep up (open loop); measured is from the intended time of the put until " +
			"the handler is entered. A contender that falls behind is offered no more.",
		figures: append(percentiles("pickup"), figure{name: "jobs_per_second", title: "jobs run per second", higher: true}),
	}, {
		id: "latency", title: "Pick-up by an idle system", shape: dots, workload: result.Latency,
		about:   "The same at a low rate, with one worker process that has nothing else to do.",
		figures: percentiles("pickup"),
	}, {
		id: "schedule", title: "Punctuality of scheduled jobs", shape: dots, workload: result.Schedule,
		about: "Jobs were put that become due at known times; measured is from then until the handler is entered.",
		figures: []figure{
			{name: "lateness_p50_ms", title: "p50", unit: milliseconds}, {name: "lateness_p99_ms", title: "p99", unit: milliseconds},
			{name: "early", title: "started early"},
		},
	}, {
		id: "recovery", title: "Recovery after kill -9", shape: dots, workload: result.Recovery,
		about:   "A worker process is killed while it runs jobs, and another one lives: the time until the jobs run again. Waiting ends at a bound: \"> 30 s\" is no measurement of more than that.",
		figures: []figure{{name: "rerun_p50_ms", bound: "rerun_more_than_ms", title: "p50 until the job runs again", unit: milliseconds}},
	}, {
		id: "enqueue", title: "Puts per second", shape: bars, workload: result.Enqueue,
		about:   "Single puts, each committed, from 16 connections, while workers run the jobs.",
		figures: append([]figure{{name: "puts_per_second", title: "puts/s", higher: true}}, costs...),
	}, {
		id: "xmin", title: "Throughput beside a long transaction", shape: bars, workload: result.Xmin,
		about:   "A snapshot is held open elsewhere, so that vacuum cannot remove what the queue leaves behind: the ratio to the same without it. 1 is no harm.",
		figures: []figure{{name: "ratio", title: "ratio to without", unit: ratio, higher: true}, jobsPerSecond},
	}, {
		id: "idle", title: "Queries of an idle worker", shape: bars, workload: result.Idle,
		about:   "One worker process, no job.",
		figures: []figure{{name: "queries_per_minute", title: "queries/minute"}},
	},
}

// main is the figure that a view is about.
func (w *view) main() figure { return w.figures[0] }

// verdict says in a sentence or two where this project stands in a view.
func (c *comparison) verdict(w *view) string {
	us, ok := c.reference()
	if !ok {
		return ""
	}
	if w.workload == result.Load {
		return c.loadVerdict(w, us)
	}
	f := w.main()
	best := func(each contender) (v value, x float64) { // over the axis, if there is one
		if w.x == nil {
			return f.over(c.measured(w, each.ID, 0)), 0
		}
		for _, step := range c.steps(w) {
			if at := f.over(c.measured(w, each.ID, step)); f.better(at, v) {
				v, x = at, step
			}
		}
		return v, x
	}
	state := func(v value, x float64) string {
		if w.x == nil {
			return f.said(v)
		}
		return fmt.Sprintf("%s with %s %s", f.said(v), digits(x), w.x.title)
	}
	ours, x := best(us)
	if !ours.known() {
		return us.Name + " was not measured."
	}
	said := []string{us.Name + ": " + state(ours, x) + "."}
	for _, against := range []struct {
		what, none string
		in         func(contender) bool
	}{
		{"Best other product", "No other product was done", func(each contender) bool { return !each.Baseline }},
		{"Best plain baseline", "No plain baseline was done", func(each contender) bool { return each.Baseline }},
	} {
		var who contender
		var v value
		var at float64
		for _, each := range c.contenders {
			if each.ours() || !against.in(each) {
				continue
			}
			if theirs, x := best(each); f.better(theirs, v) {
				who, v, at = each, theirs, x
			}
		}
		switch {
		case v.MoreThan:
			said = append(said, fmt.Sprintf("%s (%s); %s.", against.none, f.text(v), f.relation(ours, v)))
		case v.known():
			said = append(said, fmt.Sprintf("%s: %s (%s); %s.", against.what, who.Name, state(v, at), f.relation(ours, v)))
		}
	}
	if len(said) == 1 {
		said = append(said, "Nothing else was measured.")
	}
	return strings.Join(said, " ")
}

// said is a value with what a table has over its column.
func (f figure) said(v value) string {
	if f.unit == milliseconds || f.unit == ratio {
		return f.title + " " + f.text(v)
	}
	return f.text(v) + " " + f.title
}

func (f figure) better(v, than value) bool {
	switch {
	case !v.known() || !than.known():
		return v.known()
	case v.MoreThan != than.MoreThan:
		return than.MoreThan
	case f.higher:
		return v.Median > than.Median
	}
	return v.Median < than.Median
}

// relation says how ours stands to theirs, in words that take sides only if the rounds allow it.
func (f figure) relation(ours, theirs value) string {
	switch {
	case ours.MoreThan && theirs.MoreThan:
		return "neither was done"
	case !ours.MoreThan && !theirs.MoreThan && (ours.Low <= theirs.High || theirs.Open) && (theirs.Low <= ours.High || ours.Open):
		return "no clear difference, the rounds overlap"
	case ours.Median == 0 || theirs.Median == 0:
		if f.better(ours, theirs) {
			return project + " is ahead"
		}
		return project + " is behind"
	}
	much, atLeast := theirs.Median/ours.Median, ""
	if f.higher {
		much = 1 / much
	}
	if ours.MoreThan || theirs.MoreThan {
		atLeast = "at least "
	}
	if much >= 1 {
		return fmt.Sprintf("%s is ahead by a factor of %s%s", project, atLeast, digits(much))
	}
	return fmt.Sprintf("%s is behind by a factor of %s%s", project, atLeast, digits(1/much))
}

// loadVerdict says which rates were kept up with, and compares the tails at the highest rate that both of two
// kept up with.
func (c *comparison) loadVerdict(w *view, us contender) string {
	p99 := w.figures[2]
	steps := c.steps(w)
	keptUp := func(each contender, step float64) bool {
		return p99.over(c.measured(w, each.ID, step)).known() && !c.fellBehind(w, each.ID, step)
	}
	highest := func(each contender, also contender) (rate float64) {
		for _, step := range steps {
			if keptUp(each, step) && keptUp(also, step) {
				rate = step
			}
		}
		return rate
	}
	var said []string
	if rate := highest(us, us); rate == 0 {
		said = append(said, us.Name+" kept up with no rate that was offered.")
	} else {
		said = append(said, fmt.Sprintf("%s kept up with %s jobs/s.", us.Name, digits(rate)))
	}
	var rival contender
	var most float64
	for _, each := range c.contenders {
		if rate := highest(each, each); !each.ours() && !each.Baseline && rate > 0 {
			if rate > most || rate == most && p99.better(p99.over(c.measured(w, each.ID, rate)), p99.over(c.measured(w, rival.ID, rate))) {
				rival, most = each, rate
			}
		}
	}
	if most == 0 {
		return strings.Join(append(said, "No other product kept up with any."), " ")
	}
	said = append(said, fmt.Sprintf("Of the other products, %s kept up with the most: %s jobs/s.", rival.Name, digits(most)))
	if rate := highest(us, rival); rate > 0 {
		ours, theirs := p99.over(c.measured(w, us.ID, rate)), p99.over(c.measured(w, rival.ID, rate))
		said = append(said, fmt.Sprintf("At %s jobs/s the p99 is %s and %s; %s.", digits(rate), p99.text(ours), p99.text(theirs), p99.relation(ours, theirs)))
	}
	return strings.Join(said, " ")
}
