//go:build unix

package main

import "syscall"

// suspend, resume and terminate send a process the signals that do that. One that has ended is no error.
func suspend(pid int)   { _ = syscall.Kill(pid, syscall.SIGSTOP) }
func resume(pid int)    { _ = syscall.Kill(pid, syscall.SIGCONT) }
func terminate(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// quit has a server end as in a crash.
func quit(pid int) { _ = syscall.Kill(pid, syscall.SIGQUIT) }

// killServerProcess kills a process of a server, which we may if we are root or the server runs as we do.
func killServerProcess(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }

const signals = "" // what is missing for them
