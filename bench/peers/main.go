// Command peers does the same work with this project and with other queues in PostgreSQL, on the same server, in turn, and
// writes what it measured as JSON.
//
//	go run . run --json results.json
//	go run . run --quick --contenders pq-dispatch,river-default --workloads drain
//	go run . list
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

const usageText = `usage:
  peers run [--json FILE] [--quick] [--rounds N] [--within TIME]
           [--contenders A,B] [--workloads X,Y] [--node DIRECTORY] [--verbose]
  peers list
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "run":
		return runCommand(ctx, args, stdout, stderr)
	case "list":
		return list(stdout, contenders(defaultNode))
	case "worker": // a worker process: started by run
		if len(args) != 1 {
			return errors.New("usage: peers worker CONTENDER")
		}
		return workerCommand(ctx, args[0], stdin, stdout)
	}
	fmt.Fprint(stderr, usageText)
	return flag.ErrHelp
}

func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := options{stderr: stderr, commandLine: append([]string{"peers", "run"}, args...)}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("json", "", "write the results to this `file`, not to stdout")
	node := flags.String("node", defaultNode, "the `directory` of the Node contenders, after npm ci")
	flags.BoolVar(&o.quick, "quick", false, "one short round: shows that it works, no figures to quote")
	flags.BoolVar(&o.verbose, "verbose", false, "tell of each run, a line each, on stderr")
	flags.IntVar(&o.rounds, "rounds", 3, "how often all is measured")
	flags.DurationVar(&o.within, "within", 0, "begin nothing more after this `time` (default 14m, with --quick 80s)")
	only := flags.String("contenders", "", "only these, by their ids, comma-separated")
	workloads := flags.String("workloads", "", "only these, comma-separated: "+strings.Join(allWorkloads, ", ")+
		"; and these, which are run only if they are named: "+strings.Join(faultWorkloads, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? Lists are separated by commas, without spaces", flags.Arg(0))
	}
	if o.rounds < 1 {
		return fmt.Errorf("--rounds %d: at least one is needed", o.rounds)
	}
	if o.quick {
		o.rounds = 1
	}
	if o.within == 0 {
		o.within = fullTime
		if o.quick {
			o.within = quickTime
		}
	}
	all := contenders(*node)
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.ID
	}
	chosen, err := choose("contender", *only, ids)
	if err != nil {
		return err
	}
	for _, c := range all {
		if slices.Contains(chosen, c.ID) {
			o.contenders = append(o.contenders, c)
		}
	}
	if *workloads == "" {
		*workloads = strings.Join(allWorkloads, ",")
	}
	if o.workloads, err = choose("workload", *workloads, slices.Concat(allWorkloads, faultWorkloads)); err != nil {
		return err
	}
	o.absent = neverPresent(*only == "")
	if *file != "" { // before the work, not after it
		f, err := os.Create(*file)
		if err != nil {
			return err
		}
		defer f.Close()
		stdout = f
	}
	results, err := compare(ctx, o)
	if err != nil {
		return err
	}
	return write(stdout, results)
}

// choose reads a list of names; an empty one is all of them. The order is that of all.
func choose(what, list string, all []string) ([]string, error) {
	if list == "" {
		return all, nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("no %s %q; there are: %s", what, name, strings.Join(all, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !slices.Contains(names, name) }), nil
}

func write(to io.Writer, results *result.Results) error {
	out := json.NewEncoder(to)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	if err := out.Encode(results); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

func list(to io.Writer, all []*contender) error {
	for _, c := range all {
		absent := ""
		if err := c.ready(); err != nil {
			absent = "  (absent: " + err.Error() + ")"
		}
		if _, err := fmt.Fprintf(to, "%-18s %s%s\n", c.ID, c.Name, absent); err != nil {
			return err
		}
	}
	return nil
}
