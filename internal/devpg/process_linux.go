package devpg

import "syscall"

// dieWithParent makes the kernel send SIGQUIT, an immediate shutdown, when the thread that starts the
// process ends: at the latest with us, kill -9 included.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }
