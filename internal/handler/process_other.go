//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

// Windows and others: no process groups and no SIGTERM. A process is killed, what it started is not.

package handler

import (
	"os"
	"os/exec"
)

func isolate(*exec.Cmd) {}

func awaitEnd(*os.Process) bool { return false }

func terminateGroup(leader *os.Process) { _ = leader.Kill() }

func killGroup(leader *os.Process) { _ = leader.Kill() }
