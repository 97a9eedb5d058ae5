//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

// Windows and others: no process groups and no SIGTERM. A process is killed, what it started is not.

package group

import (
	"os"
	"os/exec"
)

// Isolate does nothing.
func Isolate(*exec.Cmd) {}

// AwaitEnd cannot leave a process to be waited for.
func AwaitEnd(*os.Process) bool { return false }

// Terminate kills the leader.
func Terminate(leader *os.Process) { _ = leader.Kill() }

// Kill kills the leader.
func Kill(leader *os.Process) { _ = leader.Kill() }
