// What the daemon tells systemd, if that has started it; to no one otherwise.

package admin

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Systemd is the service manager, which wants to know when the daemon is ready, reloads, stops, and whether it
// lives. What it cannot be told is logged: the daemon does not end for that.
type Systemd struct{ Log *slog.Logger }

// Ready says that the daemon has started, or has reloaded its configuration. The status is what systemctl
// shows.
func (s Systemd) Ready(status string) { s.tell(daemon.SdNotifyReady, statusLine(status)) }

// Reloading says that a new configuration is about to be read. Ready has to follow, whatever becomes of it.
func (s Systemd) Reloading() {
	// With the time by which the manager knows that this answers its own signal, where it has one.
	s.tell(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
}

// Stopping says that the daemon drains.
func (s Systemd) Stopping(status string) { s.tell(daemon.SdNotifyStopping, statusLine(status)) }

// Status changes what systemctl shows.
func (s Systemd) Status(status string) { s.tell(statusLine(status)) }

// Watchdog tells the manager that the daemon lives, as often as it wants to hear that, for as long as alive
// says so, which has to return when its ctx ends. The manager restarts a daemon that it does not hear of. It
// returns when ctx ends, or at once if the manager does not ask for it (WatchdogSec=).
//
// It should go on while the daemon drains.
func (s Systemd) Watchdog(ctx context.Context, alive func(context.Context) error) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("admin: check WATCHDOG_USEC: %w", err)
	}
	if limit == 0 {
		return nil
	}
	// Three answers in the time in which one is wanted, so that a slow one is no death.
	period := limit / 3
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, period)
		err := alive(asking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.Log.Error("the dispatcher does not answer; the watchdog is not told that it lives", "error", err)
		default:
			s.tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// statusLine is one line: a second one would be another variable of the protocol.
func statusLine(status string) string { return "STATUS=" + strings.Join(strings.Fields(status), " ") }

func (s Systemd) tell(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.TrimSpace(strings.Join(lines, "\n"))); err != nil {
		s.Log.Warn("cannot tell systemd; check NOTIFY_SOCKET and NotifyAccess=", "error", err)
	}
}
