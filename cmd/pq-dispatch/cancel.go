// cancel: takes jobs out of their queue, and stops those that run.

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) cancelCommand() *cobra.Command {
	o := &operation{verb: "cancel"}
	cmd := &cobra.Command{
		Use:   "cancel [ID...]",
		Short: "Set jobs aside, and stop those that run",
		Long: `Sets jobs aside, with "cancelled" as their reason; 'pq-dispatch retry' brings them back. Of one that is running, the
dispatcher is asked to end the context of its handler ("asked"); the handler decides what becomes of it then. The
jobs are those with these ids, or all of a queue, or those of it that are in a state.

For each id it prints the outcome, and exits with 1 if there is one that it could not cancel. A role needs usage on the
schema beside the table, and select and update on the table.`,
		Example: `  pq-dispatch cancel 42
  pq-dispatch cancel --queue apples --task eat
  pq-dispatch cancel --queue apples --state running`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.register(a, cmd, true)
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		o.jobs, o.op = jobs, store.Cancel()
		// The waiting ones first: else they would start as running ones end.
		return o.run(ctx, args, []store.State{store.Waiting, store.Scheduled, store.Retrying, store.Running})
	})
	return cmd
}
