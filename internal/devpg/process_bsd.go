//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import "syscall"

// dieWithParent can do nothing here. A postmaster left by a killed process ends within a minute of the
// removal of its directory: it looks for its postmaster.pid that often.
func dieWithParent(*syscall.SysProcAttr) {}
