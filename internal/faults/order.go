// What breaks nothing, but shows in which order jobs begin: more of them than can be done at once.

package main

import (
	"context"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

var _ = register(scene.Fault{
	Name: "backlog", Family: "order", Harmless: true,
	About:  "nothing goes wrong, but a queue has jobs for some seconds, and more are put behind them",
	Inject: pileUp,
})

// pileUp puts jobs for one dispatcher, with 10 hands, and more while many of them still wait: these must not come before those.
func pileUp(ctx context.Context, s *scene.Scene) error {
	return quietly(ctx, s, time.Minute, func(queue string) error {
		p := newPutter(s)
		for range 3 {
			loads := make([]load, 150)
			for i := range loads {
				loads[i] = load{Kind: plain, Work: 100}
			}
			if err := p.put(ctx, queue, loads, 0); err != nil {
				return err
			}
			if err := s.Wait(ctx, 1200*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
}
