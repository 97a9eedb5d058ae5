// One process and those that it starts, from the fork to the end of the last.

package handler

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/group"
)

const (
	// drainTime is how long to read on after a process and its group have ended. Only a process that
	// has left the group can still hold the pipes.
	drainTime = time.Second

	maxTail = 2 << 10 // bytes of what a program has last said on stderr that an error holds
)

// spawner starts processes, all on one thread of its own. On Linux the kernel kills a child whose
// Pdeathsig is set when the *thread* that has forked it ends, and Go ends threads as it likes: each on
// which a goroutine returns that has locked it. This one stays until close, which comes after the
// children have ended; or it ends with the program, for whatever reason, and so do they.
type spawner struct {
	groups *group.Set
	starts chan start
	ended  chan struct{}
}

type start struct {
	cmd    *exec.Cmd
	result chan error
}

func newSpawner(groups *group.Set) *spawner {
	s := &spawner{groups: groups, starts: make(chan start), ended: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	defer close(s.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // a thread that is not locked any more lives on
	for request := range s.starts {
		request.result <- s.groups.Start(request.cmd)
	}
}

// close ends the spawner's goroutine. No process may be started any more.
func (s *spawner) close() {
	close(s.starts)
	<-s.ended
}

// process is a child that has been started. It leads a process group: what it starts belongs to it, and
// is killed at the latest when it has ended.
type process struct {
	stdin          *os.File // to write
	stdout, stderr *os.File // to read; they end a little after the process, whoever else holds them
	ended          chan struct{}

	cmd    *exec.Cmd
	groups *group.Set // in which it is until it has ended
}

// start starts the process. The caller reads stdout and stderr to their ends, waits for ended, and calls
// release.
func (s *spawner) start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, groups: s.groups, ended: make(chan struct{})}
	var theirs [3]*os.File
	var errs [3]error
	theirs[0], p.stdin, errs[0] = os.Pipe()
	p.stdout, theirs[1], errs[1] = os.Pipe()
	p.stderr, theirs[2], errs[2] = os.Pipe()
	err := errors.Join(errs[:]...)
	if err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
		request := start{cmd: cmd, result: make(chan error)}
		s.starts <- request
		err = <-request.result
	}
	for _, f := range theirs {
		f.Close() // of a nil file too
	}
	if err != nil {
		p.release()
		return nil, err
	}
	go p.wait()
	return p, nil
}

// wait waits for the end of the process and ends what it leaves behind.
func (p *process) wait() {
	defer close(p.ended)
	// While it has ended but has not been reaped, no other process and no other group can have its id.
	unreaped := group.AwaitEnd(p.cmd.Process)
	if !unreaped {
		_ = p.cmd.Wait()
	}
	p.groups.End(p.cmd.Process)
	if unreaped {
		_ = p.cmd.Wait() // how it has ended is in cmd.ProcessState
	}
	_ = p.stdin.Close()
	deadline := time.Now().Add(drainTime)
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
}

// release closes the pipes.
func (p *process) release() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		f.Close()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// signal sends the group a signal, unless it has ended. It tells whether it was still there.
func (p *process) signal(send func(*os.Process)) bool { return p.groups.Signal(p.cmd.Process, send) }

// stop asks the group to end, kills it when it has not within that time or when hurry is closed, and
// returns when it has ended. Without patience it is killed at once. needed is false when it had ended before.
func (p *process) stop(patience time.Duration, hurry <-chan struct{}) (needed bool) {
	if patience > 0 {
		needed = p.signal(group.Terminate)
		if p.await(patience, hurry) {
			return needed
		}
	}
	needed = p.signal(group.Kill) || needed
	<-p.ended
	return needed
}

// await returns when the process has ended, or when the time is over or hurry is closed: then with false.
func (p *process) await(patience time.Duration, hurry <-chan struct{}) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
	case <-hurry:
	}
	return false
}

// failure is how a program has ended that did not do its job, and what it said last on stderr.
func (p *process) failure(stderr *tail) string {
	status := p.cmd.ProcessState.String()
	if said := stderr.String(); said != "" {
		return status + ": " + said
	}
	return strings.TrimSpace(status)
}
