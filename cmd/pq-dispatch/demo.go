// demo: shows the queue at work on a directory; and the hidden command that its processes run.

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/demo"
)

const demoProcess = "demo-process"

func (a *app) demoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo [DIR]",
		Short: "Show the queue at work on the files of a directory",
		Long: `Puts a job for each file below DIR, the current directory by default, and has two dispatcher processes
hash them. Then it compares what they found with the directory, and shows how an urgent and a delayed job
take their places. The files are only read.

It starts a PostgreSQL of its own, which is gone afterwards. To run it in a database, name that by
--database-url or $PQ_DISPATCH_DATABASE_URL: it makes a schema of its own there, and drops it. The flags
--direct-url, --schema and --table, and other variables, have no meaning here.`,
		Example: `  pq-dispatch demo
  pq-dispatch demo /usr/share --json`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object at the end")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		o := demo.Options{JSON: asJSON, Stdout: a.stdout, Stderr: a.stderr}
		// Not $DATABASE_URL: it is often an application's own database, and set for other programs.
		o.DatabaseURL, a.source = firstSet(
			setting{a.databaseURL, "--database-url"},
			setting{os.Getenv(envURL), "$" + envURL},
			setting{"", "the demo's own server"})
		if o.DatabaseURL != "" {
			if _, err := pgxpool.ParseConfig(o.DatabaseURL); err != nil {
				return badAddress(a.source, err)
			}
		}
		if len(args) == 1 {
			o.Dir = args[0]
		}
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("demo: find this program, to start its processes: %w", err)
		}
		o.Exec = []string{program, demoProcess}
		return demo.Run(ctx, o)
	})
	return cmd
}

func (a *app) demoProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    demoProcess + " ROLE",
		Short:  "A process of the demo, which starts it",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) error {
			return demo.Process(ctx, args[0], a.stdin, a.stdout, a.stderr)
		}),
	}
}
