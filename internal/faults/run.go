// A run: its stages one after another, in each the faults in an order that the seed gives, while work goes on.

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

const (
	injectTimeout = 15 * time.Minute // on a machine that is busy with others; else it hangs
	watching      = 7 * time.Second  // for the work to be back after a fault
	rush          = 600              // jobs a second once the faults are over: no more than is done
)

// part is what of a run plays on one stage.
type part struct {
	name       string
	needs      scene.Needs
	faults     []scene.Fault
	injections int
}

// acts divides the faults among stages: those that need one of their own, and all others together as far as their
// needs are the same. Each fault of its own stage is injected once, each other at least once if there is room.
func (p *plan) acts() (acts []*part, skipped []string) {
	left := p.injections
	for _, f := range p.faults {
		if what := missing(f); what != "" {
			skipped = append(skipped, f.Name+what)
			continue
		}
		if f.Needs.Own {
			acts = append(acts, &part{name: f.Name, needs: f.Needs, faults: []scene.Fault{f}, injections: 1})
			left--
			continue
		}
		var to *part
		for _, a := range acts {
			if !a.needs.Own && sameStage(a.needs, f.Needs) {
				to = a
			}
		}
		if to == nil {
			to = &part{name: "shared", needs: f.Needs}
			if f.Needs.Standby != scene.NoStandby || len(f.Needs.Settings) > 0 || f.Needs.Setup != nil {
				to.name = f.Family
			}
			acts = append([]*part{to}, acts...)
		}
		to.faults = append(to.faults, f)
	}
	shared := 0
	for _, a := range acts {
		if !a.needs.Own {
			shared += len(a.faults)
		}
	}
	for _, a := range acts {
		if !a.needs.Own {
			a.injections = max(len(a.faults), left*len(a.faults)/max(1, shared))
		}
	}
	return acts, skipped
}

func sameStage(a, b scene.Needs) bool {
	if a.Standby != b.Standby || len(a.Settings) != len(b.Settings) || (a.Setup == nil) != (b.Setup == nil) || a.Setup != nil {
		return false
	}
	for k, v := range a.Settings {
		if b.Settings[k] != v {
			return false
		}
	}
	return a.Start == nil && b.Start == nil
}

// run runs it all. An error is one of the run, or errViolations.
func (p *plan) run(ctx context.Context, log *slog.Logger) (results, error) {
	all := results{Seed: p.seed, Replay: p.replay(""), began: time.Now()}
	acts, skipped := p.acts()
	all.Skipped = skipped
	dir, err := os.MkdirTemp("", "pq-dispatch-faults-")
	if err != nil {
		return all, fmt.Errorf("faults: %w", err)
	}
	defer os.RemoveAll(dir)
	total := 0
	for _, a := range acts {
		total += a.injections
	}
	stages, errs := make([]*result, len(acts)), make([]error, len(acts))
	// Beside the stages that faults share, those that one has for itself, one after another: most of their time is
	// that of servers which start and stop.
	var lanes sync.WaitGroup
	for _, own := range []bool{false, true} {
		lanes.Go(func() {
			for i, a := range acts {
				if a.needs.Own == own && ctx.Err() == nil {
					stages[i], errs[i] = p.playIn(ctx, filepath.Join(dir, strconv.Itoa(i)), a, p.jobs*a.injections/max(1, total), log)
				}
			}
		})
	}
	lanes.Wait()
	all.Stages = slices.DeleteFunc(stages, func(s *result) bool { return s == nil })
	all.took = time.Since(all.began)
	err = errors.Join(errs...)
	if err == nil && !all.OK() {
		err = fmt.Errorf("%w; to see it again: %s", errViolations, all.Replay)
	}
	return all, err
}

// playIn plays an act in a directory of its own.
func (p *plan) playIn(ctx context.Context, dir string, a *part, jobs int, log *slog.Logger) (*result, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	defer os.RemoveAll(dir)
	log = log.With("stage", a.name)
	log.Info("begins", "faults", len(a.faults), "injections", a.injections)
	r, err := p.play(ctx, a, dir, jobs, log)
	if r != nil {
		r.Name, r.Replay = a.name, p.replay(a.name)
	}
	if err != nil {
		err = fmt.Errorf("faults: stage %s (%s): %w", a.name, p.replay(a.name), err)
	}
	return r, err
}

// replay is the command that runs the same again.
func (p *plan) replay(stage string) string {
	b := fmt.Sprintf("go run ./internal/faults -seed %d", p.seed)
	if p.quick {
		b += " -quick"
	}
	names := p.names
	for _, f := range p.faults {
		if f.Name == stage {
			names = stage // it has a stage of its own, and the same chance there
		}
	}
	if names != "" {
		b += " -fault " + names
	}
	if names == p.names {
		b += fmt.Sprintf(" -injections %d -jobs %d", p.injections, p.jobs)
	}
	if p.duration > 0 {
		b += fmt.Sprintf(" -duration %v", p.duration)
	}
	return b
}

// play plays an act and judges it.
func (p *plan) play(ctx context.Context, a *part, dir string, jobs int, log *slog.Logger) (*result, error) {
	st, err := open(ctx, p, a.needs, dir, log)
	if err != nil {
		return nil, err
	}
	defer st.close()
	if err := st.perform(ctx, p, a); err != nil {
		return nil, err
	}
	if err := st.produce(ctx, jobs); err != nil {
		return nil, err
	}
	log.Info("all are put; waiting until all are done", "put", st.fleet.totals().Put)
	if err := st.settle(ctx); err != nil {
		return nil, err
	}
	log.Info("all are done, or stuck; ending the processes")
	final, err := st.strike(ctx)
	if err != nil {
		return nil, err
	}
	final.Pace = p.pace
	log.Info("all have ended; judging")
	events, err := journal.Read(dir)
	if err != nil {
		return nil, err
	}
	r := &result{Verdict: judge.Judge(events, final)}
	if !r.OK() {
		if r.Journals, err = st.evidence(); err != nil {
			return r, err
		}
	}
	return r, nil
}

// perform injects the faults.
func (st *stage) perform(ctx context.Context, p *plan, a *part) error {
	// The same chance, whatever other stages there are.
	stream := fnv.New64()
	_, _ = stream.Write([]byte(a.name))
	r := rand.New(rand.NewPCG(p.seed, stream.Sum64()))
	began := time.Now()
	if _, err := st.watch(ctx, p.pace); err != nil { // the work is under way
		return err
	}
	var round []scene.Fault
	for i := 0; i < a.injections || !a.needs.Own && time.Since(began) < p.duration; i++ {
		if len(round) == 0 { // each once, then again, each time in another order
			round = append(round, a.faults...)
			r.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
			slices.SortStableFunc(round, func(a, b scene.Fault) int { return int(harmless(b) - harmless(a)) })
		}
		f := round[0]
		round = round[1:]
		st.Rand = rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		if err := st.inject(ctx, p, f, i+1, a.injections); err != nil {
			return err
		}
		if err := st.Wait(ctx, time.Duration(r.IntN(300))*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// harmless is 1 if it is.
func harmless(f scene.Fault) int64 {
	if f.Harmless {
		return 1
	}
	return 0
}

// inject injects one, and watches the work come back.
func (st *stage) inject(ctx context.Context, p *plan, f scene.Fault, n, of int) error {
	began := time.Now()
	st.Journal.Write(journal.Event{Kind: journal.FaultBegin, Job: int64(n), Text: f.Name, Due: harmless(f)})
	limited, cancel := context.WithTimeout(ctx, injectTimeout)
	err := f.Inject(limited, st.Scene)
	cancel()
	st.Journal.Write(journal.Event{Kind: journal.FaultEnd, Job: int64(n), Text: f.Name})
	if err != nil {
		return fmt.Errorf("inject %s, number %d: %w", f.Name, n, err)
	}
	took, before := time.Since(began), measure()
	back, err := st.watch(ctx, p.pace)
	if err != nil {
		return err
	}
	slow := int64(0)
	if f.Needs.Slow != "" {
		slow = 1
	}
	st.Journal.Write(journal.Event{Kind: journal.Watched, Job: int64(n), Text: f.Name, Attempt: measure().foreign(before), Due: slow})
	st.Log.Info("injected", "n", fmt.Sprintf("%d/%d", n, of), "fault", f.Name, "took", took.Round(10*time.Millisecond), "back", back.Round(10*time.Millisecond))
	return nil
}

// watch waits until the work goes at its pace, as its processes tell, but not for long.
func (st *stage) watch(ctx context.Context, pace float64) (time.Duration, error) {
	const window = 8 // of 100 ms
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	var seen []int64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		seen = append(seen, st.fleet.totals().Done)
		if n := len(seen); n > window && float64(seen[n-1]-seen[n-1-window])/(window/10.) >= 0.95*pace*0.9 || time.Since(began) > watching {
			return time.Since(began), nil
		}
	}
}

// produce has the rest of the jobs put, as fast as it goes, and ends the producers.
func (st *stage) produce(ctx context.Context, jobs int) error {
	for _, p := range st.fleet.Producers() {
		_ = p.Tell(order{Pace: rush / producers})
	}
	if err := st.fleet.await(ctx, func() bool {
		put := st.fleet.before.Put
		for _, m := range st.fleet.members {
			put += m.latest.Put
		}
		return put >= int64(jobs)
	}); err != nil {
		return err
	}
	return st.fleet.finish(ctx)
}

// progressTo is a log of what happens, for a person who watches.
func progressTo(w *os.File) slog.Handler {
	if !term.IsTerminal(int(w.Fd())) && os.Getenv("CI") == "" {
		return slog.NewTextHandler(io.Writer(w), &slog.HandlerOptions{Level: slog.LevelError})
	}
	return slog.NewTextHandler(w, nil)
}

// postgres18 asks the script that keeps one.
func postgres18() (string, error) {
	out, err := exec.Command("bash", ".ci/postgres18").Output()
	if err != nil {
		return "", fmt.Errorf("faults: .ci/postgres18, from the root of the checkout: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
