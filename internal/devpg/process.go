// A child process, started so that it dies with us.

package devpg

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// process is a running command, waited for by a goroutine that ends with it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; read after done is closed
}

// launch starts cmd. On Linux the kernel signals a child when the *thread* that started it ends, so
// the goroutine that starts it keeps its thread for as long as the child lives.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(started)
	return p, <-started
}

func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// running reports whether p was started and has not ended.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// run runs a command to its end and returns its output, of which an error quotes the end. When ctx
// ends first, the command is killed.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second // for a child of its that outlives it and holds the output open
	p, err := launch(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
		err = p.err
	case <-ctx.Done():
		kill(p)
		<-p.done
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
		if said := lastLines(output.String(), 15); said != "" {
			err = fmt.Errorf("%w:\n%s", err, said)
		}
		return "", err
	}
	return output.String(), nil
}

// lastLines returns the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
