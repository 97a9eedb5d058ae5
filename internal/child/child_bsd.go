//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package child

import "syscall"

// dieWithParent can do nothing here. The process finds the end of its stdin.
func dieWithParent(*syscall.SysProcAttr) {}
