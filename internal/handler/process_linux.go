package handler

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithUs makes the kernel kill the process when we end, by kill -9 too. What it has started itself is
// not killed then: no signal is sent to a group of processes whose leader has died. See docs/handlers.md.
func dieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// awaitEnd returns when the process has ended, but leaves it to be reaped, if the system can do that.
func awaitEnd(p *os.Process) bool {
	for {
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}
