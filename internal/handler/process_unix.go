//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"os"
	"os/exec"
	"syscall"
)

// isolate gives the process a group of its own, so that it can be ended with all that it starts, and a
// Ctrl-C in the terminal reaches us alone.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithUs(cmd.SysProcAttr)
}

// An error means that the group has ended, or belongs to somebody else by now: nothing to do about either.
func terminateGroup(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGTERM) }

func killGroup(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }
