// ls: lists jobs, a page at a time.

package main

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) lsCommand() *cobra.Command {
	var f filterFlags
	var after string
	var asJSON bool
	limit := positive(50)
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List jobs",
		Long: `Lists jobs by queue: first those that are ready, as they will be claimed, then scheduled ones as they become due, then those
that are out of the queue, by id. Where there are more it ends with what to give to --after for the next page.

waiting    due, and not running
running    in the hands of a dispatcher, or of a get
scheduled  due later
retrying   due later, after a run that failed
set_aside  out of attempts, refused or cancelled
taken      taken by a consumer of Python's pq

A page is read from indexes, in a table of any size. Of a task or of an age there is no index: after 100000 jobs that do not
fit, the page ends and says so, and --after goes on. A role needs usage on the schema beside the table, and select
on its tables and the queue table.`,
		Example: `  pq-dispatch ls --queue apples --state set_aside
  pq-dispatch ls --state running --json
  pq-dispatch ls --task eat --older-than 1d --limit 10`,
		Args: cobra.NoArgs,
	}
	f.register(a, cmd, true)
	cmd.Flags().Var(&limit, "limit", "how many jobs at most")
	cmd.Flags().StringVar(&after, "after", "", "`cursor` that the page before ended with")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object, with the jobs and the next cursor")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, _ []string) error {
		filter, err := f.filter(jobs)
		if err != nil {
			return err
		}
		if f.state != "" && !slices.Contains(f.stateNames(), f.state) {
			return f.badState()
		}
		filter.State = store.State(f.state)
		page, err := jobs.List(ctx, filter, int(limit), after)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, view.PageOf[int64](page))
		}
		return a.printPage(page)
	})
	return cmd
}

func (a *app) printPage(page store.Page) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tQUEUE\tSTATE\tTASK\tATTEMPT\tENQUEUED AT\tSCHEDULED AT\tLAST ERROR")
	for _, job := range page.Jobs {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", job.ID, cell(job.Queue), job.State, dash(cell(job.Task)), job.Attempt,
			instant(job.EnqueuedAt), instant(job.ScheduleAt), dash(cut(oneLine(job.LastError), 60)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	switch {
	case page.Cut:
		a.say("stopped after a look at many jobs, there may be more; go on with --after %s", page.Next)
	case page.Next != "":
		a.say("there are more: --after %s", page.Next)
	}
	return nil
}

// dash stands for what is not there.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// cut shortens a text to so many characters.
func cut(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-3]) + "..."
	}
	return s
}
