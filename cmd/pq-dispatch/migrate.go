// migrate: brings the queue table up or down, tells where it is, and prints the steps as SQL.

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) migrateCommand() *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Create, upgrade or remove the queue table",
		Example: `  pq-dispatch migrate up
  pq-dispatch migrate status`,
		Args: cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) error {
			return &usageError{"migrate: say up, down, status or print"}
		}),
	}
	migrate.AddCommand(a.migrateUp(), a.migrateDown(), a.migrateStatus(), a.migratePrint())
	return migrate
}

func (a *app) migrateUp() *cobra.Command {
	to := sql.Version
	var roles bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the queue table to the version of this build",
		Long: `Brings the queue table to the version of this build, in one transaction. It may be run by any number
of processes at once, and does nothing when that is done already.

With --roles it also makes the group roles pq_dispatch_enqueue, pq_dispatch_worker, pq_dispatch_reader and
pq_dispatch_owner (with the name of another table in theirs), gives each the rights that it needs, and the table to the
owner's. Grant them to those who log in. Say --roles again with each later version.`,
		Example: `  pq-dispatch migrate up
  pq-dispatch migrate up --roles
  pq-dispatch migrate up --schema jobs --table queue`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().IntVar(&to, "to", to, "`version` to stop at")
	cmd.Flags().BoolVar(&roles, "roles", false, "make the group roles, and give them their rights")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, _ []string) error {
		current, err := currentVersion(ctx, jobs)
		switch {
		case err != nil:
			return err
		case to < 1 || to > sql.Version:
			return &usageError{fmt.Sprintf("migrate up --to %d: this build knows the versions 1 to %d", to, sql.Version)}
		case to < current && cmd.Flags().Changed("to"):
			return &usageError{fmt.Sprintf("migrate up --to %d: the table is at version %d already; 'migrate down' goes back", to, current)}
		case roles && to < sql.Version:
			return &usageError{"migrate up --roles: the roles have rights on what the last version has; leave out --to"}
		}
		if err := jobs.MigrateTo(ctx, to); err != nil {
			return err
		}
		a.say("%s is at version %d", jobs.Table(), to)
		if roles {
			if err := jobs.MigrateRoles(ctx); err != nil {
				return err
			}
			r := jobs.Roles()
			a.say("the roles %s, %s, %s and %s have their rights on it", r.Enqueue, r.Worker, r.Reader, r.Owner)
		}
		return nil
	})
	return cmd
}

func (a *app) migrateDown() *cobra.Command {
	var to int
	var yes bool
	cmd := &cobra.Command{
		Use:   "down --to VERSION --yes",
		Short: "Take the queue table back to an earlier version",
		Long: `Takes the queue table back to an earlier version, in one transaction. Version 0 removes the table with
all its jobs. Stop the programs that use it first.`,
		Example: `  pq-dispatch migrate down --to 0 --yes`,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().IntVar(&to, "to", 0, "`version` to go back to (required); 0 removes the table with all its jobs")
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, this is meant")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, _ []string) error {
		switch {
		case !cmd.Flags().Changed("to"):
			return &usageError{"migrate down: say how far with --to VERSION (0 removes the table with all its jobs)"}
		case to < 0 || to >= sql.Version:
			return &usageError{fmt.Sprintf("migrate down --to %d: the versions to go back to are 0 to %d", to, sql.Version-1)}
		case !yes:
			return &usageError{fmt.Sprintf("migrate down --to %d removes parts of %s, at 0 all jobs in it: confirm with --yes", to, jobs.Table())}
		}
		current, err := currentVersion(ctx, jobs)
		switch {
		case err != nil:
			return err
		case to > current:
			return &usageError{fmt.Sprintf("migrate down --to %d: the table is at version %d; 'migrate up' goes forward", to, current)}
		}
		if err := jobs.MigrateTo(ctx, to); err != nil {
			return err
		}
		a.say("%s is at version %d", jobs.Table(), to)
		return nil
	})
	return cmd
}

// currentVersion is 0 where nothing is migrated. Between it and a MigrateTo another process may migrate:
// it guards against a slip of the hand, not against that.
func currentVersion(ctx context.Context, jobs *store.Store) (int, error) {
	applied, err := jobs.MigrationStatus(ctx)
	if err != nil || len(applied) == 0 {
		return 0, err
	}
	return applied[len(applied)-1].Version, nil
}

func (a *app) migrateStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List the versions, and when they were applied",
		Example: `  pq-dispatch migrate status
  pq-dispatch migrate status --json`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, _ []string) error {
		steps, err := statusSteps(ctx, jobs)
		if err != nil {
			return err
		}
		current := 0
		for _, s := range steps {
			if s.AppliedAt != nil {
				current = s.Version
			}
		}
		if asJSON {
			return printJSON(a.stdout, struct {
				Table   string `json:"table"`
				Version int    `json:"version"`
				Latest  int    `json:"latest"`
				Steps   []step `json:"migrations"`
			}{jobs.Table(), current, sql.Version, steps})
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "VERSION\tNAME\tAPPLIED AT")
		for _, s := range steps {
			applied := "pending"
			if s.AppliedAt != nil {
				applied = s.AppliedAt.Format(time.RFC3339)
			}
			fmt.Fprintf(table, "%d\t%s\t%s\n", s.Version, s.Name, applied)
		}
		return table.Flush()
	})
	return cmd
}

// step is a version, as status shows it.
type step struct {
	Version   int        `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // null: pending
}

// statusSteps are the versions of the database, also those that this build does not know, and the
// pending ones.
func statusSteps(ctx context.Context, jobs *store.Store) ([]step, error) {
	known, err := jobs.Migrations()
	if err != nil {
		return nil, err
	}
	applied, err := jobs.MigrationStatus(ctx)
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, m := range applied {
		steps = append(steps, step{m.Version, m.Name, new(m.AppliedAt.UTC())})
	}
	for _, m := range known {
		if !slices.ContainsFunc(steps, func(s step) bool { return s.Version == m.Version }) {
			steps = append(steps, step{m.Version, m.Name, nil})
		}
	}
	slices.SortFunc(steps, func(x, y step) int { return cmp.Compare(x.Version, y.Version) })
	return steps, nil
}

// What the files of other migration tools say before each direction. The empty last one ends the file.
var formats = map[string]struct{ up, down, end string }{
	"goose":  {"-- +goose Up\n-- +goose StatementBegin\n", "-- +goose StatementEnd\n\n-- +goose Down\n-- +goose StatementBegin\n", "-- +goose StatementEnd\n"},
	"tern":   {"", "\n---- create above / drop below ----\n\n", ""},
	"dbmate": {"-- migrate:up\n", "\n-- migrate:down\n", ""},
}

func (a *app) migratePrint() *cobra.Command {
	var format, direction string
	var roles bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the migrations as SQL, for psql or another migration tool",
		Long: `Prints the migrations as SQL; it needs no database. The format plain is a script for psql in one
transaction. goose, tern and dbmate are one migration file of those tools, with both directions.
Whichever tool runs them, 'pq-dispatch migrate status' knows about it afterwards.`,
		Example: `  pq-dispatch migrate print | psql -v ON_ERROR_STOP=1 app
  pq-dispatch migrate print --format goose > migrations/20300102150405_pq_dispatch.sql`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&format, "format", "plain", "plain, goose, tern or dbmate")
	cmd.Flags().StringVar(&direction, "direction", "up", "up or down, for the format plain")
	cmd.Flags().BoolVar(&roles, "roles", false, "with the group roles and their rights at the end; see migrate up")
	cmd.RunE = a.do(func(context.Context, []string) error {
		_, tool := formats[format]
		switch {
		case !tool && format != "plain":
			return &usageError{fmt.Sprintf("migrate print --format %q: known are plain, goose, tern and dbmate", format)}
		case direction != "up" && direction != "down":
			return &usageError{fmt.Sprintf("migrate print --direction %q: it is up or down", direction)}
		case tool && cmd.Flags().Changed("direction"):
			return &usageError{fmt.Sprintf("migrate print: a file of %s holds both directions; leave out --direction", format)}
		}
		steps, err := sql.Migrations(sql.Names{Schema: a.schema, Table: a.table})
		if err != nil {
			return err
		}
		up, down := scripts(steps)
		if roles {
			script, err := sql.CreateRoles(sql.Names{Schema: a.schema, Table: a.table})
			if err != nil {
				return err
			}
			up += "\n" + script
		}
		text := "begin;\n\n" + up + "\ncommit;\n"
		if direction == "down" {
			text = "begin;\n\n" + down + "\ncommit;\n"
		}
		if f := formats[format]; tool {
			text = f.up + up + f.down + down + f.end
		}
		_, err = io.WriteString(a.stdout, text)
		return err
	})
	return cmd
}

// scripts are all the steps in one, up and, backwards, down.
func scripts(steps []sql.Migration) (up, down string) {
	var ups, downs []string
	for _, m := range steps {
		ups = append(ups, m.Up)
		downs = append(downs, m.Down)
	}
	slices.Reverse(downs)
	return strings.Join(ups, "\n"), strings.Join(downs, "\n")
}
