// doctor: what is wrong with the database, or soon will be.

package main

import (
	"cmp"
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/doctor"
	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) doctorCommand() *cobra.Command {
	var dispatchers, concurrency positive
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the database, and say what to mend",
		Long: `Examines the database that the queue lives in: the connection and whether it is direct, the server and its settings, the
tables, indexes and trigger, the role's privileges, room for locks and connections, what holds vacuum back, dead rows, the
queue of notifications, the clocks, and the dispatchers. Each finding is ok, a warning or a problem, with a remedy. It reads
only.

With --concurrency, and --dispatchers, it says whether the server's lock table is large enough for what is planned.

Members of pg_read_all_stats see other roles' sessions; for others some findings are of their own sessions only.

Exit codes: 0 no problem, perhaps warnings; 1 a problem; 3 the database cannot be reached.`,
		Example: `  pq-dispatch doctor
  pq-dispatch doctor --dispatchers 8 --concurrency 500
  pq-dispatch doctor --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Var(&dispatchers, "dispatchers", "how many dispatchers there will be")
	cmd.Flags().Var(&concurrency, "concurrency", "how many jobs each of them will run at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.RunE = a.withPool(func(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, _ []string) error {
		findings, err := doctor.Examine(ctx, pool, jobs, doctor.Options{
			Names: sql.Names{Schema: a.schema, Table: a.table}, Dispatchers: int(dispatchers), Concurrency: int(concurrency),
		})
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSON(a.stdout, examinationOf(findings))
		} else {
			err = a.printFindings(findings)
		}
		if problems := countLevel(findings, doctor.Problem); err == nil && problems > 0 {
			err = fmt.Errorf("doctor: problems found: %d", problems)
		}
		return err
	})
	return cmd
}

func (a *app) printFindings(findings []doctor.Finding) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.Check, cmp.Or(oneLine(f.Text), "-"))
		if f.Remedy != "" {
			fmt.Fprintf(table, "\t\tremedy: %s\n", oneLine(f.Remedy))
		}
	}
	return table.Flush()
}

func countLevel(findings []doctor.Finding, level doctor.Level) (n int) {
	for _, f := range findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

type examinationJSON struct {
	Worst    doctor.Level  `json:"worst"`
	Findings []findingJSON `json:"findings"`
}

type findingJSON struct {
	Check  string       `json:"check"`
	Level  doctor.Level `json:"level"` // ok, warning or problem
	Text   string       `json:"text"`
	Remedy *string      `json:"remedy"`
}

func examinationOf(findings []doctor.Finding) examinationJSON {
	out := examinationJSON{Worst: doctor.Worst(findings), Findings: []findingJSON{}}
	for _, f := range findings {
		out.Findings = append(out.Findings, findingJSON{f.Check, f.Level, f.Text, view.OrNull(f.Remedy)})
	}
	return out
}
