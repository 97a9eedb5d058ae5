//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package group

import (
	"os"
	"os/exec"
	"syscall"
)

// Isolate has the command lead a group once it is started. A Ctrl-C in the terminal reaches us alone.
func Isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	DieWithUs(cmd.SysProcAttr)
}

// Terminate asks the group to end. An error would mean that it has, or belongs to somebody else by now: nothing to do about
// either.
func Terminate(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGTERM) }

// Kill ends the group, if any of it is left. While one process of it lives, the system gives its number to no other.
func Kill(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }
