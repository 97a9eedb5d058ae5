// queues: the queues at a glance.

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) queuesCommand() *cobra.Command {
	countTo := positive(100_000)
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "queues [QUEUE...]",
		Short: "Show the queues at a glance, and which are paused",
		Long: `Shows every queue that has a job or is paused, or the queues named, with the jobs by state, as 'stats' does. It counts up
to 100000 of each and then shows >100000, so that it is quick in a table of any size; 'stats' counts all of them.

A role needs usage on the schema beside the table, and select on its tables and the queue table.`,
		Example: `  pq-dispatch queues
  pq-dispatch queues apples --count-to 1000 --json`,
		ValidArgsFunction: a.completeQueue,
	}
	cmd.Flags().Var(&countTo, "count-to", "how far to count the jobs of each state")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array with an object a queue")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		all, err := overviews(ctx, jobs, int(countTo), args)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, view.Each(all, view.OverviewOf))
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "QUEUE\tREADY\tSCHEDULED\tRUNNING\tSET ASIDE\tTAKEN\tOLDEST\tPAUSED")
		for _, o := range all {
			more := func(name, value string) string {
				if slices.Contains(o.AtLeast, name) {
					return ">" + value
				}
				return value
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", cell(o.Queue),
				more("ready", strconv.Itoa(o.Ready)), more("scheduled", strconv.Itoa(o.Scheduled)), o.Running,
				more("set_aside", strconv.Itoa(o.SetAside)), more("taken", strconv.Itoa(o.Taken)),
				more("oldest", oldestReady(o.Counts)), paused(o.Paused))
		}
		return table.Flush()
	})
	return cmd
}

func overviews(ctx context.Context, jobs *store.Store, countTo int, names []string) (all []store.Overview, err error) {
	if len(names) == 0 {
		return jobs.Overviews(ctx, countTo)
	}
	for _, name := range names {
		queue := jobs.Queue(name)
		if err := plainName(queue, name); err != nil {
			return nil, err
		}
		o, err := queue.Overview(ctx, countTo)
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// oldestReady is how long the ready job that waits longest has been due.
func oldestReady(c store.Counts) string {
	if c.Ready == 0 {
		return "-"
	}
	return c.Oldest.Round(time.Millisecond).String()
}

func paused(p *store.Pause) string {
	if p == nil {
		return "-"
	}
	text := "yes"
	if !p.Until.IsZero() {
		text = pausedUntil(p.Until)
	}
	if p.Reason != "" {
		text += ": " + cut(oneLine(p.Reason), 60)
	}
	return text
}
