// Faults of the server: it crashes, is away for a while, crashes again as it recovers.

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

var _ = register(
	scene.Fault{
		Name: "restart", Family: "server", About: "the server crashes and starts again (restart -m immediate)",
		Inject: func(ctx context.Context, s *scene.Scene) error { return s.Server.Restart(ctx, devpg.Immediate) },
	},
	scene.Fault{
		Name: "restart-fast", Family: "server", About: "the server is restarted in order",
		Inject: func(ctx context.Context, s *scene.Scene) error { return s.Server.Restart(ctx, devpg.Fast) },
	},
	scene.Fault{
		Name: "server-down", Family: "server", About: "the server is away for 60 s (quick: 3 s)",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			if err := s.Server.Stop(ctx, devpg.Fast); err != nil {
				return err
			}
			waited := s.Wait(ctx, s.Long(60*time.Second, 3*time.Second))
			if err := s.Server.Resume(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			return waited
		},
	},
	scene.Fault{
		Name: "restart-recovery", Family: "server", About: "the server crashes, and again while it recovers",
		Needs:  scene.Needs{Missing: func() string { return signals }},
		Inject: restartInRecovery,
	},
	scene.Fault{
		Name: "kill9-backend", Family: "server", About: "a server process is killed, so that the server ends all others and recovers",
		Needs: scene.Needs{Missing: func() string { return signals }},
		Inject: func(ctx context.Context, s *scene.Scene) error {
			var pid int
			err := s.Admin.QueryRow(ctx, `
				select pid from pg_stat_activity
				where backend_type = 'client backend' and pid <> pg_backend_pid()
				order by random() limit 1`).Scan(&pid)
			if err != nil {
				return err
			}
			return crash(ctx, s, pid)
		},
	},
)

// crash kills a server process and waits until the server is back.
func crash(ctx context.Context, s *scene.Scene, pid int) error {
	var before time.Time
	if err := s.Admin.QueryRow(ctx, `select backend_start from pg_stat_activity where backend_type = 'checkpointer'`).Scan(&before); err != nil {
		return err
	}
	killServerProcess(pid)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var after time.Time
		asked, cancel := context.WithTimeout(ctx, time.Second)
		err := s.Admin.QueryRow(asked, `select backend_start from pg_stat_activity where backend_type = 'checkpointer'`).Scan(&after)
		cancel()
		if err == nil && after.After(before) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the server does not come back: %w", context.Cause(ctx))
		}
	}
}

// restartInRecovery stops the server as it recovers from a crash, by the signal for it: its postmaster's id is known as
// soon as that has begun.
func restartInRecovery(ctx context.Context, s *scene.Scene) error {
	var data string
	if err := s.Admin.QueryRow(ctx, `show data_directory`).Scan(&data); err != nil {
		return err
	}
	if err := s.Server.Stop(ctx, devpg.Immediate); err != nil {
		return err
	}
	before := postmaster(data)
	resumed := make(chan error, 1)
	go func() { resumed <- s.Server.Resume(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for struck := false; ; {
		select {
		case err := <-resumed:
			if err != nil && struck { // as it should
				return s.Server.Resume(ctx)
			}
			return err
		case <-tick.C:
		}
		if pid := postmaster(data); !struck && pid != 0 && pid != before {
			struck = true
			quit(pid)
		}
	}
}

// postmaster is the process id that a server has left in its directory, or 0.
func postmaster(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	pid, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return pid
}
