// bench tune: which settings suit some jobs; and the hidden command that its processes run.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/bench"
)

const (
	tuneProcess = "tune-process" // of bench

	// quickTuning is the budget with --quick.
	quickTuning = 30 * time.Second
)

// tuneFlags are the flags of bench tune.
type tuneFlags struct {
	payload byteSize
	work    delay
	command argv
	rate    positive
	budget  delay
	plot    string
}

func (a *app) tuneCommand(o *bench.Options) *cobra.Command {
	var f tuneFlags
	cmd := &cobra.Command{
		Use:   "tune",
		Short: "Search the settings that suit your jobs",
		Long: `Runs jobs like yours in many ways, in short trials that take turns, and says which settings of a dispatcher are
better than the default for them, and by how much: as a configuration of the daemon and as options in Go. It searches the
concurrency, the number of processes, the prefetch and the size of the pool.

With --rate, that many jobs are put a second, and the lowest p99 of the time from a put until its handler starts
is wanted. Without, jobs are put as fast as they are run, and the most jobs a second are wanted. A setting that is not
clearly better than a simpler one, by 3 % at least, is not recommended.

It works in a schema of its own and drops it, also when it is interrupted by one signal. In a database with a queue in use it does
nothing, and exits with 1: nobody wants to have such trials beside their jobs. Advice about the server is only that:
nothing is set there. The command of --command is started thousands of times, up to 100 at once: let it do no harm.`,
		Example: `  pq-dispatch bench tune --payload 2KiB --work 5ms
  pq-dispatch bench tune --database-url postgres://app@localhost/staging --rate 500 --work 20ms --plot tune.svg
  pq-dispatch bench tune --command '[/usr/bin/env, python3, /srv/app/eat.py]' --budget 10m --json`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.Var(&f.payload, "payload", "`size` of a job's data, about, such as 200 or 4KiB (default: a number)")
	flags.Var(&f.work, "work", "how long a handler takes, without work for this machine (default: no time)")
	flags.Var(&f.command, "command", "instead of --work, the `program` to run for each job, or a list in YAML: the program and its arguments")
	flags.Var(&f.rate, "rate", "how many jobs are put a second (default: as many as are run)")
	flags.Var(&f.budget, "budget", fmt.Sprintf("how long to search (default %v; quick %v)", bench.DefaultBudget, quickTuning))
	flags.StringVar(&f.plot, "plot", "", "write what was measured into this `file`, as SVG")
	cmd.MarkFlagsMutuallyExclusive("work", "command")
	cmd.RunE = a.do(func(ctx context.Context, _ []string) error {
		return a.tune(ctx, &f, o, commandLine(cmd))
	})
	return cmd
}

func (a *app) tune(ctx context.Context, f *tuneFlags, common *bench.Options, commandLine string) (err error) {
	if common.Profile != "" {
		return &usageError{"bench tune: it writes no profiles; leave out --profile"}
	}
	o := bench.TuneOptions{
		Options: bench.Options{
			JSON: common.JSON, Stdout: a.stdout, Stderr: a.stderr,
			CommandLine: commandLine, Version: build().Version,
		},
		Payload: int(f.payload), Work: f.work.Duration, Command: f.command, Rate: int(f.rate), Budget: f.budget.Duration, Plot: f.plot,
	}
	if o.Budget == 0 && common.Quick {
		o.Budget = quickTuning
	}
	if o.DatabaseURL, err = a.benchDatabase(); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("bench: find this program, to start its processes: %w", err)
	}
	o.Exec = []string{program, "bench", tuneProcess}
	err = bench.Tune(ctx, o)
	if errors.Is(err, bench.ErrBudget) {
		return &usageError{err.Error()}
	}
	return err
}

func (a *app) tuneProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    tuneProcess,
		Short:  "A process of bench tune, which starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			return bench.TuneProcess(ctx, a.stdin, a.stdout, a.stderr)
		}),
	}
}

// byteSize is a number of bytes, written as the daemon's configuration has it.
type byteSize int

func (b *byteSize) Type() string { return "size" }

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.Itoa(int(*b))
}

func (b *byteSize) Set(s string) error {
	number, unit := s, 1
	for suffix, size := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20} {
		if before, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = before, size
		}
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || int(n) > bench.MaxPayload/unit {
		return fmt.Errorf("%q is not a size up to 1MiB, such as 200, 4KiB or 1MiB", s)
	}
	*b = byteSize(int(n) * unit)
	return nil
}

// argv is a program, by its absolute path, and its arguments: a list in YAML as in the daemon's configuration, or the program alone.
type argv []string

func (c *argv) Type() string { return "program" }

func (c *argv) String() string {
	switch len(*c) {
	case 0:
		return ""
	case 1:
		return (*c)[0]
	}
	return "[" + strings.Join(*c, ", ") + "]"
}

func (c *argv) Set(s string) error {
	words := []string{s}
	if strings.HasPrefix(strings.TrimSpace(s), "[") {
		words = nil
		if err := yaml.Unmarshal([]byte(s), &words); err != nil {
			return errors.New("write a list such as [/bin/sh, -c, \"cat > /dev/null\"]")
		}
	}
	if len(words) == 0 || words[0] == "" {
		return errors.New("no program is named")
	}
	path, err := exec.LookPath(words[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	*c = append(argv{path}, words[1:]...)
	return nil
}
