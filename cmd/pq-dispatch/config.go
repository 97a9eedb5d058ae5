// config: look at the daemon's configuration without starting it.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

// configFlags are the flags of the commands that read the daemon's configuration.
type configFlags struct {
	path string
	keys config.Flags
}

func (f *configFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", "", "`file` of the configuration, YAML (default $"+config.PathVariable+")")
	f.keys.Register(cmd.Flags())
}

// file is the file of the configuration; empty: none, it is all flags and variables.
func (f *configFlags) file() string { return cmp.Or(f.path, os.Getenv(config.PathVariable)) }

// loadConfig loads what the flags, the environment and the file say. It prints the warnings, and of
// several mistakes each; the error is then how many they are.
func (a *app) loadConfig(f *configFlags) (*config.Config, error) {
	c, warnings, err := config.Load(f.file(), &f.keys, os.Environ())
	a.warn(warnings)
	return c, a.configError(f, err)
}

func (a *app) warn(warnings []config.Finding) {
	for _, w := range warnings {
		a.say("warning: %v", w)
	}
}

func (a *app) configError(f *configFlags, err error) error {
	wrong, ok := errors.AsType[*config.Error](err)
	switch {
	case !ok:
		return err
	case len(wrong.Findings) == 1:
		return &misconfigured{wrong.Findings[0].String()}
	}
	for _, finding := range wrong.Findings {
		a.say("%v", finding)
	}
	return &misconfigured{fmt.Sprintf("%s: %d mistakes", cmp.Or(f.file(), "configuration"), len(wrong.Findings))}
}

// misconfigured is a mistake in the configuration: no help page tells more of it.
type misconfigured struct{ text string }

func (m *misconfigured) Error() string        { return m.text }
func (m *misconfigured) Is(target error) bool { return target == dispatcher.ErrConfig }

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and print the daemon's configuration",
		Long: `The configuration of the daemon is a YAML file. Each key of it is a flag as well, such as --log.level for
level in the section log, and a variable, such as PQ_DISPATCH_LOG_LEVEL. (Those of the section database are the flags
--database-url, --direct-url, --schema and --table.) A flag goes before a variable, a variable
before the file. Lists and mappings are given as YAML there: --queues '{apples: {exec: {command: [/usr/bin/eat]}}}'.
A key of one queue is set by --set queues.apples.concurrency=5.

A key X_file names a file that holds the value of X, so that no secret has to stand in the configuration.`,
		Example: `  pq-dispatch config check -c pq-dispatch.yaml
  pq-dispatch config print -c pq-dispatch.yaml --sources
  pq-dispatch config schema > pq-dispatch.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &usageError{"config: say which: check, print or schema"}
		},
	}
	cmd.AddCommand(a.configCheckCommand(), a.configPrintCommand(), a.configSchemaCommand())
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	var f configFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the configuration is right, and what it does",
		Long: `Loads the configuration as the daemon would, and says what is wrong with it: each mistake with its place and what
to do. It connects to nothing. What may be missing on this machine only, such as a program, is a warning; with
--offline it is not looked at, and files with secrets are not read.

Exit codes: 0 it is right, perhaps with warnings; 2 it is not.`,
		Example: `  pq-dispatch config check -c pq-dispatch.yaml
  pq-dispatch config check -c pq-dispatch.yaml --offline --json`,
		Args: cobra.NoArgs,
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.keys.Offline, "offline", false, "do not look for programs and files on this machine")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object, also of a configuration with mistakes")
	cmd.RunE = a.do(func(context.Context, []string) error {
		c, warnings, err := config.Load(f.file(), &f.keys, os.Environ())
		if err == nil && !f.keys.Offline {
			warnings = append(warnings, c.Inspect()...)
		}
		if asJSON {
			if err := printJSON(a.stdout, newConfigReport(f.file(), c, warnings, err)); err != nil {
				return err
			}
		} else {
			a.warn(warnings)
		}
		if err != nil {
			return a.configError(&f, err)
		}
		if asJSON {
			return nil
		}
		return describe(a.stdout, cmp.Or(f.file(), "configuration"), c)
	})
	return cmd
}

// configReport is the outcome of config check as JSON.
type configReport struct {
	File     string           `json:"file"` // empty: none
	OK       bool             `json:"ok"`
	Mistakes []config.Finding `json:"mistakes"`
	Warnings []config.Finding `json:"warnings"`
	Queues   []queueReport    `json:"queues"`
}

type queueReport struct {
	Name    string `json:"name"`
	Handler string `json:"handler"` // http, exec or worker
	Target  string `json:"target"`  // the URL, or the program
}

func newConfigReport(file string, c *config.Config, warnings []config.Finding, err error) configReport {
	r := configReport{File: file, OK: err == nil, Mistakes: []config.Finding{}, Warnings: append([]config.Finding{}, warnings...), Queues: []queueReport{}}
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		r.Mistakes = wrong.Findings
	}
	if c != nil {
		for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
			q := c.Queues[name]
			r.Queues = append(r.Queues, queueReport{q.Name(name), q.Handler(), target(q)})
		}
	}
	return r
}

func target(q *config.Queue) string {
	switch {
	case q.HTTP != nil:
		return q.HTTP.URL.String()
	case q.Exec != nil:
		return q.Exec.Command[0]
	default:
		return q.Worker.Command[0]
	}
}

// describe prints what the daemon would do with a configuration.
func describe(w io.Writer, file string, c *config.Config) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ok\n", file)
	fmt.Fprintf(&b, "database %s, table %s.%s\n", cmp.Or(c.Database.URL.String(), c.Database.URLFile, "of PostgreSQL's own variables"), c.Database.Schema, c.Database.Table)
	if h := c.HTTP; h.Address != "" {
		serves := "probes, metrics"
		if h.Pprof {
			serves += ", profiles"
		}
		if h.API.Enabled {
			serves += ", API"
		}
		fmt.Fprintf(&b, "listens on %s: %s\n", h.Address, serves)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		q := c.Queues[name]
		does := map[string]string{"http": "sent to", "exec": "run by", "worker": "handed to"}[q.Handler()]
		if q.Worker != nil {
			does = fmt.Sprintf("handed to %d processes of", q.Worker.Processes)
		}
		fmt.Fprintf(&b, "queue %s: %s %s, %d at once\n", cell(q.Name(name)), does, target(q), cmp.Or(q.Slots(), c.Concurrency))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (a *app) configPrintCommand() *cobra.Command {
	var f configFlags
	var asJSON, sources bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration as it takes effect",
		Long: `Prints the configuration of all sources together with the defaults, as YAML. Secrets are masked: *** stands for
passwords, tokens, the values of variables, and the values of headers but some that are never secret.`,
		Example: `  pq-dispatch config print -c pq-dispatch.yaml
  pq-dispatch config print -c pq-dispatch.yaml --sources --log.level debug
  pq-dispatch config print -c pq-dispatch.yaml --json`,
		Args: cobra.NoArgs,
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.keys.Offline, "offline", false, "do not read files with secrets")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&sources, "sources", false, "say of each value where it was given")
	cmd.RunE = a.do(func(context.Context, []string) error {
		c, err := a.loadConfig(&f)
		if err != nil {
			return err
		}
		switch {
		case asJSON && sources:
			return printJSON(a.stdout, struct {
				Config  json.Marshaler    `json:"config"`
				Sources map[string]string `json:"sources"`
			}{c, c.Sources()})
		case asJSON:
			return printJSON(a.stdout, c)
		}
		_, err = io.WriteString(a.stdout, c.YAML(sources))
		return err
	})
	return cmd
}

func (a *app) configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the file, for editors",
		Long: `Prints the JSON Schema (draft 2020-12) of the configuration file. Editors with a YAML language server use it for
completion and help if the file's first line is: # yaml-language-server: $schema=pq-dispatch.schema.json`,
		Example: `  pq-dispatch config schema > pq-dispatch.schema.json`,
		Args:    cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) error {
			_, err := a.stdout.Write(config.Schema())
			return err
		}),
	}
}
