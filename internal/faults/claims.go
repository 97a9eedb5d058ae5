// Faults that meet a dispatcher with jobs in hand that take long: where another process takes over what it goes on with.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

const claimsFamily = "claims"

var _ = register(
	scene.Fault{
		Name: "claims-unnoticed", Family: claimsFamily,
		About:  "a dispatcher is stopped as its lock session ends, and then finishes what others have done meanwhile",
		Needs:  scene.Needs{Missing: func() string { return signals }, Slow: "a dispatcher waits for an answer for 15 s on its lock session"},
		Inject: loseClaimsUnnoticed,
	},
	scene.Fault{
		Name: "claims-lost", Family: claimsFamily,
		About: "all lock sessions end while handlers are at work that would take another 8 s",
		Inject: func(ctx context.Context, s *scene.Scene) error {
			if err := handOut(ctx, s, load{Kind: plain, Work: 8000}); err != nil {
				return err
			}
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
		Name: "deaf", Family: claimsFamily,
		About:  "the server's side of all listening sessions is closed, and the dispatchers, one of which has nothing to do, are not told",
		Needs:  scene.Needs{Slow: "who hears nothing notices by its heartbeat, after 35 s at most; until then its sweeps stand in, every 10 s"},
		Inject: deafen,
	},
	scene.Fault{
		Name: "slow-commit", Family: claimsFamily,
		About:  "a put commits long after others, when there was nothing more to do and the dispatcher has gone to sleep",
		Inject: commitSlowly,
	},
	cutFault("cut-put-back", "the reply to outcomes of failed runs that have committed is lost, with their connection", "dispatcher", says(`"put_back"(`)),
)

// handedOut is how long it takes until their handlers are at work.
const handedOut = 500 * time.Millisecond

// handOut puts a few long jobs and waits a moment for their handlers to be at work, in all dispatchers.
func handOut(ctx context.Context, s *scene.Scene, like load) error {
	loads := make([]load, 10*len(s.Fleet.Dispatchers()))
	for i := range loads {
		loads[i] = like
	}
	if err := newPutter(s).put(ctx, queues[0], loads, 0); err != nil {
		return err
	}
	return s.Wait(ctx, handedOut)
}

// loseClaimsUnnoticed has others do the jobs that one dispatcher is at, and other rows stand where theirs have stood,
// when its outcomes come. It is stopped meanwhile, as awake it notices within 1.5 s or so; and others take next to no time
// for its jobs.
func loseClaimsUnnoticed(ctx context.Context, s *scene.Scene) error {
	const wait = int(handedOut / time.Millisecond)
	for i, kind := range []string{judge.Transactional, plain} {
		brief := (2 - i) * wait // others begin after this
		if err := handOut(ctx, s, load{Kind: kind, Work: brief + 700, Brief: brief}); err != nil {
			return err
		}
	}
	victim := s.Pick(s.Fleet.Dispatchers())
	victim.Stop()
	defer victim.Continue()
	s.Proxy.HalfOpen(proxy.InRole(scene.LockSession).And(only(victim)))
	// A transaction that it has open would keep vacuum from its work.
	if _, err := s.Admin.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and xact_start is not null`, victim.Name()); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	more := newPutter(s)
	for range 25 {
		if err := more.put(ctx, queues[1], make([]load, 50), 4*time.Second); err != nil {
			return err
		}
		// So that their rows go where those of jobs that are done were, and stay there for a while.
		if _, err := s.Admin.Exec(ctx, `vacuum (index_cleanup on, truncate off) public.queue`); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// aSweep is how long what nobody was told of may take: a sweep, and a little more.
const aSweep = 12 * time.Second

// quietly gives a dispatcher a queue of its own, which the producers do not know, and lets do put into it. All of that
// is given some time to be done.
func quietly(ctx context.Context, s *scene.Scene, patience time.Duration, do func(queue string) error) (err error) {
	queue := fmt.Sprintf("quiet %d", s.Rand.Uint32())
	settings, err := json.Marshal(oneQueue{Queue: queue})
	if err != nil {
		return err
	}
	d, err := s.Fleet.Start(ctx, "one-queue", "quiet-1", string(settings))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, retireLatest(ctx, s, d)) }()
	if err := do(queue); err != nil {
		return err
	}
	// What is not done by then, nobody knows of: that is left to the judge. Unless others have had the machine.
	for before, extra := measure(), time.Minute; ; patience, extra = extra, 0 {
		err := newPutter(s).await(ctx, patience, "each job is done",
			`select count(*) from public.queue where q_name = $1 and dequeued_at is null`, queue)
		if err == nil || ctx.Err() != nil || extra == 0 || measure().foreign(before) < judge.Busy {
			return ctx.Err()
		}
	}
}

// deafen closes the ears of all.
func deafen(ctx context.Context, s *scene.Scene) error {
	return quietly(ctx, s, aSweep, func(queue string) error {
		if err := s.Wait(ctx, time.Second); err != nil { // it has gone to sleep
			return err
		}
		s.Proxy.HalfOpen(proxy.InRole(scene.Listener))
		p := newPutter(s)
		for range 5 {
			if err := p.put(ctx, queue, []load{{Kind: plain}}, 0); err != nil {
				return err
			}
			if err := s.Wait(ctx, 300*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
}

// commitSlowly puts in bursts. In each, the dispatcher gives its post up, so that puts need not notify it, and one of
// those is still under way when the burst is over.
func commitSlowly(ctx context.Context, s *scene.Scene) error {
	return quietly(ctx, s, aSweep, func(queue string) error {
		for range 3 {
			var putters [5]*putter
			for i := range putters {
				putters[i] = newPutter(s)
			}
			errs := make([]error, len(putters))
			var all sync.WaitGroup
			for i, p := range putters {
				all.Go(func() { errs[i] = burst(ctx, p, queue, i == 0) })
			}
			all.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
		}
		return nil
	})
}

// burst puts some jobs as fast as it goes, and the last one slowly, if it is to be so, while others go on.
func burst(ctx context.Context, p *putter, queue string, slow bool) error {
	for n := range 60 {
		if slow && n == 30 {
			return p.putSlowly(ctx, queue, time.Second)
		}
		if err := p.put(ctx, queue, []load{{Kind: plain}}, 0); err != nil {
			return err
		}
	}
	return nil
}
