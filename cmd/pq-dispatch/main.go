// pq-dispatch is the job queue on the command line: it migrates the table, puts and gets jobs, runs a
// command for each of them, and says how the queues are. It holds no queue logic of its own.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// The exit codes. A command that a signal has cut off exits with 128 and the signal's number, as
// a shell would say it.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // flags, arguments or data are wrong: the same again fails again
	exitUnreachable = 3 // the database cannot be reached: the same again may work
	exitNoJob       = 4 // there is none: get has waited in vain, or show was given the id of none
)

// garbage is how much of it, as a percentage of what lives, is let be: a dispatcher's few MiB are collected half
// as often as by default, which saves a quarter of its time when it is busy.
const garbage = 200

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	// The default logger is that of the packages below where they are given no other. That a connection
	// listens, as get makes one do, is nothing to report.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code. The first SIGINT or SIGTERM ends the
// command in order, the second at once: of one that has more to do then than to be gone, the third.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)

	a := newApp(stdin, stdout, stderr)
	var hurryUp context.CancelFunc
	a.hurry, hurryUp = context.WithCancel(context.Background())
	defer hurryUp()
	code := make(chan int, 1)
	go func() { code <- a.execute(ctx, args) }()
	for {
		select {
		case code := <-code:
			return code
		case s := <-signals:
			reason := &interrupted{s}
			switch {
			case ctx.Err() == nil:
				cancel(reason)
			case a.hurries.Load() && a.hurry.Err() == nil:
				hurryUp()
			default:
				a.groups.KillAll()
				return reason.exitCode()
			}
		}
	}
}

// execute runs the command, prints its error, if any, as one line, and returns the exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if reason, ok := context.Cause(ctx).(*interrupted); ok &&
		(errors.Is(err, context.Canceled) || errors.Is(err, reason)) {
		a.say("%v", reason)
		return reason.exitCode()
	}
	text := oneLine(err.Error())
	for _, prefix := range []string{"daemon: ", "dispatcher: ", "demo: ", "store: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	_, wrongUse := errors.AsType[*usageError](err)
	code := exitCode(err)
	switch {
	case wrongUse || !a.running: // cobra looks through flags and arguments before the command runs
		code = exitUsage
		text += "; see '" + cmd.CommandPath() + " --help'"
	case errors.Is(err, store.ErrNotMigrated): // the store speaks to programs in Go, too
		text = strings.Replace(text, "call Store.Migrate or run `pq-dispatch migrate up`", "run '"+a.remedy()+"'", 1)
	case refusedLogin(err):
		text += "; check the user, the password and the name of the database (they are from " + a.source + ")"
	case code == exitUnreachable:
		text += "; check that the server runs and that its address is right (it is from " + a.source + ")"
	}
	a.say("%s", text)
	return code
}

// remedy is the command that migrates the table in question.
func (a *app) remedy() string {
	command := "pq-dispatch migrate up"
	if a.schema != defaultSchema {
		command += " --schema " + cell(a.schema)
	}
	if a.table != defaultTable {
		command += " --table " + cell(a.table)
	}
	return command
}

func exitCode(err error) int {
	_, usage := errors.AsType[*usageError](err)
	switch {
	case usage || wrongInput(err) || refusedLogin(err):
		return exitUsage
	case errors.Is(err, errNoJob):
		return exitNoJob
	case unreachable(err):
		return exitUnreachable
	}
	return exitFailed
}

// wrongInput tells whether an error is about what the caller has given.
func wrongInput(err error) bool {
	for _, kind := range []error{
		store.ErrName, store.ErrQueueName, store.ErrCodec, store.ErrData, store.ErrTooLarge, store.ErrTime,
		store.ErrState, store.ErrCursor,
		dispatcher.ErrConfig,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// refusedLogin tells whether the server is there, and does not know the user or the database, or the password is
// wrong: the same address fails again.
func refusedLogin(err error) bool {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(refusal.Code, "28") || refusal.Code == "3D000") // authorization; no such database
}

// unreachable tells whether no session with the server came about, or it broke, for a reason that may
// pass.
func unreachable(err error) bool {
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case strings.HasPrefix(refusal.Code, "08"), // connection exception
			strings.HasPrefix(refusal.Code, "57P"), // shutting down, starting up, crashed
			refusal.Code == "53300":                // too many connections
			return true
		}
		return false
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[*net.OpError](err)
	return connecting || network || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}

// usageError is a mistake in the flags or arguments that cobra could not see.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// interrupted is the cause of a context that a signal has ended.
type interrupted struct{ signal os.Signal }

func (i *interrupted) Error() string { return "stopped by signal: " + i.signal.String() }

func (i *interrupted) exitCode() int {
	number, _ := i.signal.(syscall.Signal)
	return 128 + int(number)
}

// oneLine makes any text one line without control characters, which a job's data or a server's answer
// could bring to the terminal. Of equal lines, such as pgx has for an attempt with and one without TLS, it
// keeps one.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) })
		if len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(slices.Compact(lines), " ")
}
