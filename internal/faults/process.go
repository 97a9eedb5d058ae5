// Faults of processes: killed at chosen moments, stopped for a while, told to stop.

package main

import (
	"context"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

var _ = register(
	kill("kill9", "a dispatcher is killed at any moment", ""),
	kill("kill9-claimed", "a dispatcher is killed between a claim and the start of its jobs", dieClaimed),
	kill("kill9-handler", "a dispatcher is killed in the middle of a handler", dieHandler),
	kill("kill9-effect", "a dispatcher is killed after the effect of a job and before its completion", dieEffect),
	kill("kill9-settle", "a dispatcher is killed as it is about to send outcomes", dieSettle),
	kill("kill9-settled", "a dispatcher is killed after outcomes are committed, before it gives up their locks", dieSettled),
	scene.Fault{
		Name: "kill9-all", Family: "process", About: "all dispatchers are killed at once",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			all := s.Fleet.Dispatchers()
			for _, d := range all {
				d.Kill()
			}
			for _, d := range all {
				if _, err := d.Restarted(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	},
	scene.Fault{
		Name: "kill9-producer", Family: "process", About: "a producer is killed at any moment",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			return end(ctx, s.Pick(s.Fleet.Producers()), scene.Process.Kill)
		},
	},
	scene.Fault{
		Name: "sigterm", Family: "process", About: "a dispatcher is told to stop under load",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			return end(ctx, s.Pick(s.Fleet.Dispatchers()), scene.Process.Terminate)
		},
	},
	scene.Fault{
		Name: "sigstop", Family: "process", About: "a dispatcher is stopped for 10 s (quick: 3 s), then goes on",
		Needs: scene.Needs{Missing: func() string { return signals }},
		Inject: func(ctx context.Context, s *scene.Scene) error {
			d := s.Pick(s.Fleet.Dispatchers())
			d.Stop()
			defer d.Continue()
			return s.Wait(ctx, s.Long(10*time.Second, 3*time.Second))
		},
	},
)

// kill kills one of the dispatchers, at a place of its own choice or of ours.
func kill(name, about, place string) scene.Fault {
	return scene.Fault{Name: name, Family: "process", About: about, Inject: func(ctx context.Context, s *scene.Scene) error {
		d := s.Pick(s.Fleet.Dispatchers())
		return end(ctx, d, func(p scene.Process) {
			if place == "" || p.Tell(death{Die: place}) != nil {
				p.Kill()
			}
		})
	}}
}

// end ends a process and waits for the one in its place. One that does not come to the place where it is to die, since
// there is no work for it, is killed where it is.
func end(ctx context.Context, p scene.Process, how func(scene.Process)) error {
	how(p)
	patience := time.NewTimer(10 * time.Second)
	defer patience.Stop()
	select {
	case <-p.Ended():
	case <-patience.C:
		p.Kill()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err := p.Restarted(ctx)
	return err
}
