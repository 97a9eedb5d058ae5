//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

// Process groups and signals, where the system is a Unix.

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// isolate gives the command a process group: a Ctrl-C in the terminal reaches us alone, and what the
// command starts can be ended with it.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
}

// terminate asks the group to end.
func terminate(leader *os.Process) error {
	if err := syscall.Kill(-leader.Pid, syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return os.ErrProcessDone
}

// killGroup ends the group, if any of it is left. The leader may have been waited for: while one process
// of the group lives, the system gives its number to no other.
func killGroup(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }
