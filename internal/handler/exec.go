// Jobs run by a program that is started for each of them.

package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

// ExecOptions say what is started for each job. Only Program.Command is required.
type ExecOptions struct {
	Program

	// MaxOutput is how many bytes of a run's stdout are kept, for the log. Zero means 64 KiB.
	MaxOutput int

	// MaxAttempts is what jobs without a number of their own are said to have. Zero: nothing is said.
	MaxAttempts int

	// Logger is where the stdout of runs goes, at level debug, with the job's id: it should tell the queue itself. Nil means slog.Default().
	Logger *slog.Logger
}

const defaultMaxOutput = 64 << 10

// The exit codes with a meaning, of sysexits.h.
const (
	exitDone    = 0
	exitDiscard = 65 // EX_DATAERR
)

// Exec runs each job by a process of its own.
type Exec struct {
	options ExecOptions
	log     *slog.Logger
	env     []string
	spawner *spawner
	runs    *runs
}

// NewExec checks the options and returns the handler.
func NewExec(o ExecOptions) (*Exec, error) {
	err := errors.Join(o.check(),
		atLeastZero("MaxOutput", &o.MaxOutput, defaultMaxOutput),
		atLeastZero("MaxAttempts", &o.MaxAttempts, 0))
	if err != nil {
		return nil, fmt.Errorf("handler: exec: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Exec{options: o, log: o.Logger, env: o.environment(), spawner: newSpawner(o.Groups), runs: newRuns()}, nil
}

// Handle runs the program once. When ctx ends first, the program and what it has started get SIGTERM, and
// SIGKILL after KillAfter; that is an error, whatever the program makes of it.
func (e *Exec) Handle(ctx context.Context, job *dispatcher.Job) error {
	ctx, leave, ok := e.runs.enter(ctx)
	if !ok {
		return dispatcher.Snooze(closedDelay)
	}
	defer leave()
	p, err := e.spawner.start(e.options.command(e.env, environmentOf(ctx, job, e.options.MaxAttempts)))
	if err != nil {
		return fmt.Errorf("handler: start: %w", err)
	}
	defer p.release()
	stdout, stderr := head{limit: e.options.MaxOutput}, tail{limit: maxTail}
	var pipes sync.WaitGroup
	pipes.Go(func() {
		_, _ = p.stdin.Write(data(job)) // it need not read it
		_ = p.stdin.Close()
	})
	pipes.Go(func() { _, _ = io.Copy(&stdout, p.stdout) })
	pipes.Go(func() { _, _ = io.Copy(&stderr, p.stderr) })

	stopped := false
	select {
	case <-p.ended:
	case <-ctx.Done():
		stopped = p.stop(e.options.patience(ctx), e.runs.hurry.Done())
	}
	pipes.Wait()
	if stdout.size > 0 {
		e.log.Debug("output of a job", "job", job.ID, "pid", p.pid(), "bytes", stdout.size, "stdout", printable(stdout.kept))
	}
	switch code := p.cmd.ProcessState.ExitCode(); {
	case stopped: // so it may have left the job half done, even if it says otherwise
		return fmt.Errorf("handler: stopped: %s", p.failure(&stderr))
	case code == exitDone:
		return nil
	case code == exitDiscard:
		return dispatcher.Discard(p.failure(&stderr))
	}
	return errors.New(p.failure(&stderr))
}

// environmentOf is what the program's environment says about the job.
func environmentOf(ctx context.Context, job *dispatcher.Job, maxAttempts int) (env []string) {
	for _, f := range facts(job, maxAttempts) {
		env = append(env, variablePrefix+strings.ToUpper(f.name)+"="+f.value)
	}
	for key, value := range traceOf(ctx, job) {
		env = append(env, strings.ToUpper(key)+"="+value)
	}
	return env
}

// Close waits for the programs that run until ctx ends, then kills them. Those that are stopping are
// killed then, too.
func (e *Exec) Close(ctx context.Context) error {
	return e.runs.close(ctx, e.spawner.close)
}
