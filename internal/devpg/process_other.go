//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

// Windows and others: no accounts, no signals, no locks; PostgreSQL's own pg_ctl stops the server.

package devpg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

var exeSuffix = map[bool]string{true: ".exe"}[runtime.GOOS == "windows"]

type account struct{ name string }

func serviceAccount() (*account, error) { return nil, nil }

func (a *account) own(string) error { return nil }

func isolate(*exec.Cmd, *account) {}

func shutdown(c *cluster, mode Mode) error {
	output, err := c.command("pg_ctl", "stop", "-D", c.data(), "-m", string(mode), "--no-wait").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_ctl stop: %w:\n%s", err, output)
	}
	return nil
}

func kill(p *process) { _ = p.cmd.Process.Kill() }

// tryLock always fails, and so directories of killed processes are never swept.
func tryLock(*os.File) error { return errors.ErrUnsupported }
