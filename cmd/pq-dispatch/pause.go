// pause and resume: whether a queue gives out jobs.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) pauseCommand() *cobra.Command {
	var until, reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pause QUEUE",
		Short: "Keep a queue from giving out jobs",
		Long: `Keeps the queue from giving out jobs, to dispatchers and to get, until that time or until it is resumed, over restarts of
all programs. Puts go on, and so do jobs that are running. A pause of a paused queue replaces the one before.

'pq-dispatch queues' shows what is paused. A role needs usage on the schema pq_dispatch (the one beside the table),
and select, insert and update on its table pauses.`,
		Example: `  pq-dispatch pause apples
  pq-dispatch pause apples --until 2h --reason 'wasps in the orchard'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirstQueue,
	}
	cmd.Flags().StringVar(&until, "until", "", "`time` such as 2030-01-02T15:04:05Z, or delay such as 2h (default: until it is resumed)")
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for those who look")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		queue := jobs.Queue(args[0])
		if err := plainName(queue, args[0]); err != nil {
			return err
		}
		o := store.PauseOptions{Reason: reason}
		if until != "" {
			t, err := time.Parse(time.RFC3339Nano, until)
			if err == nil {
				o.Until = t
			} else if o.For, err = store.ParseDelay(until); err != nil || o.For == 0 {
				return &usageError{fmt.Sprintf("--until %q: give a time such as 2030-01-02T15:04:05Z, or a delay such as 30s, 5m, 1h or 2d", until)}
			}
		}
		end, err := queue.Pause(ctx, o)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, struct {
				Queue string     `json:"queue"`
				Until *time.Time `json:"paused_until"` // null: until it is resumed
			}{queue.Name(), view.Instant(end)})
		}
		a.say("%s is paused %s", cell(queue.Name()), pausedUntil(end))
		return nil
	})
	return cmd
}

func pausedUntil(end time.Time) string {
	if end.IsZero() {
		return "until it is resumed"
	}
	return "until " + end.UTC().Format(time.RFC3339)
}

func (a *app) resumeCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resume QUEUE",
		Short: "Let a paused queue give out jobs again",
		Long: `Lets a paused queue give out jobs again, at once. A role needs usage on the schema pq_dispatch (the one beside the
table), and select and delete on its table pauses.`,
		Example:           `  pq-dispatch resume apples`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirstQueue,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		queue := jobs.Queue(args[0])
		if err := plainName(queue, args[0]); err != nil {
			return err
		}
		was, err := queue.Resume(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, struct {
				Queue string `json:"queue"`
				Was   bool   `json:"was_paused"`
			}{queue.Name(), was})
		}
		if was {
			a.say("%s is resumed", cell(queue.Name()))
		} else {
			a.say("%s was not paused", cell(queue.Name()))
		}
		return nil
	})
	return cmd
}
