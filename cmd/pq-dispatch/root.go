// The root command: the flags that all commands share, and the way to the database.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	envURL       = "PQ_DISPATCH_DATABASE_URL"
	envAnyURL    = "DATABASE_URL"
	envDirectURL = "PQ_DISPATCH_DIRECT_URL"

	// Those of the daemon's configuration that are about the database hold for every command that works on it.
	envURLFile       = "PQ_DISPATCH_DATABASE_URL_FILE"
	envConfigDirect  = "PQ_DISPATCH_DATABASE_DIRECT_URL"
	envDirectURLFile = "PQ_DISPATCH_DATABASE_DIRECT_URL_FILE"
	envSchema        = "PQ_DISPATCH_DATABASE_SCHEMA"
	envTable         = "PQ_DISPATCH_DATABASE_TABLE"
)

const (
	defaultSchema = "public"
	defaultTable  = "queue"
)

// connectTimeout bounds one attempt to connect where the address does not say (connect_timeout).
const connectTimeout = 10 * time.Second

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool      // stderr is one
	running        bool      // flags and arguments were fine, the command itself runs
	groups         group.Set // of the processes that run jobs

	hurries atomic.Bool     // the command sees to the second signal itself
	hurry   context.Context // which ends this one

	databaseURL, directURL string // the flags
	schema, table          string
	source, directSource   string // where their values are from, for messages
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{
		stdin:    stdin,
		stdout:   stdout,
		stderr:   stderr,
		terminal: isTerminal(stderr),
	}
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pq-dispatch",
		Short: "A job queue in PostgreSQL",
		Long: `pq-dispatch is a job queue in a PostgreSQL table: it puts jobs, runs them by commands (work) or as a daemon (run), and
looks after them.

The database is the one of --database-url, else of $PQ_DISPATCH_DATABASE_URL, or of the file that
$PQ_DISPATCH_DATABASE_URL_FILE names, else of $DATABASE_URL, else of PostgreSQL's own variables (PGHOST, PGUSER,
PGPASSWORD, PGSERVICE, ...). A password belongs in the environment, a file or ~/.pgpass: other users of the machine can
read the command line.

Data goes to standard output, everything else to standard error.

Exit codes: 0 done; 1 failed; 2 wrong flags, arguments or data, or a user, password or database that the
server does not know; 3 the database cannot be reached; 4 there is no job to get or show;
128 and the signal's number when a signal has cut the command off. The first SIGINT or SIGTERM ends a
command in order, the second at once.`,
		Example: `  export PQ_DISPATCH_DATABASE_URL=postgres://user:password@localhost/app
  pq-dispatch migrate up
  pq-dispatch put apples '{"kind": "Cox"}'
  pq-dispatch work apples -- ./eat`,
		SilenceErrors: true, // execute prints them
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)

	flags := root.PersistentFlags()
	flags.StringVar(&a.databaseURL, "database-url", "", "`address` of the database, as a URL or as key=value pairs")
	flags.StringVar(&a.directURL, "direct-url", "", "`address` of the same database past a pooler, for sessions that listen or hold locks\n(default $"+envDirectURL+", else the database's address)")
	flags.StringVar(&a.schema, "schema", cmp.Or(os.Getenv(envSchema), defaultSchema), "`name` of the queue table's schema")
	flags.StringVar(&a.table, "table", cmp.Or(os.Getenv(envTable), defaultTable), "`name` of the queue table")

	root.AddCommand(
		a.migrateCommand(), a.putCommand(), a.getCommand(), a.workCommand(), a.statsCommand(),
		a.runCommand(), a.configCommand(), a.healthcheckCommand(),
		a.lsCommand(), a.showCommand(), a.retryCommand(), a.cancelCommand(), a.discardCommand(), a.moveCommand(), a.purgeCommand(),
		a.pauseCommand(), a.resumeCommand(), a.queuesCommand(), a.dispatchersCommand(), a.topCommand(), a.doctorCommand(), a.manCommand(),
		a.demoCommand(), a.demoProcessCommand(), a.benchCommand(), a.benchProcessCommand(), a.versionCommand(),
	)
	return root
}

// do makes the function of a command that takes no database.
func (a *app) do(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.running = true
		return f(cmd.Context(), args)
	}
}

// withStore makes the function of a command that works on the queue table.
func (a *app) withStore(f func(ctx context.Context, jobs *store.Store, args []string) error) func(*cobra.Command, []string) error {
	return a.withPool(func(ctx context.Context, _ *pgxpool.Pool, jobs *store.Store, args []string) error {
		return f(ctx, jobs, args)
	})
}

// withPool is withStore for a command that begins transactions, too.
func (a *app) withPool(f func(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, args []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		pool, jobs, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer pool.Close()
		return f(ctx, pool, jobs, args)
	})
}

// open returns the store that the flags and the environment name. It does not connect yet.
func (a *app) open(ctx context.Context) (*pgxpool.Pool, *store.Store, error) {
	given, err := addressOf(setting{a.databaseURL, "--database-url"}, envURLFile, envURL)
	if err != nil {
		return nil, nil, err
	}
	var address string
	address, a.source = firstSet(given,
		setting{os.Getenv(envAnyURL), "$" + envAnyURL},
		setting{"", "PostgreSQL's own variables, PGHOST and so on; or use --database-url"},
	)
	if given, err = addressOf(setting{a.directURL, "--direct-url"}, envDirectURLFile, envConfigDirect, envDirectURL); err != nil {
		return nil, nil, err
	}
	var direct string
	direct, a.directSource = firstSet(given, setting{"", a.source})
	return a.openAt(ctx, address, direct, store.Options{Schema: a.schema, Table: a.table})
}

// addressOf is the address that a flag gives, else a variable, or the file that the variable file names: what
// configurations say by the same variables is meant here, too.
func addressOf(flag setting, file string, variables ...string) (setting, error) {
	settings := []setting{flag}
	for _, name := range variables {
		settings = append(settings, setting{os.Getenv(name), "$" + name})
	}
	value, source := firstSet(settings...)
	path := os.Getenv(file)
	switch {
	case flag.value != "" || path == "":
		return setting{value, source}, nil
	case value != "":
		return setting{}, &usageError{fmt.Sprintf("$%s: %s is given as well; leave one of them out", file, source)}
	}
	value, err := config.ReadSecret(path)
	if err != nil {
		return setting{}, &usageError{fmt.Sprintf("$%s: %v", file, err)}
	}
	return setting{value, "$" + file}, nil
}

// openAt does so with these addresses, which are from a.source and a.directSource.
func (a *app) openAt(ctx context.Context, address, direct string, o store.Options) (*pgxpool.Pool, *store.Store, error) {
	pooled, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, nil, badAddress(a.source, err)
	}
	adjust(pooled.ConnConfig)
	pooled.ShouldPing = store.ShouldPing
	if direct != "" {
		single, err := pgx.ParseConfig(direct)
		if err != nil {
			return nil, nil, badAddress(a.directSource, err)
		}
		adjust(single)
		o.Connect = func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, single.Copy()) }
	}
	pool, err := pgxpool.NewWithConfig(ctx, pooled)
	if err != nil {
		return nil, nil, err
	}
	return pool, store.New(pool, o), nil
}

// setting is a value and where it is from.
type setting struct{ value, source string }

// firstSet returns the first one that is not empty, else the last.
func firstSet(settings ...setting) (value, source string) {
	for _, s := range settings {
		value, source = s.value, s.source
		if value != "" {
			break
		}
	}
	return value, source
}

func adjust(c *pgx.ConnConfig) {
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, connectTimeout)
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "pq-dispatch"
	}
}

// badAddress says what is wrong with an address and repeats no part of it: in one whose password is not
// encoded, the password may stand where any other part does. pgx's reasons do not quote it either.
func badAddress(source string, err error) error {
	text := fmt.Sprintf("the database address from %s cannot be read", source)
	if parse, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		whole := parse.Error() // cannot parse `address`: reason
		if i := strings.LastIndex(whole, "`: "); i >= 0 {
			text += whole[i+1:]
		}
	}
	return &usageError{text + "; write it as postgres://user:password@host:5432/database, with special characters in the password percent-encoded"}
}

// say prints a line on standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.stderr, "pq-dispatch: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// printJSON prints a value as one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
