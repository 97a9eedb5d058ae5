// faults runs the product under faults and judges what it did: nothing lost, nothing early, at most one accepted
// completion.
//
//	go run ./internal/faults -quick
//	go run ./internal/faults -seed 7 -fault kill9,restart -jobs 100000 -injections 100
//
// Results go to standard output, progress to standard error. The exit status is 1 if anything happened that must not.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// faults are all of them. Each file of a family adds its own by register.
var faults []scene.Fault

// register adds faults. Its value is of no use but for the declaration in which it stands.
//
//nolint:unparam // see above
func register(f ...scene.Fault) struct{} {
	faults = append(faults, f...)
	return struct{}{}
}

// none is no fault at all: the product's work as it is, under the same judge.
var _ = register(scene.Fault{
	Name: "none", Family: "none", About: "nothing goes wrong",
	Inject: func(ctx context.Context, s *scene.Scene) error {
		return s.Wait(ctx, s.Long(5*time.Second, time.Second))
	},
})

// plan is what is to be run.
type plan struct {
	seed       uint64
	jobs       int // over all stages; at least so many
	injections int
	duration   time.Duration // more injections until it is over; 0: only these
	quick      bool
	json       bool
	pace       float64 // jobs a second while faults are injected
	faults     []scene.Fault
	names      string // as given
}

var errViolations = errors.New("faults: something happened that must not")

func main() {
	err := run()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// commands are what else the program does, by its first argument. Other files add theirs.
var commands = map[string]func(ctx context.Context, args []string) error{}

func run() error {
	if len(os.Args) > 1 && os.Args[1] == roleCommand {
		return playRole()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if command := commands[strings.TrimLeft(os.Args[1], "-")]; command != nil {
			return command(ctx, os.Args[2:])
		}
	}
	p, err := parse(os.Args[1:])
	if err != nil || p == nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if progress := progressTo(os.Stderr); progress != nil {
		log = slog.New(progress)
	}
	results, err := p.run(ctx, log)
	if len(results.Stages) > 0 {
		if p.json {
			if err := results.writeJSON(os.Stdout); err != nil {
				return err
			}
		} else {
			results.write(os.Stdout)
		}
	}
	return err
}

// parse reads the arguments. No plan and no error: all was said.
func parse(args []string) (*plan, error) {
	p := &plan{}
	var list, pg18 bool
	var bin string
	f := flag.NewFlagSet("faults", flag.ContinueOnError)
	f.Uint64Var(&p.seed, "seed", 0, "of all that is left to chance; 0: another each time")
	f.StringVar(&p.names, "fault", "", "names or families of faults, with commas; empty: all")
	f.IntVar(&p.injections, "injections", 0, "how many; 0: 600, or 60 with -quick, or 5 for each of -fault")
	f.IntVar(&p.jobs, "jobs", 0, "at least so many are put; 0: as many as come")
	f.DurationVar(&p.duration, "duration", 0, "go on injecting for so long")
	f.Float64Var(&p.pace, "pace", 150, "jobs put a second while faults are injected")
	f.BoolVar(&p.quick, "quick", false, "the short form of each fault, 60 injections, 20 000 jobs")
	f.BoolVar(&p.json, "json", false, "print one JSON object")
	f.BoolVar(&pg18, "pg18", false, "on the PostgreSQL that .ci/postgres18 has fetched")
	f.StringVar(&bin, "pg-bin", "", "the bin directory of PostgreSQL; empty: the one that is found")
	f.BoolVar(&list, "list", false, "list the faults")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("faults: no arguments are expected beside flags, got %q", f.Args())
	}
	slices.SortStableFunc(faults, func(a, b scene.Fault) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Name, b.Name))
	})
	if list {
		for _, fault := range faults {
			fmt.Printf("%-10s %-24s %s%s\n", fault.Family, fault.Name, fault.About, missing(fault))
		}
		return nil, nil
	}
	if pg18 {
		var err error
		if bin, err = postgres18(); err != nil {
			return nil, err
		}
	}
	if bin != "" {
		if err := os.Setenv(devpg.EnvBin, bin); err != nil {
			return nil, err
		}
	}
	if p.seed == 0 {
		p.seed = rand.Uint64N(1_000_000) + 1
	}
	if err := p.choose(); err != nil {
		return nil, err
	}
	if p.injections == 0 {
		switch {
		case p.duration > 0:
		case p.names != "":
			p.injections = 5 * len(p.faults)
		case p.quick:
			p.injections = 60
		default:
			p.injections = 600
		}
	}
	if p.jobs == 0 && p.names == "" {
		p.jobs = 500_000
		if p.quick {
			p.jobs = 20_000
		}
	}
	return p, nil
}

// choose finds the faults that are named. "none" is only run if it is.
func (p *plan) choose() error {
	for name := range strings.SplitSeq(p.names, ",") {
		name = strings.TrimSpace(name)
		found := false
		for _, f := range faults {
			if name == "" && f.Family != "none" || name != "" && (f.Name == name || f.Family == name) {
				found = true
				p.faults = append(p.faults, f)
			}
		}
		if !found {
			return fmt.Errorf("faults: there is no fault or family %q; see -list", name)
		}
	}
	return nil
}

// missing tells what a fault lacks here, in brackets.
func missing(f scene.Fault) string {
	if f.Needs.Missing != nil {
		if what := f.Needs.Missing(); what != "" {
			return " (not here: " + what + ")"
		}
	}
	return ""
}
