// The test of the judge: each mutant of the product is run under the same judge, which has to notice.

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/mutant"
)

func init() { commands["mutants"] = runMutants }

// trialTimeout bounds one run of a mutant, which may hang.
const trialTimeout = 4 * time.Minute

// trials are the runs of mutants, and of the product as it is in the same scenarios.
type trials struct {
	root, dir string
	seed      uint64
	seeds     int
	controls  map[string]trial // by scale and scenario
	programs  map[string]string
}

// trial is what came of a scenario.
type trial struct {
	counts map[string]int // above 0
	err    error          // it could not be run, or has not passed where it has to
}

// runMutants is the command -mutants.
func runMutants(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("faults -mutants", flag.ContinueOnError)
	t := &trials{controls: map[string]trial{}, programs: map[string]string{}}
	f.Uint64Var(&t.seed, "seed", 1, "the first one")
	f.IntVar(&t.seeds, "seeds", 3, "so many are tried until a mutant is caught")
	only := f.String("only", "", "names of mutants, with commas; empty: all")
	list := f.Bool("list", false, "list the mutants")
	if err := f.Parse(args); err != nil {
		return err
	}
	chosen := mutant.All
	if *only != "" {
		chosen = nil
		for name := range strings.SplitSeq(*only, ",") {
			m, ok := mutant.Find(strings.TrimSpace(name))
			if !ok {
				return fmt.Errorf("faults: there is no mutant %q; see -mutants -list", name)
			}
			chosen = append(chosen, m)
		}
	}
	if *list {
		return listMutants(os.Stdout, chosen)
	}
	var err error
	if t.root, err = mutant.Root(ctx); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	if t.dir, err = os.MkdirTemp("", "pq-dispatch-mutants-"); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	defer os.RemoveAll(t.dir)
	// PostgreSQL may run as another user, who has to come through.
	if err := errors.Join(os.Mkdir(filepath.Join(t.dir, "tmp"), 0o711), os.Chmod(t.dir, 0o711)); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	caught := 0
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "mutant\tseeds\ttime\twhat the judge found")
	for _, m := range chosen {
		what, seeds, took, err := t.try(ctx, m)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			caught++
		} else {
			what = "NOT CAUGHT: " + err.Error()
		}
		fmt.Fprintf(out, "%s\t%d\t%v\t%s\n", m.Name, seeds, took.Round(time.Second), what)
		fmt.Fprintf(os.Stderr, "%s: %s\n", m.Name, what)
	}
	_ = out.Flush()
	fmt.Printf("\n%d of %d mutants were caught, each within %d seeds; the product as it is passed in the same %d scenarios\n",
		caught, len(chosen), t.seeds, len(t.controls))
	if caught < len(chosen) {
		return fmt.Errorf("faults: %d mutants were not caught: the judge, or their scenarios, are too weak", len(chosen)-caught)
	}
	return nil
}

func listMutants(w io.Writer, all []mutant.Mutant) error {
	for _, m := range all {
		fmt.Fprintf(w, "%s\n    a product that %s\n", m.Name, m.About)
		if m.Why != "" {
			fmt.Fprintf(w, "    (%s)\n", m.Why)
		}
		fmt.Fprintf(w, "    shows as %s, with %s\n", strings.Join(m.Shows, " or "), strings.Join(m.Scenario, " "))
	}
	return nil
}

// try runs a mutant until it is caught. Before, the product as it is has to pass the same scenario: else whatever the
// judge finds would prove nothing.
func (t *trials) try(ctx context.Context, m mutant.Mutant) (what string, seeds int, took time.Duration, err error) {
	key := fmt.Sprint(m.Scale, m.Scenario)
	control, known := t.controls[key]
	if !known {
		control = t.control(ctx, m)
		t.controls[key] = control
	}
	if control.err != nil {
		return "", 0, 0, control.err
	}
	program := filepath.Join(t.dir, m.Name)
	if err := mutant.Build(ctx, t.root, "./internal/faults", program, append(slices.Clone(m.Scale), m.Edits...)); err != nil {
		return "", 0, 0, err
	}
	defer os.Remove(program)
	began := time.Now()
	var last trial
	for seeds < t.seeds {
		last = t.run(ctx, program, m.Scenario, t.seed+uint64(seeds))
		seeds++
		if last.err != nil {
			return "", seeds, time.Since(began), last.err
		}
		if slices.ContainsFunc(m.Shows, func(what string) bool { return last.counts[what] > 0 }) {
			return last.String(), seeds, time.Since(began), nil
		}
	}
	return "", seeds, time.Since(began), fmt.Errorf("want %s, found %s", strings.Join(m.Shows, " or "), last)
}

// control runs the product as it is, or with what only shortens its times.
func (t *trials) control(ctx context.Context, m mutant.Mutant) (c trial) {
	program := t.programs[fmt.Sprint(m.Scale)]
	if program == "" {
		program = filepath.Join(t.dir, "control-"+strconv.Itoa(len(t.programs)))
		if err := mutant.Build(ctx, t.root, "./internal/faults", program, m.Scale); err != nil {
			return trial{err: err}
		}
		t.programs[fmt.Sprint(m.Scale)] = program
	}
	c = t.run(ctx, program, m.Scenario, t.seed)
	if c.err == nil && len(c.counts) > 0 {
		c.err = fmt.Errorf("the product as it is does not pass this scenario: %s (%s)", c, strings.Join(m.Scenario, " "))
	}
	return c
}

// run runs a program's scenario.
func (t *trials) run(ctx context.Context, program string, scenario []string, seed uint64) (done trial) {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, program, append([]string{"-quick", "-json", "-seed", strconv.FormatUint(seed, 10)}, scenario...)...)
	c.Dir = t.root
	c.Stdout, c.Stderr = &out, &errs
	c.Env = append(os.Environ(), "TMPDIR="+filepath.Join(t.dir, "tmp")) // also for the evidence, which would stay
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }   // so that it leaves nothing behind
	c.WaitDelay = 40 * time.Second
	err := c.Run()
	var said struct {
		OK     bool           `json:"ok"`
		Counts map[string]int `json:"counts"`
	}
	if jsonErr := json.Unmarshal(out.Bytes(), &said); jsonErr != nil {
		return trial{err: fmt.Errorf("%s: %w", strings.Join(c.Args[1:], " "), errors.Join(err, errors.New(lastPart(errs.String()))))}
	}
	done.counts = said.Counts
	// How late and how slow the work is says more about the machine, which has others on it.
	maps.DeleteFunc(done.counts, func(what string, n int) bool {
		return n == 0 || what == string(judge.Slow) || what == string(judge.Late)
	})
	return done
}

// String lists what was counted, the most first.
func (t trial) String() string {
	var parts []string
	most := func(a, b string) int { return cmp.Or(t.counts[b]-t.counts[a], cmp.Compare(a, b)) }
	for _, what := range slices.SortedFunc(maps.Keys(t.counts), most) {
		parts = append(parts, fmt.Sprintf("%s %d", what, t.counts[what]))
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing")
}

func lastPart(s string) string { return s[max(0, len(s)-1000):] }
