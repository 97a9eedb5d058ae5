// discard: deletes jobs.

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) discardCommand() *cobra.Command {
	o := &operation{verb: "discard", confirm: true}
	cmd := &cobra.Command{
		Use:   "discard [ID...]",
		Short: "Delete jobs",
		Long: `Deletes jobs: those with these ids, or all of a queue that are in the state of --state (all: in any but running). One that
is running is left; cancel it first.

What flags select it deletes only with --yes, or when it is confirmed on the terminal. For each id it prints the
outcome, and exits with 1 if there is one that it could not discard. A role needs usage on the schema beside the table, and
select, update and delete on the table.`,
		Example: `  pq-dispatch discard 42 43
  pq-dispatch discard --queue apples --state set_aside --task eat --dry-run
  pq-dispatch discard --queue apples --state set_aside --older-than 7d --yes`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.register(a, cmd, true)
	cmd.Flags().BoolVar(&o.yes, "yes", false, "yes, delete all that the flags select")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		o.jobs, o.op = jobs, store.Discard()
		if len(args) == 0 && o.queue != "" && o.state == "" {
			return &usageError{"discard: say which jobs of the queue with --state; all means every state but running"}
		}
		return o.run(ctx, args, nil)
	})
	return cmd
}
