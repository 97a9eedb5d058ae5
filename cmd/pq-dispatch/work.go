// work: a dispatcher that runs a command for each job.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// workFlags are the flags of work.
type workFlags struct {
	concurrency, maxAttempts positive
	timeout, retryIn, grace  delay
	untilEmpty               bool
	retryInSet               bool
}

func (a *app) workCommand() *cobra.Command {
	f := workFlags{
		concurrency: positive(runtime.GOMAXPROCS(0)),
		maxAttempts: 25,
		grace:       delay{text: "30s", Duration: 30 * time.Second},
	}
	cmd := &cobra.Command{
		Use: "work QUEUE... [flags] -- COMMAND [ARG...]",
		// What stands after -- belongs to the command, so flags are not to be looked for at the end.
		DisableFlagsInUseLine: true,
		Short:                 "Run a command for each job",
		Long: `Runs the command for each job of the queues, as soon as it is due. The command gets the job's data on its
standard input, as one line of JSON, and in its environment, beside this program's own without the
variables named PQ_DISPATCH_...:

  PQ_DISPATCH_JOB_ID, PQ_DISPATCH_QUEUE, PQ_DISPATCH_TASK (empty: none), PQ_DISPATCH_ATTEMPT (from 1)

If it exits with 0 the job is done. Else the job is tried again later, and when it is out of attempts it
is set aside; the end of the command's standard error is kept with the job. No shell is involved; to have
one, make it the command: -- sh -c '...'.

The command runs in a process group of its own. When its time is over, or this program is told to stop
and the grace is over, the group gets SIGTERM, and SIGKILL 4 s later. What the command leaves running in
its group when it exits is killed. A job is run at least once: a command may meet one that an earlier run
has half done.`,
		Example: `  pq-dispatch work apples -- ./eat --with knife
  pq-dispatch work apples pears --concurrency 4 --timeout 5m -- python3 eat.py
  pq-dispatch work apples --until-empty -- sh -c 'jq -r .kind'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case dash < 0:
				return errors.New("work: write -- between the queues and the command")
			case dash == 0:
				return errors.New("work: no queue is named before --")
			case dash == len(args):
				return errors.New("work: no command stands after --")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.Var(&f.concurrency, "concurrency", "how many commands run at once")
	flags.Var(&f.timeout, "timeout", "how long a command may run (default: no limit)")
	flags.Var(&f.maxAttempts, "max-attempts", "how often a job may run before it is set aside, if it does not say itself")
	flags.Var(&f.retryIn, "retry-in", "time from a failure to the next run (default: 1s, doubled each time, up to 1h)")
	flags.Var(&f.grace, "grace", "how long commands may go on after SIGINT or SIGTERM")
	flags.BoolVar(&f.untilEmpty, "until-empty", false, "end when no job is due or running")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		f.retryInSet = flags.Changed("retry-in")
		dash := cmd.ArgsLenAtDash()
		return a.work(ctx, jobs, &f, args[:dash], args[dash:])
	})
	return cmd
}

func (a *app) work(ctx context.Context, jobs *store.Store, f *workFlags, queues, argv []string) error {
	for _, name := range queues {
		if err := plainName(jobs.Queue(name), name); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return &usageError{"work: " + err.Error()}
	}
	if err := a.reach(ctx, jobs); err != nil {
		return err
	}
	stderr := &lockedWriter{w: a.stderr} // the log and all commands write to it
	handler := &command{
		path: path, args: argv[1:], env: ownEnvironment(os.Environ()),
		stdout: a.stdout, stderr: stderr, groups: &a.groups,
	}
	d := dispatcher.New(jobs, f.options(stderr))
	for _, name := range queues {
		d.HandleAll(name, handler)
	}
	defer a.groups.KillAll() // there is none left, unless Run gave one up
	if !f.untilEmpty {
		return d.Run(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		untilEmpty(ctx, jobs, queues, &handler.activity)
		stop()
	}()
	err = d.Run(ctx)
	stop()
	<-watched
	return err
}

// reach says at once what a dispatcher would wait for to pass: a wrong address, a server that is down.
func (a *app) reach(ctx context.Context, jobs *store.Store) error {
	if err := jobs.CheckSchema(ctx); err != nil {
		return err
	}
	a.source = a.directSource
	conn, err := jobs.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect for the dispatcher's session: %w", err)
	}
	return conn.Close(ctx)
}

func (f *workFlags) options(log io.Writer) dispatcher.Options {
	o := dispatcher.Options{
		Concurrency: int(f.concurrency),
		Grace:       max(f.grace.Duration, time.Nanosecond), // 0 would mean the default
		Queue:       dispatcher.QueueOptions{Timeout: f.timeout.Duration, MaxAttempts: int(f.maxAttempts)},
		Logger:      slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: withoutStderr})),
	}
	if f.retryInSet {
		o.Queue.Retry = retry.Fixed(f.retryIn.Duration)
	}
	return o
}

// withoutStderr leaves out of the log what a failed command has written: it was passed through already.
func withoutStderr(_ []string, attr slog.Attr) slog.Attr {
	if err, ok := attr.Value.Any().(error); ok {
		if failure, ok := errors.AsType[*failure](err); ok {
			return slog.String(attr.Key, failure.status)
		}
	}
	return attr
}

// activity is what a handler tells of itself.
type activity struct {
	started atomic.Int64 // runs, in all
	running atomic.Int64 // now
}

// idleInterval is how often an idle worker looks whether it may end.
const idleInterval = 200 * time.Millisecond

// untilEmpty returns when the worker has been idle for a while and no job of the queues is due, or ctx ends.
func untilEmpty(ctx context.Context, jobs *store.Store, queues []string, worker *activity) {
	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	for started := int64(-1); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		before := started
		started = worker.started.Load()
		if started != before || worker.running.Load() > 0 {
			continue
		}
		due := slices.ContainsFunc(queues, func(name string) bool {
			n, err := jobs.Queue(name).Len(ctx)
			return n > 0 || err != nil // the dispatcher, too, waits for a database that has gone
		})
		if !due {
			return
		}
	}
}
