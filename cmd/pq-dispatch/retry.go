// retry: has jobs run again, or now.

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) retryCommand() *cobra.Command {
	o := &operation{verb: "retry"}
	var keep bool
	cmd := &cobra.Command{
		Use:   "retry [ID...]",
		Short: "Bring jobs back that were set aside, or make scheduled ones due now",
		Long: `Brings jobs that were set aside back into their queue, with their attempts counted from 1 again, and makes jobs due
now that are scheduled or wait for their next attempt. The jobs are those with these ids, or all of a queue that are in a
state (set_aside, unless --state says otherwise).

For each id it prints the outcome, and exits with 1 if there is one that it could not retry. A role needs usage on the
schema beside the table, and select and update on the table.`,
		Example: `  pq-dispatch retry 42 43
  pq-dispatch retry --queue apples
  pq-dispatch retry --queue apples --state set_aside --task eat --keep-attempts`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.register(a, cmd, true)
	cmd.Flags().BoolVar(&keep, "keep-attempts", false, "let a job that is out of attempts run once more only")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		o.jobs, o.op = jobs, store.Retry(keep)
		return o.run(ctx, args, []store.State{store.SetAside})
	})
	return cmd
}
