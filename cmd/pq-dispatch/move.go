// move: puts jobs into another queue.

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) moveCommand() *cobra.Command {
	o := &operation{verb: "move"}
	var to string
	cmd := &cobra.Command{
		Use:   "move [ID...] --to QUEUE",
		Short: "Put jobs into another queue",
		Long: `Puts jobs into another queue, in the state in which they are: those with these ids, or all of a queue that do not run, or
those of it that are in a state. One that is running is left.

For each id it prints the outcome, and exits with 1 if there is one that it could not move. A role needs usage on the
schema beside the table, and select and update on the table.`,
		Example: `  pq-dispatch move 42 43 --to pears
  pq-dispatch move --queue apples --to pears --state waiting`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o.register(a, cmd, true)
	cmd.Flags().StringVar(&to, "to", "", "`name` of the queue that they go to")
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeQueue)
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		if to == "" {
			return &usageError{"move: say where with --to QUEUE"}
		}
		target := jobs.Queue(to)
		if err := plainName(target, to); err != nil {
			return err
		}
		if o.queue == to {
			return &usageError{"move: --queue and --to are the same"}
		}
		o.jobs, o.op = jobs, store.Move(target)
		return o.run(ctx, args, stillStates)
	})
	return cmd
}
