package handler

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestNoProgramOutlivesAKilledDaemon(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(self)
	daemon.Env = append(os.Environ(), childVariable+"=daemon", "PIDS="+dir)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill() })
	const all = 4 // itself, a program, two workers
	eventually(t, "all run", func() bool { return len(notedPIDs(t, dir)) == all })
	if err := daemon.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	allEnd(t, dir, all)
}
