//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package group

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// family starts a shell and its child, both deaf to SIGTERM, and returns the number of the child.
func family(t *testing.T, s *Set) (cmd *exec.Cmd, child int) {
	t.Helper()
	cmd = exec.Command("/bin/sh", "-c", `trap '' TERM; sleep 1000 & echo $!; wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	if child, err = strconv.Atoi(lines.Text()); err != nil {
		t.Fatal(err)
	}
	return cmd, child
}

// ends waits for the end of a process that is nobody's child here.
func ends(t *testing.T, pid int) {
	t.Helper()
	deadline, tick := time.NewTimer(time.Minute), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("process %d has not ended", pid)
		}
	}
}

func TestKillAllEndsWhatRunsWithWhatItHasStartedAndLetsNothingStart(t *testing.T) {
	var s Set
	one, child := family(t, &s)
	other, otherChild := family(t, &s)
	if !s.Signal(one.Process, Terminate) {
		t.Error("got no group to signal, want the one that runs")
	}
	s.KillAll()
	for _, cmd := range []*exec.Cmd{one, other} {
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("got %v, want it killed", err)
		}
	}
	ends(t, child)
	ends(t, otherChild)
	if err := s.Start(exec.Command("/bin/true")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
}

func TestWhatALeaderLeavesBehindEndsAndIsNotSignalledAgain(t *testing.T) {
	var s Set
	cmd, child := family(t, &s)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	unreaped := AwaitEnd(cmd.Process)
	if !unreaped {
		_ = cmd.Wait()
	}
	if syscall.Kill(child, 0) != nil {
		t.Fatalf("the child has ended with the leader: the test has shown nothing")
	}
	s.End(cmd.Process)
	if unreaped {
		_ = cmd.Wait()
	}
	ends(t, child)
	if s.Signal(cmd.Process, func(*os.Process) { t.Error("a signal was sent to a group that has ended") }) {
		t.Error("got a group to signal, want none")
	}
}
