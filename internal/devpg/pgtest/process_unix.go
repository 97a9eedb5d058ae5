//go:build unix

// What a test starts beside the server ends with it.

package pgtest

import (
	osexec "os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/pq-dispatch/pq-dispatch/internal/group"
)

// Start starts a program that ends with the test, or with the test binary. The channel is closed when it has. On Linux the
// kernel ends a child when the thread that has started it ends, so a goroutine keeps that.
func Start(t testing.TB, cmd *osexec.Cmd) (ended chan struct{}) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	group.DieWithUs(cmd.SysProcAttr)
	ended = make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	return ended
}
