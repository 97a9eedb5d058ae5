// Package bench measures the queue, each time beside a floor: the least that any such queue has to
// do, measured in the same run on the same machine. What counts are the ratios; jobs per second say
// more about the machine.
//
// Everything happens in a schema of its own, of a server that is started for it or of a given
// database, and nothing stays behind. Dispatchers are processes of their own, as in production.
// Times that span processes are of the machine's clock, which all of them read: producers and
// dispatchers run here, the server may be elsewhere (but for the benchmark schedule).
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Bench is a benchmark.
type Bench struct {
	Name    string
	Summary string // one line
	Flag    string // of the command that is called like the name before the hyphen; empty: this is a command
	Full    Scale
	Quick   Scale             // with Options.Quick
	Server  map[string]string // settings of a server that is started for it, beside the usual ones

	run func(context.Context, *harness) error
}

// Scale is how much a benchmark does. What is zero in Bench.Full, it does not use.
type Scale struct {
	Jobs     int           // to be put
	Duration time.Duration // of one measurement
	Rate     int           // jobs a second
	Rounds   int           // how often all is measured; medians are reported
}

// over takes from other what is zero here.
func (s Scale) over(other Scale) Scale {
	if s.Jobs == 0 {
		s.Jobs = other.Jobs
	}
	if s.Duration == 0 {
		s.Duration = other.Duration
	}
	if s.Rate == 0 {
		s.Rate = other.Rate
	}
	if s.Rounds == 0 {
		s.Rounds = other.Rounds
	}
	return s
}

// Benches returns all benchmarks.
func Benches() []Bench {
	return []Bench{
		{
			Name: "drain", Summary: "How fast 1 and 4 processes run jobs that do nothing",
			Full: Scale{Jobs: 200_000, Rounds: 3}, Quick: Scale{Jobs: 50_000, Rounds: 1}, run: rounds(drain),
		}, {
			Name: "enqueue", Summary: "How fast 16 connections put single jobs while a dispatcher runs them",
			Full: Scale{Duration: 10 * time.Second, Rounds: 3}, Quick: Scale{Duration: 2 * time.Second, Rounds: 1}, run: rounds(enqueue),
		}, {
			Name: "enqueue-copy", Flag: "copy", Summary: "How fast one connection puts many jobs by COPY",
			Full: Scale{Jobs: 200_000, Rounds: 5}, Quick: Scale{Jobs: 50_000, Rounds: 1}, run: rounds(enqueueCopy),
		}, {
			Name: "latency", Summary: "How soon a job starts that is put into an idle queue",
			Full: Scale{Duration: 20 * time.Second, Rate: 100, Rounds: 3}, Quick: Scale{Duration: 3 * time.Second, Rounds: 1}, run: rounds(latency),
		}, {
			Name: "latency-load", Flag: "load", Summary: "How soon a job starts at 60 % of what 4 processes can drain, and of what they can while as much is put",
			Full: Scale{Jobs: 200_000, Duration: 30 * time.Second, Rounds: 1}, Quick: Scale{Jobs: 50_000, Duration: 5 * time.Second}, run: rounds(latencyLoad),
		}, {
			Name: "schedule", Summary: "How punctual scheduled jobs start",
			Full: Scale{Duration: time.Minute, Rate: 1000, Rounds: 1}, Quick: Scale{Duration: 5 * time.Second}, run: rounds(schedule),
		}, {
			Name: "recovery", Summary: "How soon the jobs of a killed process run again",
			Full: Scale{Jobs: 50, Rounds: 20}, Quick: Scale{Rounds: 2}, run: recovery,
		}, {
			Name: "idle", Summary: "What 3 dispatchers of 10 queues cost when there is nothing to do",
			Full: Scale{Duration: time.Minute, Rounds: 1}, Quick: Scale{Duration: 12 * time.Second}, run: rounds(idle),
			Server: map[string]string{"log_statement": "all"}, // to count them
		}, {
			Name: "fairness", Summary: "How evenly processes share jobs, and whether an urgent one goes first",
			Full: Scale{Jobs: 100_000, Rounds: 3}, Quick: Scale{Jobs: 20_000, Rounds: 1}, run: rounds(fairness),
		}, {
			Name: "bloat", Summary: "What a long transaction elsewhere does to the queue",
			Full: Scale{Duration: 10 * time.Minute, Rate: 2000, Rounds: 1}, Quick: Scale{Duration: time.Minute}, run: rounds(bloat),
		}, {
			Name: "backlog", Summary: "Whether many jobs that wait, now or for later, slow the present ones",
			Full: Scale{Jobs: 5_000_000, Rounds: 1}, Quick: Scale{Jobs: 500_000}, run: rounds(backlog),
		},
	}
}

// Options of [Run].
type Options struct {
	DatabaseURL string // a schema is made in this database and dropped; empty: a server is started
	Quick       bool
	Scale       Scale // what is zero is the benchmark's choice

	Profile        string    // a directory for CPU profiles of the dispatchers; empty: none
	JSON           bool      // Stdout gets the [Report] as one JSON object, not as a table
	Stdout, Stderr io.Writer // the report; progress, if it is a terminal; nil: those of the process

	CommandLine string // for the report
	Version     string // of this program, for the report

	// Exec starts this program's hidden sub-command, which has to call [Process] with its standard streams.
	Exec []string
}

var (
	// ErrUnknown is matched by the error about a name that no benchmark has.
	ErrUnknown = errors.New("no such benchmark")
	// ErrBroken is matched by the error of a benchmark that has seen a promise broken, such as a job
	// lost or started early. To be slow is no error.
	ErrBroken = errors.New("a promise was broken")
)

// Run runs a benchmark and prints its [Report]. When ctx ends, Run stops what it has started, removes
// what it has made, and returns the context's cause.
func Run(ctx context.Context, name string, o Options) error {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	all := Benches()
	i := slices.IndexFunc(all, func(b Bench) bool { return b.Name == name })
	if i < 0 {
		return fmt.Errorf("bench: %w: %q", ErrUnknown, name)
	}
	report, err := measure(ctx, all[i], o)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it led to
	}
	if err == nil {
		err = report.print(o)
	}
	if err == nil {
		err = report.broken()
	}
	if err != nil {
		return fmt.Errorf("bench %s: %w", name, err)
	}
	return nil
}

func measure(ctx context.Context, b Bench, o Options) (report *Report, err error) {
	h, err := open(ctx, b, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := b.run(ctx, h); err != nil {
		return nil, err
	}
	return h.report, nil
}

// rounds measures all again and again, floor and subject in turn, so that what else goes on on the
// machine is in both.
func rounds(once func(context.Context, *harness) error) func(context.Context, *harness) error {
	return func(ctx context.Context, h *harness) error {
		for h.round = range h.scale.Rounds {
			if err := once(ctx, h); err != nil {
				return err
			}
		}
		return nil
	}
}
