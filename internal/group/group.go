// Package group starts each process as the leader of a group, in which what it starts is as well, so that all of it can be
// ended together: by its owner, with the leader, or with this program.
//
// On Linux the kernel kills a leader when the thread that has started it ends, which it does with this program at the latest,
// by kill -9 too. Start one from a thread that stays: see [runtime.LockOSThread]. What the leader has started is not killed
// then, and nothing at all is killed on other systems.
package group

import (
	"errors"
	"os"
	"os/exec"
	"sync"
)

// ErrClosed is returned by Start after [Set.KillAll].
var ErrClosed = errors.New("not started: this program is about to end")

// Set is the groups that run. The zero value is one without any; it must not be copied.
type Set struct {
	mu      sync.Mutex
	closed  bool
	running map[*os.Process]bool
}

// Start starts a command as the leader of a group. Its owner calls [Set.End] when it has ended.
func (s *Set) Start(cmd *exec.Cmd) error {
	Isolate(cmd)
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if err := cmd.Start(); err != nil { // without the lock: a directory that does not answer holds it up
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		s.running = map[*os.Process]bool{}
	}
	s.running[cmd.Process] = true
	if s.closed { // meanwhile
		Kill(cmd.Process)
	}
	return nil
}

// End kills what a leader that has ended leaves behind. As long as that has not been waited for, no other process and no
// other group can have its id: see [AwaitEnd].
func (s *Set) End(leader *os.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	Kill(leader)
	delete(s.running, leader)
}

// Signal has send, which is [Terminate] or [Kill], signal the group, unless End was called. It tells whether it was still there.
func (s *Set) Signal(leader *os.Process, send func(leader *os.Process)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[leader] {
		send(leader)
	}
	return s.running[leader]
}

// KillAll kills all that run, and lets none start any more.
func (s *Set) KillAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for leader := range s.running {
		Kill(leader)
	}
}
