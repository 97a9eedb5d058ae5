// The worker processes of one run, as their parent sees them.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/workers"
)

const (
	// starting bounds how long a worker takes until it runs jobs, goodbye how long it takes to stop: then it is killed.
	starting = 20 * time.Second
	goodbye  = 8 * time.Second
)

type (
	members = workers.Members[message]
	member  = workers.Member[message]
	run     = workers.Run
)

// fleet is some worker processes of one contender.
type fleet struct {
	*workers.Fleet[message]
	started int
}

func newFleet(exec []string) *fleet { return &fleet{Fleet: workers.New[message](exec, goodbye)} }

// start starts n more processes, and returns when they run jobs.
func (f *fleet) start(ctx context.Context, n int, s settings) error {
	for range n {
		s.Name = fmt.Sprintf("w%d", f.started)
		f.started++
		if err := f.Start(s.Name, s); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, starting, fmt.Errorf("a worker did not start within %v", starting))
	defer cancel()
	return f.AllReady(ctx, 0)
}

// member is one of them, by the order in which they were started.
func (f *fleet) member(i int) (m *member) {
	f.Look(func(all members) { m = all[i] })
	return m
}

// awaitDone waits until so many handlers have returned.
func (f *fleet) awaitDone(ctx context.Context, n int) error {
	return f.Await(ctx, 0, func(all members) bool { return all.Done() >= n })
}

// delays of all processes, and how many were below 0. To be asked after Stop.
func (f *fleet) delays() (all delays, early int) {
	f.Look(func(members members) {
		for _, m := range members {
			all = append(all, m.Latest.Delays...)
			early += m.Latest.Early
		}
	})
	return all, early
}
