// One run of a job's command: its input, its environment, and its end.

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
)

const (
	// killDelay is how long a command has from SIGTERM to SIGKILL: less than the 5 s that a stopping
	// dispatcher waits for handlers whose contexts have ended.
	killDelay = 4 * time.Second

	// drainTime is how long to read on after a command and its group have ended. Only a process that
	// has left the group can still hold the pipe.
	drainTime = time.Second

	maxTail = 4 << 10 // bytes of standard error that are kept with a failed job
)

// command is the [dispatcher.Handler] that runs a command.
type command struct {
	path           string
	args, env      []string
	stdout, stderr io.Writer
	groups         *group.Set
	activity       activity
}

// Handle runs the command once.
func (c *command) Handle(ctx context.Context, job *dispatcher.Job) error {
	c.activity.started.Add(1)
	c.activity.running.Add(1)
	defer c.activity.running.Add(-1)
	// Linux kills a child when the thread that has started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Cancel = func() error {
		if !c.groups.Signal(cmd.Process, group.Terminate) {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = killDelay
	cmd.Env = slices.Concat(c.env, []string{
		"PQ_DISPATCH_JOB_ID=" + strconv.FormatInt(job.ID, 10),
		"PQ_DISPATCH_QUEUE=" + job.Queue,
		"PQ_DISPATCH_TASK=" + job.Task,
		"PQ_DISPATCH_ATTEMPT=" + strconv.Itoa(job.Attempt)})
	cmd.Stdout = c.stdout

	// With pipes of our own, Wait waits for the command only, not for whoever else holds them.
	input, err := cmd.StdinPipe() // closed by Wait
	if err != nil {
		return err
	}
	output, w, err := os.Pipe()
	if err != nil {
		return errors.Join(err, input.Close())
	}
	defer output.Close()
	cmd.Stderr = w
	err = c.groups.Start(cmd)
	w.Close()
	if err != nil {
		return errors.Join(err, input.Close())
	}

	var tail tail
	var pipes sync.WaitGroup
	pipes.Go(func() {
		_, _ = input.Write(append(slices.Clip(job.Data), '\n')) // a command need not read it
		_ = input.Close()
	})
	pipes.Go(func() { _, _ = io.Copy(io.MultiWriter(&tail, c.stderr), output) })

	// While it has ended but has not been reaped, no other process and no other group can have its id.
	unreaped := group.AwaitEnd(cmd.Process)
	if unreaped {
		c.groups.End(cmd.Process)
	}
	err = cmd.Wait()
	if !unreaped {
		c.groups.End(cmd.Process)
	}
	_ = output.SetReadDeadline(time.Now().Add(drainTime))
	pipes.Wait()
	if err == nil {
		return nil
	}
	status := cmd.ProcessState.String()
	if cmd.ProcessState.Success() {
		status += ", after it was told to stop" // so it may have left the job half done
	}
	return &failure{status: status, stderr: tail.String()}
}

// failure is how a command has ended that did not do its job.
type failure struct{ status, stderr string }

func (f *failure) Error() string {
	if f.stderr == "" {
		return f.status
	}
	return f.status + ": " + f.stderr
}

// tail keeps the end of what is written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p[max(0, len(p)-maxTail):]...)
	t.data = t.data[max(0, len(t.data)-maxTail):]
	return len(p), nil
}

func (t *tail) String() string {
	return strings.ToValidUTF8(strings.TrimSpace(string(t.data)), "\uFFFD")
}

// ownEnvironment leaves out the variables that are about this program, the database's address among them.
func ownEnvironment(all []string) []string {
	var env []string
	for _, variable := range all {
		if !strings.HasPrefix(variable, "PQ_DISPATCH_") {
			env = append(env, variable)
		}
	}
	return env
}

// lockedWriter keeps the writes of several goroutines apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
