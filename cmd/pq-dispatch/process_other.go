//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

// Windows and others: no process groups and no SIGTERM; a command is killed, but not what it started.

package main

import (
	"os"
	"os/exec"
)

func isolate(*exec.Cmd) {}

func terminate(p *os.Process) error { return p.Kill() }

func killGroup(p *os.Process) { _ = p.Kill() }
