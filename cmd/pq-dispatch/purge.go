// purge: deletes many jobs of a queue.

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) purgeCommand() *cobra.Command {
	o := &operation{verb: "purge", confirm: true}
	cmd := &cobra.Command{
		Use:   "purge QUEUE --state STATE",
		Short: "Delete the jobs of a queue that are in a state",
		Long: `Deletes the jobs of the queue that were there when it began and are in the state of --state (all: in any but running). Jobs
that are running are left. It deletes up to 1000 jobs in a transaction, so that nobody has to wait for it, and when it is
stopped what is deleted is deleted.

It asks first on a terminal, and elsewhere needs --yes. A role needs usage on the schema beside the table, and select,
update and delete on the table.`,
		Example: `  pq-dispatch purge apples --state set_aside --older-than 7d --dry-run
  pq-dispatch purge apples --state set_aside --older-than 7d --yes`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirstQueue,
	}
	o.register(a, cmd, false)
	cmd.Flags().BoolVar(&o.yes, "yes", false, "yes, delete them")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		o.jobs, o.op = jobs, store.Discard()
		o.queue = args[0]
		switch {
		case o.queue == "":
			return jobs.Queue("").Err()
		case o.state == "":
			return &usageError{"purge: say which jobs of the queue with --state; all means every state but running"}
		case o.state == string(store.Running):
			return &usageError{"purge --state running: running jobs are left alone; 'pq-dispatch cancel' asks them to stop"}
		}
		return o.run(ctx, nil, nil)
	})
	return cmd
}
