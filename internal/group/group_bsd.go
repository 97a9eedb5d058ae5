//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package group

import (
	"os"
	"syscall"
)

// DieWithUs can do nothing here: a process outlives a kill -9 of this one, unless it reads its stdin.
func DieWithUs(*syscall.SysProcAttr) {}

// AwaitEnd cannot leave a process to be waited for. For the time of a few instructions its id may be another's.
func AwaitEnd(*os.Process) bool { return false }
