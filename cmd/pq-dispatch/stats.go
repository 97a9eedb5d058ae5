// stats: how many jobs there are, by queue and state.

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) statsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats [QUEUE]",
		Short: "Count the jobs by queue and state",
		Long: `Counts the jobs of every queue that has any, or of one queue. It counts all of them and so reads the whole table;
'queues' is quick, and shows what is paused.

ready      due, and not running
scheduled  due later
running    claimed by a dispatcher that lives
set aside  out of attempts, or refused; the reason is in the column last_error
taken      taken by a consumer of Python's pq
oldest     how long the ready job that waits longest has been due`,
		Example: `  pq-dispatch stats
  pq-dispatch stats apples --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeFirstQueue,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array with an object a queue")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		all, err := counts(ctx, jobs, args)
		if err != nil {
			return err
		}
		if len(args) > 0 && all[0] == (store.Counts{Queue: all[0].Queue}) {
			a.say("no job is in a queue %s; 'pq-dispatch queues' lists those that have one", cell(all[0].Queue))
		}
		if asJSON {
			return printJSON(a.stdout, view.Each(all, view.CountsOf))
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "QUEUE\tREADY\tSCHEDULED\tRUNNING\tSET ASIDE\tTAKEN\tOLDEST")
		for _, c := range all {
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n",
				cell(c.Queue), c.Ready, c.Scheduled, c.Running, c.SetAside, c.Taken, oldestReady(c))
		}
		return table.Flush()
	})
	return cmd
}

func counts(ctx context.Context, jobs *store.Store, args []string) ([]store.Counts, error) {
	if len(args) == 0 {
		return jobs.Counts(ctx)
	}
	queue := jobs.Queue(args[0])
	if err := plainName(queue, args[0]); err != nil {
		return nil, err
	}
	c, err := queue.Counts(ctx)
	return []store.Counts{c}, err
}

// cell quotes a name that would not stay in its cell, or bring control characters to the terminal.
func cell(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
