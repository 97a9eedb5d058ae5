// run: the daemon, a dispatcher that works as its configuration says.

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
	"github.com/pq-dispatch/pq-dispatch/internal/daemon"
	"github.com/pq-dispatch/pq-dispatch/internal/observe"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) runCommand() *cobra.Command {
	var f configFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon: a dispatcher with the handlers of a configuration",
		Long: `Runs a dispatcher that has each job handled as the configuration says: sent to a URL, run by a program that is
started for it, or handed to a program that stays. 'pq-dispatch config --help' says how keys are given; each is
a flag here, too.

The first SIGINT or SIGTERM lets running jobs end, for the configuration's grace; the second ends their handlers, and
hands back what is unfinished; the third ends everything. SIGHUP has the configuration loaded again: if it is wrong
the one before stays, and the log says why.

Behind a pooler in transaction mode give the pooler's address with default_query_exec_mode=exec, and the
server's own as database.direct_url (--direct-url). A database that cannot be reached is waited for.`,
		Example: `  pq-dispatch run -c pq-dispatch.yaml
  pq-dispatch run -c pq-dispatch.yaml --log.level debug --http.address 127.0.0.1:9464
  pq-dispatch run --queues '{apples: {exec: {command: [/usr/bin/eat]}}}'`,
		Args: cobra.NoArgs,
	}
	f.register(cmd)
	cmd.RunE = a.do(func(ctx context.Context, _ []string) error { return a.runDaemon(ctx, &f) })
	return cmd
}

func (a *app) runDaemon(ctx context.Context, f *configFlags) error {
	load := func() (*config.Config, []config.Finding, error) { return config.Load(f.file(), &f.keys, os.Environ()) }
	c, warnings, err := load()
	if err != nil {
		a.warn(warnings)
		return a.configError(f, err)
	}
	var level slog.LevelVar
	log, err := observe.NewLogger(a.stderr, c.Log.Format, &level)
	if err != nil {
		return &misconfigured{err.Error()}
	}
	// Whoever reads the log may be gone: no reason to drop jobs. (What is ignored, programs would ignore, too.)
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, syscall.SIGPIPE)
	defer signal.Stop(unread)
	for _, w := range append(warnings, c.Inspect()...) {
		log.Warn("in the configuration", "finding", w.String())
	}
	reload := make(chan os.Signal, 1) // several at once are one
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	a.hurries.Store(true)

	pool, jobs, err := a.openFor(ctx, c)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := fits(ctx, jobs); err != nil {
		return err
	}
	a.source = a.directSource // with the other one nothing is wrong
	built := build()
	err = daemon.Run(ctx, daemon.Options{
		Config: c, Pool: pool, Jobs: jobs, Log: log, Level: &level,
		Build:  observe.Build{Version: built.Version, Revision: built.Revision},
		Groups: &a.groups, Hurry: a.hurry, Reload: reload, Load: load,
	})
	switch {
	case errors.Is(err, store.ErrPooled):
		return &misconfigured{"the address from " + a.directSource + " leads to a pooler in transaction mode, and a dispatcher's locks and LISTEN need a connection of their own: give the server's own address as database.direct_url; database.url may go on naming the pooler"}
	case err == nil && a.hurry.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// openFor is open for the database of a configuration.
func (a *app) openFor(ctx context.Context, c *config.Config) (*pgxpool.Pool, *store.Store, error) {
	source := func(key, file, otherwise string) string {
		for _, k := range []string{file, key} {
			if s := c.Source(k); s != "default" {
				return k + " of " + s
			}
		}
		return otherwise
	}
	a.source = source("database.url", "database.url_file", "PostgreSQL's own variables, PGHOST and so on; or give database.url")
	a.directSource = source("database.direct_url", "database.direct_url_file", a.source)
	d := c.Database
	a.schema, a.table = d.Schema, d.Table
	return a.openAt(ctx, d.URL.Reveal(), d.DirectURL.Reveal(), store.Options{Schema: d.Schema, Table: d.Table})
}

// fitTime is how long the first look at the database may take.
const fitTime = 5 * time.Second

// fits says at once what no time mends: a wrong password, a table that is not there. That the database cannot
// be reached is none of it.
func fits(ctx context.Context, jobs *store.Store) error {
	looking, cancel := context.WithTimeout(ctx, fitTime)
	defer cancel()
	if err := jobs.CheckSchema(looking); store.Permanent(err) {
		return err
	}
	return context.Cause(ctx)
}
