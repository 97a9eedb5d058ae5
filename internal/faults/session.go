// Faults of sessions: the server ends connections.

package main

import (
	"context"
	"errors"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

var _ = register(
	killSession("kill-lock-session", "the server ends the lock session of a dispatcher", scene.LockSession),
	killSession("kill-listener", "the server ends the listening session of a dispatcher", scene.Listener),
	killSession("kill-watch", "the server ends the session by which a dispatcher watches its neighbour", scene.Watch),
	scene.Fault{
		Name: "kill-lock-sessions", Family: "session", About: "the server ends the lock sessions of all dispatchers at once",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			for _, c := range s.Proxy.Clients() {
				if c.Role == scene.LockSession {
					if err := terminateBackend(ctx, s, c.PID); err != nil {
						return err
					}
				}
			}
			return nil
		},
	},
	scene.Fault{
		Name: "kill-backends", Family: "session", About: "the server ends 5 of its sessions a second, any, for 10 s (quick: 2 s)",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for range int(s.Long(10*time.Second, 2*time.Second) / (200 * time.Millisecond)) {
				if all := s.Proxy.Clients(); len(all) > 0 {
					if err := terminateBackend(ctx, s, all[s.Rand.IntN(len(all))].PID); err != nil {
						return err
					}
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		},
	},
)

// killSession ends a dispatcher's session of a role.
func killSession(name, about, role string) scene.Fault {
	return scene.Fault{Name: name, Family: "session", About: about, Inject: func(ctx context.Context, s *scene.Scene) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 500 {
			var some []proxy.Client
			for _, c := range s.Proxy.Clients() {
				if c.Role == role && c.PID != 0 {
					some = append(some, c)
				}
			}
			if len(some) > 0 {
				return terminateBackend(ctx, s, some[s.Rand.IntN(len(some))].PID)
			}
			select { // until it has reconnected after an earlier fault
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return errors.New("no dispatcher has such a session")
	}}
}

func terminateBackend(ctx context.Context, s *scene.Scene, pid uint32) error {
	if pid == 0 {
		return nil
	}
	_, err := s.Admin.Exec(ctx, `select pg_terminate_backend($1)`, pid)
	return err
}
