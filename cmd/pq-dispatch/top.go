// top: the queues and dispatchers, live in a terminal.

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/internal/top"
	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) topCommand() *cobra.Command {
	interval := delay{text: "2s", Duration: 2 * time.Second}
	var once, asJSON bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the queues and dispatchers in a terminal",
		Long: `Shows, live, how fast jobs are put and ended, what waits in each queue and for how long, what runs, and what each
dispatcher has in hand. ? lists the keys: arrows move, enter shows the jobs of a queue, P pauses or resumes it after a
question, q quits.

The rates are of the table's rows, over 10 s: put, ended (done, or discarded) and put back (to be tried again, set aside,
or changed by an operator). Jobs are counted up to 10000 of each queue and state. The database is asked by one session, every
--interval and less often where that takes long: a fifth of the time at most. If it is lost, that is said, and it is asked
again. $NO_COLOR switches colors off.

A role needs usage on the schema beside the table, and select on its tables and the queue table; to pause, insert, update
and delete on its table pauses.`,
		Example: `  pq-dispatch top
  pq-dispatch top --interval 10s
  pq-dispatch top --once`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Var(&interval, "interval", "time from one look at the database to the next")
	cmd.Flags().BoolVar(&once, "once", false, "print one look as plain text; needs no terminal")
	cmd.Flags().BoolVar(&asJSON, "json", false, "with --once: print one JSON object")
	watch := a.withPool(func(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, _ []string) error {
		if !once {
			return top.Run(ctx, pool, jobs, top.Options{
				Input: a.stdin, Output: a.stdout, Interval: interval.Duration, NoColor: os.Getenv("NO_COLOR") != "",
			})
		}
		seen, err := top.Look(ctx, pool, jobs)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.stdout, glanceOf(seen))
		}
		_, err = io.WriteString(a.stdout, top.Text(seen, width(a.stdout)))
		return err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case interval.Duration < top.MinInterval:
			return &usageError{fmt.Sprintf("--interval %s: give %v or more", interval.text, top.MinInterval)}
		case asJSON && !once:
			return &usageError{"--json goes with --once"}
		case !once && (!isTerminal(a.stdin) || !isTerminal(a.stdout) || os.Getenv("TERM") == "dumb"):
			return &usageError{"top needs a terminal; without one use 'pq-dispatch queues --json', or --once"}
		}
		return watch(cmd, args)
	}
	return cmd
}

// width is that of a terminal; anything else has room for all columns.
func width(stream any) int {
	if file, ok := stream.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 200
}

type glanceJSON struct {
	Queues      []view.Overview   `json:"queues"`
	Dispatchers []view.Dispatcher `json:"dispatchers"`
	Rows        top.Counters      `json:"rows"` // since the server's statistics were reset: take the difference of two
}

func glanceOf(g *top.Glance) glanceJSON {
	return glanceJSON{view.Each(g.Queues, view.OverviewOf), view.Each(g.Dispatchers, view.DispatcherOf), g.Counters}
}
