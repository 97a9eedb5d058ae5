//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

// Accounts, signals and locks where the system is a Unix.

package devpg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

const exeSuffix = ""

// account is the user that PostgreSQL runs as when we are root, which it refuses to be.
type account struct {
	name     string
	uid, gid int
}

// serviceAccount is nil for a plain user.
func serviceAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			errs = append(errs, err)
			continue
		}
		return &account{name, uid, gid}, nil
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no other user to run it as; run this as a plain user: %w", errors.Join(errs...))
}

// own gives a file to the account; a nil account leaves it with us.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// isolate makes cmd run as a, in a process group of its own, so that a Ctrl-C in the terminal reaches
// us alone and we stop the server in order, and makes it die with us where the system can do that.
func isolate(cmd *exec.Cmd, a *account) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	dieWithParent(cmd.SysProcAttr)
}

// shutdown asks the postmaster to end; its signals are those of pg_ctl.
func shutdown(c *cluster, mode Mode) error {
	signal := syscall.SIGINT
	if mode == Immediate {
		signal = syscall.SIGQUIT
	}
	if err := c.postmaster.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// kill ends a process and those of its group. Server processes leave the postmaster's group; they
// end by themselves when it is gone.
func kill(p *process) {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// tryLock takes the file's lock, unless another open of the file has it. The kernel releases it when
// the last process that has it open ends, whichever way.
func tryLock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
