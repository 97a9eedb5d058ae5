package child

import "syscall"

// dieWithParent makes the kernel kill the process when the thread that starts it ends, at the latest
// with us. It would find the end of its stdin by itself, unless it hangs.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
