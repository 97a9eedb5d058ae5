package group

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// DieWithUs has the kernel kill a process when the thread that starts it ends, at the latest with us.
func DieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// AwaitEnd returns when the leader has ended, but leaves it to be waited for. It is false if the system cannot do that.
func AwaitEnd(leader *os.Process) bool {
	for {
		err := unix.Waitid(unix.P_PID, leader.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}
