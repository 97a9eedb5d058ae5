// What a search for settings reports.

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/doctor"
	"github.com/pq-dispatch/pq-dispatch/internal/tune"
	"github.com/pq-dispatch/pq-dispatch/sql"
)

// TuneReport is the result of [Tune]. As JSON, keys are only ever added.
type TuneReport struct {
	Bench          string            `json:"bench"`
	CommandLine    string            `json:"command_line"`
	Versions       Versions          `json:"versions"`
	ServerSettings map[string]string `json:"server_settings"`
	Machine        Machine           `json:"machine"`
	Embedded       bool              `json:"embedded"` // the server was started for it
	Jobs           tunedJobs         `json:"jobs"`
	BudgetSeconds  float64           `json:"budget_seconds"`
	ElapsedSeconds float64           `json:"elapsed_seconds"`
	Stopped        string            `json:"stopped"` // converged, or budget: there may be better settings

	Default     Prediction    `json:"default"`
	Recommended Prediction    `json:"recommended"`
	Ratio       tune.Ratio    `json:"ratio"`              // how many times better: jobs a second, or with a rate the p99
	Rejected    *tune.Setting `json:"rejected,omitempty"` // what had looked better at first
	YAML        string        `json:"yaml"`
	Go          string        `json:"go"`
	Advice      []tune.Advice `json:"advice"`
	Trials      []tune.Trial  `json:"trials"`

	plot *tune.Plot
}

type tunedJobs struct {
	PayloadBytes int      `json:"payload_bytes"`
	WorkSeconds  float64  `json:"work_seconds"` // of a command: of its first run
	Command      []string `json:"command,omitempty"`
	Rate         int      `json:"rate"` // puts a second; 0: as fast as they are run
}

// Prediction is what a setting did when it was measured last, after the search.
type Prediction struct {
	Setting    tune.Setting `json:"setting"`
	Throughput Spread       `json:"jobs_per_second"`
	P50        Spread       `json:"p50_ms"`
	P99        Spread       `json:"p99_ms"`
	KeepsUp    bool         `json:"keeps_up"` // with the rate, in most of the trials
}

// Spread is a median and the quarters around it.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`  // a quarter of the trials had less
	High   float64 `json:"high"` // a quarter had more
	Trials int     `json:"trials"`
}

func predict(s tune.Setting, samples []tune.Sample) Prediction {
	spread := func(of func(tune.Sample) float64) Spread {
		var values []float64
		for _, s := range samples {
			values = append(values, of(s))
		}
		return Spread{tune.Quantile(values, 0.5), tune.Quantile(values, 0.25), tune.Quantile(values, 0.75), len(values)}
	}
	kept := 0
	for _, s := range samples {
		if s.KeptUp {
			kept++
		}
	}
	return Prediction{
		Setting:    s,
		Throughput: spread(func(s tune.Sample) float64 { return s.Throughput }),
		P50:        spread(func(s tune.Sample) float64 { return s.P50 }),
		P99:        spread(func(s tune.Sample) float64 { return s.P99 }),
		KeepsUp:    2*kept > len(samples),
	}
}

// tell makes the report of what was found.
func (t *tuner) tell(ctx context.Context, found *tune.Result, elapsed time.Duration) (*TuneReport, error) {
	recipe := tune.Recipe{Setting: found.Best, Command: t.o.Command}
	r := &TuneReport{
		Bench:          "tune",
		CommandLine:    t.options.CommandLine,
		Versions:       t.report.Versions,
		ServerSettings: t.report.Settings,
		Machine:        t.report.Machine,
		Embedded:       t.server != nil,
		Jobs:           tunedJobs{len(t.data.at(time.Now().UnixNano())), t.work.Seconds(), t.o.Command, t.o.Rate},
		BudgetSeconds:  t.o.Budget.Seconds(),
		ElapsedSeconds: elapsed.Seconds(),
		Stopped:        found.Stopped,
		Default:        predict(tune.Default, found.Default),
		Recommended:    predict(found.Best, found.Confirmed),
		Ratio:          found.Ratio,
		Rejected:       found.Rejected,
		YAML:           recipe.YAML(),
		Go:             recipe.Go(),
		Trials:         found.Trials,
		plot:           tune.NewPlot(t.options.CommandLine, t.goal(), found.Trials, found.Best),
	}
	server, err := t.look(ctx, found.Best)
	r.Advice = tune.Advise(server)
	return r, err
}

// look reads what advice is given by.
func (t *tuner) look(ctx context.Context, s tune.Setting) (server tune.Server, err error) {
	server.Settings, server.WAL = map[string]string{}, tune.Quantile(t.wal[s], 0.5)
	rows, err := t.pool.Query(ctx, `
		select name, current_setting(name)
		from pg_settings
		where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'wal_compression')`)
	if err != nil {
		return server, fmt.Errorf("read the server's settings: %w", err)
	}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		server.Settings[name] = value
		return nil
	}); err != nil {
		return server, fmt.Errorf("read the server's settings: %w", err)
	}
	var seconds float64
	if err := t.pool.QueryRow(ctx, `
		select pg_size_bytes(current_setting('max_wal_size'))::float8, extract(epoch from current_setting('checkpoint_timeout')::interval)::float8`).
		Scan(&server.MaxWAL, &seconds); err != nil {
		return server, fmt.Errorf("read the server's settings: %w", err)
	}
	server.CheckpointTimeout = time.Duration(seconds * float64(time.Second))
	server.Findings, err = doctor.Examine(ctx, t.pool, t.jobs, doctor.Options{
		Names:       sql.Names{Schema: t.schema, Table: tableName},
		Dispatchers: s.Processes, Concurrency: s.Concurrency + max(0, s.Prefetch),
	})
	return server, err
}

func (r *TuneReport) print(o TuneOptions) error {
	if o.Plot != "" {
		if err := r.draw(o.Plot); err != nil {
			return err
		}
	}
	if o.JSON {
		return json.NewEncoder(o.Stdout).Encode(r)
	}
	return r.text(o.Stdout)
}

func (r *TuneReport) draw(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(r.plot.SVG(file), file.Close())
}

func (r *TuneReport) text(to io.Writer) error {
	server := "a given server"
	if r.Embedded {
		server = "started for this"
	}
	fmt.Fprintf(to, "%s\n", r.CommandLine)
	fmt.Fprintf(to, "pq-dispatch %s, %s, PostgreSQL %s (%s); %d CPUs\n", r.Versions.PQDispatch, r.Versions.Go, r.Versions.PostgreSQL, server, r.Machine.CPUs)
	fmt.Fprintf(to, "%s; %d trials in %v, %s\n\n", r.Jobs, len(r.Trials), (time.Duration(r.ElapsedSeconds * float64(time.Second))).Round(time.Second), ending[r.Stopped])

	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\tjobs/s\tp99 ms\tsetting")
	r.Default.row(w, "default")
	r.Recommended.row(w, "recommended")
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(to, "(medians, and the quarters around them, of what was measured after the search)\n%s\n\n", r.verdict())
	if err := r.plot.Text(to); err != nil {
		return err
	}
	fmt.Fprintf(to, "\nFor the daemon:\n\n%s\nIn Go:\n\n%s\nAt the server (nothing was changed):\n\n", indented(r.YAML), indented(r.Go))
	for _, a := range r.Advice {
		fmt.Fprintf(to, "  %s: %s\n    %s\n", a.About, a.Text, a.Do)
		if a.Breaks != "" {
			fmt.Fprintf(to, "    not recommended, it breaks this promise: %s\n", a.Breaks)
		}
	}
	return nil
}

var ending = map[string]string{
	tune.Converged: "until no other setting was better",
	tune.OutOfTime: "until the budget was spent",
}

func (j tunedJobs) String() string {
	text := fmt.Sprintf("jobs of %d bytes", j.PayloadBytes)
	took := time.Duration(j.WorkSeconds * float64(time.Second)).Round(100 * time.Microsecond)
	switch {
	case j.Command != nil:
		text += fmt.Sprintf(", each run by %s (%v)", strings.Join(j.Command, " "), took)
	case j.WorkSeconds > 0:
		text += fmt.Sprintf(" that take %v", took)
	default:
		text += " that do nothing"
	}
	if j.Rate > 0 {
		return text + fmt.Sprintf(", %d put a second", j.Rate)
	}
	return text + ", put as fast as they are run"
}

func (p Prediction) row(to io.Writer, name string) {
	fmt.Fprintf(to, "%s\t%v\t%v\t%v\n", name, p.Throughput, p.P99, p.Setting)
}

func (s Spread) String() string {
	return fmt.Sprintf("%s (%s-%s)", tune.Number(s.Median), tune.Number(s.Low), tune.Number(s.High))
}

// verdict is what the figures say.
func (r *TuneReport) verdict() string {
	what := "more jobs a second, or as many with a lower p99"
	if r.Jobs.Rate > 0 {
		what = "a lower p99"
	}
	var text string
	switch {
	case r.Recommended.Setting != tune.Default:
		text = fmt.Sprintf("The recommended setting has %s: times %.2f (95 %%: %.2f to %.2f).", what, r.Ratio.Estimate, r.Ratio.Low, r.Ratio.High)
	case r.Rejected != nil:
		text = fmt.Sprintf("Keep the default: %v had looked better in the search, but did not stand the comparison after it.", *r.Rejected)
	case r.Stopped == tune.OutOfTime:
		text = "Keep the default: no other setting was shown to be better, in the time that there was."
	default:
		text = "Keep the default: no other setting was shown to be better."
	}
	if r.Jobs.Rate > 0 && !r.Recommended.KeepsUp {
		text += fmt.Sprintf("\nIt does NOT keep up with %d puts a second: about %s jobs are run. (The puts take their share of the machine, too.)", r.Jobs.Rate, tune.Number(r.Recommended.Throughput.Median))
	}
	return text
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}
