//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package main

import "syscall"

// dieWithParent can do nothing here: a command outlives a kill -9 of this program.
func dieWithParent(*syscall.SysProcAttr) {}
