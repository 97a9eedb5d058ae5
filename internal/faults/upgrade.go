// A rolling upgrade: daemons of an earlier commit are replaced, one by one, by those of the present one, under load, and
// back again.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

var _ = register(scene.Fault{
	Name: "upgrade", Family: "upgrade",
	About: "daemons of an earlier commit are replaced one by one by the present ones, and those by the earlier ones",
	Needs: scene.Needs{
		Own: true, // it builds both, which takes the machine a while
		Missing: func() string {
			if _, err := base(context.Background()); err != nil {
				return err.Error()
			}
			return ""
		},
	},
	Inject: rollOver,
})

func rollOver(ctx context.Context, s *scene.Scene) (err error) {
	dir, err := os.MkdirTemp("", "pq-dispatch-upgrade-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	former, present, err := buildBoth(ctx, dir)
	if err != nil {
		return err
	}
	const queue = "upgrade"
	start := func(program, name string) (scene.Process, error) {
		how, err := json.Marshal(daemonSettings{Program: program, Queue: queue})
		if err != nil {
			return nil, err
		}
		return s.Fleet.Start(ctx, "daemon", name, string(how))
	}
	var serving []scene.Process
	for i := range 2 {
		p, err := start(former, fmt.Sprintf("former-%d", i+1))
		if err != nil {
			return err
		}
		serving = append(serving, p)
	}
	putting, stop := context.WithCancel(ctx)
	defer stop()
	var background sync.WaitGroup
	var putErr error
	p := newPutter(s)
	background.Go(func() { putErr = keepPutting(putting, p, queue) })
	defer background.Wait()
	defer stop()
	for i, next := range []struct{ program, name string }{
		{present, "present-1"}, {present, "present-2"}, {former, "back-1"}, {present, "present-3"},
	} {
		if err := s.Wait(ctx, s.Long(5*time.Second, time.Second)); err != nil {
			return err
		}
		p, err := start(next.program, next.name)
		if err != nil {
			return err
		}
		if err := s.Fleet.Retire(ctx, serving[i]); err != nil {
			return err
		}
		serving = append(serving, p)
	}
	stop()
	background.Wait()
	if putErr != nil {
		return putErr
	}
	if err := p.await(ctx, injectTimeout, "the daemons have done each job",
		`select count(*) from public.queue where q_name = $1 and dequeued_at is null`, queue); err != nil {
		return err
	}
	for _, p := range serving[len(serving)-2:] {
		if err := s.Fleet.Retire(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// keepPutting puts a few jobs every so often until ctx ends: short ones and long ones, some of which fail at first, some due later.
func keepPutting(ctx context.Context, p *putter, queue string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		loads := []load{{Kind: plain, Work: 1 + n%5}, {Kind: plain, Work: 20}, {Kind: flaky, Fails: 1, Delay: 100}}
		if n%25 == 0 {
			loads[1].Work = 500
		}
		// It is not cut off, so that it is known how it ends.
		if err := p.put(context.WithoutCancel(ctx), queue, loads, time.Duration(n%4)*100*time.Millisecond); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// buildBoth builds the daemon of the commit to upgrade from, and that of the present sources.
func buildBoth(ctx context.Context, dir string) (former, present string, err error) {
	root, err := sources(ctx)
	if err != nil {
		return "", "", err
	}
	commit, err := base(ctx)
	if err != nil {
		return "", "", err
	}
	tree := filepath.Join(dir, "tree")
	former, present = filepath.Join(dir, "former"), filepath.Join(dir, "present")
	if err := checkOut(ctx, root, commit, tree); err != nil {
		return "", "", fmt.Errorf("check out %s: %w", commit, err)
	}
	return former, present, errors.Join(buildDaemon(ctx, tree, former), buildDaemon(ctx, root, present))
}
