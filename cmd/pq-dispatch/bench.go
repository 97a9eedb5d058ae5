// bench: measures the queue; and the hidden command that its processes run.

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pq-dispatch/pq-dispatch/bench"
)

const benchProcess = "bench-process"

func (a *app) benchCommand() *cobra.Command {
	b := &cobra.Command{
		Use:   "bench",
		Short: "Measure the queue",
		Long: `Measures the queue, each time beside a floor: the least that any such queue has to do, in the same run.
What counts are the ratios; jobs per second say more about the machine.

It starts a PostgreSQL of its own (fsync on, default settings), which is gone afterwards. To measure in a database,
name that by --database-url or $PQ_DISPATCH_DATABASE_URL: it makes a schema of its own there, and drops
it; between measurements it has the server write a checkpoint, if the role may. The flags --direct-url, --schema and
--table, and other variables, have no meaning here.

A target that is missed is said, and no failure; a promise that is broken, such as a job lost, is one.`,
		Example: `  pq-dispatch bench drain --quick
  pq-dispatch bench latency --load --json
  pq-dispatch bench tune --work 5ms`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &usageError{"say what to measure: " + strings.Join(benchNames(), ", ") + "; or tune, to search settings"}
		},
	}
	var o bench.Options
	b.PersistentFlags().BoolVar(&o.Quick, "quick", false, "less of everything: figures to look at, not to compare")
	b.PersistentFlags().BoolVar(&o.JSON, "json", false, "print one JSON object")
	b.PersistentFlags().StringVar(&o.Profile, "profile", "", "write a CPU profile of each dispatcher process into this `directory`")
	commands := map[string]*cobra.Command{}
	for _, each := range bench.Benches() {
		name, _, _ := strings.Cut(each.Name, "-")
		if each.Flag == "" {
			commands[name] = a.oneBenchCommand(each, &o)
			b.AddCommand(commands[name])
			continue
		}
		commands[name].Flags().Bool(each.Flag, false, "instead: "+lowerFirst(each.Summary))
		scaleFlags(commands[name].Flags(), each)
	}
	b.AddCommand(a.tuneCommand(&o), a.tuneProcessCommand())
	return b
}

// benchNames are those of the commands.
func benchNames() (names []string) {
	for _, b := range bench.Benches() {
		if b.Flag == "" {
			names = append(names, b.Name)
		}
	}
	return names
}

func (a *app) oneBenchCommand(each bench.Bench, o *bench.Options) *cobra.Command {
	cmd := &cobra.Command{Use: each.Name, Short: each.Summary, Args: cobra.NoArgs}
	cmd.Example = "  pq-dispatch bench " + each.Name + "\n  pq-dispatch bench " + each.Name + " --quick --json"
	scaleFlags(cmd.Flags(), each)
	cmd.RunE = a.do(func(ctx context.Context, _ []string) error {
		name := each.Name
		for _, variant := range bench.Benches() {
			if on, _ := cmd.Flags().GetBool(variant.Flag); on && strings.HasPrefix(variant.Name, each.Name+"-") {
				name = variant.Name
			}
		}
		var err error
		if o.DatabaseURL, err = a.benchDatabase(); err != nil {
			return err
		}
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("bench: find this program, to start its processes: %w", err)
		}
		o.Scale = scaleOf(cmd.Flags())
		o.Stdout, o.Stderr = a.stdout, a.stderr
		o.Exec = []string{program, benchProcess}
		o.CommandLine = commandLine(cmd)
		o.Version = build().Version
		return bench.Run(ctx, name, *o)
	})
	return cmd
}

// scaleFlags adds the flags for what the benchmark uses, unless a variant of it has added them.
func scaleFlags(flags *pflag.FlagSet, b bench.Bench) {
	add := func(name, text string, used bool, value pflag.Value) {
		if used && flags.Lookup(name) == nil {
			flags.Var(value, name, text)
		}
	}
	add("jobs", fmt.Sprintf("how many jobs (default %d; quick %d)", b.Full.Jobs, cmp.Or(b.Quick.Jobs, b.Full.Jobs)),
		b.Full.Jobs > 0, new(positive))
	add("duration", fmt.Sprintf("how long to measure each time (default %v; quick %v)", b.Full.Duration, cmp.Or(b.Quick.Duration, b.Full.Duration)),
		b.Full.Duration > 0, new(delay))
	add("rate", fmt.Sprintf("jobs a second (default %d)", b.Full.Rate), b.Full.Rate > 0, new(positive))
	add("rounds", fmt.Sprintf("how often to measure all, for medians (default %d; quick %d)", b.Full.Rounds, cmp.Or(b.Quick.Rounds, b.Full.Rounds)),
		b.Full.Rounds > 0, new(positive))
}

// scaleOf is what these flags say.
func scaleOf(flags *pflag.FlagSet) (s bench.Scale) {
	count := func(name string) int {
		if f := flags.Lookup(name); f != nil {
			return int(*f.Value.(*positive))
		}
		return 0
	}
	s.Jobs, s.Rate, s.Rounds = count("jobs"), count("rate"), count("rounds")
	if f := flags.Lookup("duration"); f != nil {
		s.Duration = f.Value.(*delay).Duration
	}
	return s
}

// benchDatabase is empty for a server of our own. Not $DATABASE_URL: it is often an application's own
// database, and set for other programs.
func (a *app) benchDatabase() (address string, err error) {
	address, a.source = firstSet(
		setting{a.databaseURL, "--database-url"},
		setting{os.Getenv(envURL), "$" + envURL},
		setting{"", "the benchmark's own server"})
	if address != "" {
		if _, err := pgxpool.ParseConfig(address); err != nil {
			return "", badAddress(a.source, err)
		}
	}
	return address, nil
}

// commandLine is the command with the flags that were given, but for addresses, which may hold a password.
func commandLine(cmd *cobra.Command) string {
	words := []string{cmd.CommandPath()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case f.Name == "database-url" || f.Name == "direct-url":
			words = append(words, "--"+f.Name+"=...")
		case f.Value.Type() == "bool" && f.Value.String() == "true":
			words = append(words, "--"+f.Name)
		default:
			words = append(words, "--"+f.Name+"="+f.Value.String())
		}
	})
	return strings.Join(words, " ")
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func (a *app) benchProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    benchProcess,
		Short:  "A process of a benchmark, which starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			return bench.Process(ctx, a.stdin, a.stdout, a.stderr)
		}),
	}
}
