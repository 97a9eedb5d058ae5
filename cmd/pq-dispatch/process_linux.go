package main

import "syscall"

// dieWithParent makes the kernel kill the command when this program ends, kill -9 included.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
