//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"os"
	"syscall"
)

// dieWithUs can do nothing here: a process outlives a kill -9 of this one, unless it reads its stdin.
func dieWithUs(*syscall.SysProcAttr) {}

// awaitEnd cannot leave a process to be reaped. For the time of a few instructions its id may be another's.
func awaitEnd(*os.Process) bool { return false }
