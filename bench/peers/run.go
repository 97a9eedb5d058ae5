// The comparison: all contenders, all workloads, round after round.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// options of compare.
type options struct {
	quick       bool
	verbose     bool
	rounds      int
	within      time.Duration // no step is begun later; 0: no bound
	contenders  []*contender
	workloads   []string
	absent      []result.Absent
	commandLine []string
	stderr      io.Writer
	scale       *scale // nil: as quick says
}

// runner is a comparison under way.
type runner struct {
	scale     scale
	server    *server
	show      *progress
	log       io.Writer // a line of each run
	present   map[string]*contender
	templates map[string]string // the database of each contender that was prepared
	results   *result.Results

	rates  map[rateOf]float64         // of the latest drain
	plain  map[int]map[string]drained // by round and contender: with one process
	behind map[int]map[string]bool    // by round and contender: no higher rate is offered
	beyond map[string]bool            // recovery took longer than is waited for: it is not tried again
	failed map[string]bool            // by contender and workload: it is not tried again

	mu sync.Mutex // of results, where measurements are made at once
}

// rateOf is what a rate belongs to.
type rateOf struct {
	contender string
	processes int
}

// compare measures all. Only what is wrong with the server or the machine, and the end of ctx, are errors; what is wrong with
// a contender is in the results.
func compare(ctx context.Context, o options) (_ *result.Results, err error) {
	start := time.Now()
	r := &runner{
		scale: fullScale, show: newProgress(o.stderr),
		present: map[string]*contender{}, templates: map[string]string{},
		rates: map[rateOf]float64{}, plain: map[int]map[string]drained{}, behind: map[int]map[string]bool{},
		beyond: map[string]bool{}, failed: map[string]bool{},
		results: &result.Results{
			Date: start.UTC().Truncate(time.Second), CommandLine: o.commandLine, Quick: o.quick,
			Machine: thisMachine(), Contenders: []result.Contender{}, Absent: o.absent, Measured: []result.Measurement{},
		},
	}
	if o.quick {
		r.scale = quickScale
	}
	if o.scale != nil {
		r.scale = *o.scale
	}
	defer r.show.end()
	r.log = io.Discard
	if o.verbose {
		r.log = o.stderr
	}
	r.show.step("starting a PostgreSQL")
	if r.server, err = startServer(ctx, o.stderr); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.server.close()) }()
	if !o.quick {
		r.show.step("making WAL segments")
		if err := r.server.age(ctx, walSegments); err != nil {
			return nil, err
		}
	}
	version, settings, err := r.server.shown(ctx)
	if err != nil {
		return nil, err
	}
	r.results.Settings = settings
	r.results.Versions = map[string]string{"go": runtime.Version(), "postgresql": version, "pq-dispatch": ownVersion()}
	ids := []string{}
	for _, c := range o.contenders {
		r.show.step("preparing %s", c.ID)
		if err := r.prepare(ctx, c); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			r.results.Absent = append(r.results.Absent, result.Absent{Name: c.Name, Reason: err.Error()})
			continue
		}
		r.present[c.ID] = c
		r.results.Contenders = append(r.results.Contenders, c.Contender)
		ids = append(ids, c.ID)
	}
	if node := nodeVersion(o.contenders); node != "" {
		r.results.Versions["node"] = node
	}
	steps := plan(o.rounds, o.workloads, ids, r.scale)
	for i, step := range steps {
		if o.within > 0 && time.Since(start) > o.within {
			r.results.Absent = append(r.results.Absent, result.Absent{
				Name:   fmt.Sprintf("round %d from %s on", step[0].round+1, label(step[0])),
				Reason: fmt.Sprintf("the time was over: %v (--within)", o.within),
			})
			break
		}
		if err := r.step(ctx, step, fmt.Sprintf("%d of %d", i+1, len(steps))); err != nil {
			return nil, err
		}
	}
	r.results.Seconds = time.Since(start).Seconds()
	return r.results, nil
}

// nodeVersion is that of the Node contenders' program; empty without one.
func nodeVersion(all []*contender) string {
	for _, c := range all {
		if c.work == nil && len(c.exec) > 0 {
			out, _ := exec.Command(c.exec[0], "--version").Output()
			return strings.TrimSpace(string(out))
		}
	}
	return ""
}

// prepare makes a contender's template.
func (r *runner) prepare(ctx context.Context, c *contender) error {
	if err := c.ready(); err != nil {
		return err
	}
	d, err := r.server.create(ctx, "")
	if err != nil {
		return err
	}
	r.templates[c.ID] = d.name
	ctx, cancel := context.WithTimeout(ctx, nodeVerb)
	defer cancel()
	if err := c.prepare(ctx, d.url); err != nil {
		return fmt.Errorf("prepare its database: %w", err)
	}
	return nil
}

// step measures one thing of all contenders.
func (r *runner) step(ctx context.Context, step []task, of string) error {
	var all sync.WaitGroup
	var alone sync.Mutex
	for _, t := range step {
		c := r.present[t.contender]
		if r.spared(t) {
			continue
		}
		r.show.step("%s, round %d: %s %s", of, t.round+1, label(t), c.ID)
		switch t.workload {
		case result.Idle:
			all.Go(func() {
				o, err := r.idle(ctx, c)
				r.record(ctx, t, o, err)
			})
		case result.HalfOpen:
			all.Go(func() {
				o, err := r.fault(ctx, c, t.workload)
				r.record(ctx, t, o, err)
			})
		case result.Recovery:
			all.Go(func() {
				o, err := r.recovery(ctx, c, &alone)
				r.record(ctx, t, o, err)
			})
		default:
			o, err := r.measure(ctx, c, &t)
			r.record(ctx, t, o, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	all.Wait()
	return context.Cause(ctx)
}

// spared tells whether a contender is not asked for a task, after what it did before.
func (r *runner) spared(t task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failed[t.contender+t.workload]:
		return true
	case t.workload == result.Load:
		return r.behind[t.round][t.contender]
	case t.workload == result.Recovery:
		return r.beyond[t.contender]
	case slices.Contains(faultWorkloads, t.workload):
		// Baselines end with their connections, and of the programs on Node some end what they do but not themselves: a service
		// manager would start them again.
		c := r.present[t.contender]
		return c.Baseline || c.work == nil
	}
	return false
}

func label(t task) string {
	switch {
	case t.offered > 0:
		return fmt.Sprintf("%s %.0f/s", t.workload, t.offered)
	case t.processes > 1:
		return fmt.Sprintf("%s, %d processes", t.workload, t.processes)
	}
	return t.workload
}

// record keeps what a task found, or why it found nothing, and what follows from it for the next ones.
func (r *runner) record(ctx context.Context, t task, o outcome, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil { // it was not the contender's fault
		return
	}
	m := result.Measurement{Workload: t.workload, Contender: t.contender, Processes: t.processes, Offered: t.offered, Round: t.round, Figures: o.figures, Note: o.note}
	if err != nil {
		m.Figures, m.Note = map[string]float64{}, "failed: "+err.Error()
		r.failed[t.contender+t.workload] = true
		r.results.Absent = append(r.results.Absent, result.Absent{
			Name: r.present[t.contender].Name + ", in " + label(t), Reason: err.Error(),
		})
	}
	if _, beyond := m.Figures["rerun_more_than_ms"]; beyond {
		r.beyond[t.contender] = true
	}
	if t.workload == result.Load && behind(t.offered, m.Figures) {
		if r.behind[t.round] == nil {
			r.behind[t.round] = map[string]bool{}
		}
		r.behind[t.round][t.contender] = true
		m.Figures["behind"] = 1
	}
	r.results.Measured = append(r.results.Measured, m)
	fmt.Fprintf(r.log, "%5.1f s, round %d: %s %s:", time.Since(r.results.Date).Seconds(), t.round+1, label(t), t.contender)
	for _, name := range slices.Sorted(maps.Keys(m.Figures)) {
		fmt.Fprintf(r.log, " %s %.4g", name, m.Figures[name])
	}
	fmt.Fprintln(r.log, "", m.Note)
}

// measure is one task, in which it notes the rate that was offered. The workloads of waiting are not among them.
func (r *runner) measure(ctx context.Context, c *contender, t *task) (o outcome, err error) {
	switch t.workload {
	case result.Drain:
		d, err := r.drainToScale(ctx, c, t.processes)
		if t.processes == 1 && err == nil {
			if r.plain[t.round] == nil {
				r.plain[t.round] = map[string]drained{}
			}
			r.plain[t.round][c.ID] = d
		}
		return d.outcome, err
	case result.Load:
		return r.load(ctx, c, at(t.offered, r.scale.load))
	case result.Latency:
		l := r.bearable(c, latencyRate, r.scale.latency)
		t.offered = l.Rate
		return r.load(ctx, c, l)
	case result.Schedule:
		return r.schedule(ctx, c, r.bearable(c, scheduleRate, r.scale.schedule))
	case result.Enqueue:
		return r.enqueue(ctx, c)
	case result.Xmin:
		return r.xmin(ctx, c, t.round)
	case result.Restart, result.Outage:
		return r.fault(ctx, c, t.workload)
	}
	panic("no workload " + t.workload)
}
