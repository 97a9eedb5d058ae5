// man: the manual, a page for each command, made from the commands themselves.
//
// It is written as roff here and not by cobra/doc, which takes the help texts for Markdown: their tables would be
// filled as paragraphs, and a * or < in them be markup.

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) manCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Writes the manual pages of all commands into the directory, which is created if it is not there, and prints the names
of the files. They are the texts of --help, together with the environment, the files and the exit codes.`,
		Example: `  pq-dispatch man /usr/local/share/man/man1
  pq-dispatch man man1 && man ./man1/pq-dispatch-work.1`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array with the names")
	cmd.RunE = a.do(func(_ context.Context, args []string) error {
		names, err := a.writeManual(args[0])
		switch {
		case err != nil:
			return err
		case asJSON:
			return printJSON(a.stdout, names)
		}
		_, err = fmt.Fprintln(a.stdout, strings.Join(names, "\n"))
		return err
	})
	return cmd
}

func (a *app) writeManual(dir string) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("man: %w", err)
	}
	for _, cmd := range documented(a.manualRoot()) {
		name := filepath.Join(dir, pageName(cmd)+".1")
		if err := os.WriteFile(name, []byte(manPage(cmd)), 0o644); err != nil {
			return names, fmt.Errorf("man: %w", err)
		}
		names = append(names, name)
	}
	return names, nil
}

// manualRoot is a root command with all that cobra adds when it runs.
func (a *app) manualRoot() *cobra.Command {
	root := newApp(a.stdin, a.stdout, a.stderr).rootCommand()
	root.InitDefaultCompletionCmd()
	return root
}

// documented are a command and all below it that users are told of.
func documented(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			all = append(all, documented(c)...)
		}
	}
	return all
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// definition is a word and what it means.
type definition struct{ name, text string }

var (
	exitStatus = []definition{
		{"0", "Done."},
		{"1", "Failed; doctor: a problem was found."},
		{"2", "Wrong flags, arguments, data or configuration, or a user, password or database that the server does not know: the same again fails again."},
		{"3", "The database cannot be reached: the same again may work."},
		{"4", "There is no job to get or show."},
		{"128+N", "Signal N has cut the command off."},
	}
	environment = []definition{
		{envURL, "The address of the database, if --database-url is not given."},
		{envURLFile, "A file that holds it, instead."},
		{envAnyURL, "The same, if neither of these is set."},
		{envDirectURL, "The address of the same database past a pooler, if --direct-url is not given."},
		{envSchema + ", " + envTable, "The names of the queue table's schema and of the table, if --schema and --table are not given."},
		{"PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGPASSFILE, PGSERVICE, ...", "PostgreSQL's own, for what the address does not say."},
		{"PQ_DISPATCH_CONFIG", "The configuration of the daemon, if -c is not given."},
		{"PQ_DISPATCH_...", "Each key of the configuration, such as PQ_DISPATCH_LOG_LEVEL; see 'pq-dispatch config'."},
		{"OTEL_...", "Where the daemon sends traces and metrics; see the specification of OpenTelemetry."},
		{"NO_COLOR", "If it is set, top uses no colors."},
	}
	files = []definition{
		{"pq-dispatch.yaml", "The configuration of the daemon, wherever -c says."},
		{"~/.pgpass", "Passwords, as PostgreSQL's programs read them."},
		{"~/.pg_service.conf", "Addresses by name, for PGSERVICE."},
	}
)

// manPage is the page of a command.
func manPage(cmd *cobra.Command) string {
	var r roff
	// No date: the same source makes the same page.
	r.line(`.TH "%s" "1" "" "pq\-dispatch" "User Commands"`, roffText(strings.ToUpper(pageName(cmd))))
	r.section("NAME")
	r.line(`%s \- %s`, roffText(pageName(cmd)), roffText(cmd.Short))
	r.section("SYNOPSIS")
	r.line(`.B "%s"`, strings.ReplaceAll(roffText(cmd.UseLine()), `"`, `\(dq`))
	r.section("DESCRIPTION")
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	r.prose(long)

	var below []definition
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			below = append(below, definition{c.Name(), c.Short})
		}
	}
	r.terms("COMMANDS", below)
	cmd.InitDefaultHelpFlag()
	r.terms("OPTIONS", flagTerms(cmd.NonInheritedFlags()))
	r.terms("GLOBAL OPTIONS", flagTerms(cmd.InheritedFlags()))
	if !cmd.HasParent() {
		r.terms("EXIT STATUS", exitStatus)
		r.terms("ENVIRONMENT", environment)
		r.terms("FILES", files)
	}
	if cmd.Example != "" {
		r.section("EXAMPLES")
		r.verbatim(cmd.Example)
	}

	var see []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			see = append(see, reference(c))
		}
	}
	for parent := cmd.Parent(); parent != nil; parent = parent.Parent() {
		text := reference(parent)
		if !parent.HasParent() {
			text += " (the environment, the files and the exit codes)"
		}
		see = append(see, text)
	}
	r.section("SEE ALSO")
	r.line("%s", strings.Join(see, ",\n"))
	return r.String()
}

func reference(cmd *cobra.Command) string { return `\fB` + roffText(pageName(cmd)) + `\fR(1)` }

func flagTerms(flags *pflag.FlagSet) (terms []definition) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + value
		}
		if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" && !strings.Contains(usage, "(default") {
			usage += " (default " + d + ")"
		}
		terms = append(terms, definition{name, usage})
	})
	return terms
}

// roff is a manual page in the making.
type roff struct{ strings.Builder }

func (r *roff) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

func (r *roff) section(name string) { r.line(".SH %s", name) }

func (r *roff) terms(name string, terms []definition) {
	if len(terms) == 0 {
		return
	}
	r.section(name)
	for _, t := range terms {
		r.line(".TP\n\\fB%s\\fR\n%s", roffText(t.name), roffText(t.text))
	}
}

// prose writes paragraphs. One with an indented line, or with columns, stays as it is.
func (r *roff) prose(text string) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			r.line(".PP")
		}
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") || strings.Contains(paragraph, "  ") {
			r.verbatim(paragraph)
		} else {
			r.line("%s", roffText(paragraph))
		}
	}
}

func (r *roff) verbatim(text string) { r.line(".nf\n%s\n.fi", roffText(strings.TrimRight(text, "\n"))) }

// roffText takes from a text all that roff would read otherwise: its escape character, hyphens that are to be typed,
// and at the start of a line what makes it a request.
func roffText(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\t", "    ").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
