//go:build unix

package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const patience = 60 * time.Second

// manager is systemd's end of the socket.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "pq") // short: a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return socket
}

func hear(t *testing.T, socket *net.UnixConn) string {
	t.Helper()
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 4096)
	n, err := socket.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	return string(message[:n])
}

func TestSystemdIsToldTheState(t *testing.T) {
	socket, s := manager(t), Systemd{Log: discard}
	monotonic := `\nMONOTONIC_USEC=\d+`
	if runtime.GOOS != "linux" {
		monotonic = ".*"
	}
	for _, test := range []struct {
		tell func()
		want string
	}{
		{func() { s.Ready("handling 3 queues") }, `READY=1\nSTATUS=handling 3 queues`},
		{func() { s.Status("two\nREADY=1 lines") }, `STATUS=two READY=1 lines`},
		{s.Reloading, `RELOADING=1` + monotonic},
		{func() { s.Stopping("draining") }, `STOPPING=1\nSTATUS=draining`},
	} {
		test.tell()
		if got := hear(t, socket); !regexp.MustCompile("^" + test.want + "$").MatchString(got) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestWithoutSystemdNothingIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	s := Systemd{} // to log would panic
	s.Ready("up")
	s.Stopping("down")
	err := s.Watchdog(t.Context(), func(context.Context) error {
		t.Error("got a question, want none")
		return nil
	})
	if err != nil {
		t.Errorf("got %v, want no watchdog and no error", err)
	}
}

func TestTheWatchdogHearsOfALoopThatAnswersOnly(t *testing.T) {
	socket, s := manager(t), Systemd{Log: discard}
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	var stuck atomic.Bool
	asked := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Watchdog(ctx, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("got a question without a bound")
			}
			if !stuck.Load() {
				return nil
			}
			select {
			case asked <- struct{}{}:
			default:
			}
			return errors.New("no answer")
		})
	}()
	for range 3 {
		if got := hear(t, socket); got != "WATCHDOG=1" {
			t.Errorf("got %q, want WATCHDOG=1", got)
		}
	}
	stuck.Store(true)
	<-asked
	s.Status("marker") // what has been told before this, was told before the loop was stuck, or by one question more
	for told := 0; ; told++ {
		got := hear(t, socket)
		if got == "STATUS=marker" {
			break
		}
		if told > 100 {
			t.Fatal("the watchdog goes on to be told")
		}
	}
	<-asked
	<-asked
	s.Status("second marker")
	if got := hear(t, socket); got != "STATUS=second marker" {
		t.Errorf("got %q while the loop is stuck, want silence", got)
	}
	stuck.Store(false)
	if got := hear(t, socket); got != "WATCHDOG=1" {
		t.Errorf("got %q after the loop has answered again, want WATCHDOG=1", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	manager(t)
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	err := Systemd{Log: discard}.Watchdog(t.Context(), func(context.Context) error {
		t.Error("got a question, want none")
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAWrongWatchdogTimeIsAnError(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := (Systemd{Log: discard}).Watchdog(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "WATCHDOG_USEC") {
		t.Errorf("got %v, want an error that names WATCHDOG_USEC", err)
	}
}
