// dispatchers: who runs jobs.

package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) dispatchersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "dispatchers",
		Short: "List the dispatchers, and what they have in hand",
		Long: `Lists the dispatchers of the queue table that live, by number, and then those that have died and whose claims no
other has taken over yet. A dispatcher is shown by the session that holds its locks: its server process, its application
and the address of its host (- for a local socket).

A role needs usage on the schema beside the table, and select on its tables and the queue table; the address and the
start of a session are shown to members of pg_read_all_stats.`,
		Example: `  pq-dispatch dispatchers
  pq-dispatch dispatchers --json`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array with an object a dispatcher")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, _ []string) error {
		all, err := jobs.Dispatchers(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, view.Each(all, view.DispatcherOf))
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tALIVE\tPROCESS\tAPPLICATION\tADDRESS\tSINCE\tJOBS\tBATCHES\tOLDEST CLAIM")
		for _, d := range all {
			alive, pid, oldest := "no", "-", "-"
			if d.Alive {
				alive, pid = "yes", fmt.Sprint(d.PID)
			}
			if d.Batches > 0 {
				oldest = d.Oldest.Round(time.Millisecond).String()
			}
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", d.ID, alive, pid, dash(cell(d.Application)), dash(d.Address),
				instant(d.Since), d.Jobs, d.Batches, oldest)
		}
		return table.Flush()
	})
	return cmd
}
