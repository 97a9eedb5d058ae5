// Faults of notifications: none arrive, none are sent, or there are far too many.

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	forged       = 100_000 // notifications a second
	forgedAtOnce = 2_500   // in a transaction
	forgers      = 2       // at once; their commits take turns, so that more would only wait for one another
)

var _ = register(
	scene.Fault{
		Name: "notify-lost", Family: networkFamily,
		About: "notifications do not arrive",
		Needs: scene.Needs{Slow: "what nobody was told of waits for the next sweep, for 10 s"},
		Inject: func(ctx context.Context, s *scene.Scene) error {
			return meanwhile(ctx, s, proxy.Condition{Deaf: true}, s.Long(20*time.Second, 3*time.Second))
		},
	},
	scene.Fault{
		Name: "notify-off", Family: networkFamily,
		About:  "producers' sessions have pq_dispatch.notify = off",
		Needs:  scene.Needs{Slow: "what nobody was told of waits for the next sweep, for 10 s"},
		Inject: notifyOff,
	},
	scene.Fault{
		Name: "notify-forged", Family: networkFamily,
		About:  "somebody sends 100 000 forged notifications a second",
		Inject: forge,
	},
)

// notifyOff changes the database's default, which holds for the sessions that begin then: so it ends those of the producers.
func notifyOff(ctx context.Context, s *scene.Scene) (err error) {
	database := pgx.Identifier{s.Database}.Sanitize()
	if _, err := s.Admin.Exec(ctx, `alter database `+database+` set pq_dispatch.notify = off`); err != nil {
		return err
	}
	defer func() {
		_, back := s.Admin.Exec(context.WithoutCancel(ctx), `alter database `+database+` reset pq_dispatch.notify`)
		s.Proxy.Reset(proxy.Application("producer"))
		err = errors.Join(err, back)
	}()
	s.Proxy.Reset(proxy.Application("producer"))
	return s.Wait(ctx, s.Long(20*time.Second, 3*time.Second))
}

// forge sends hints of every kind, true to form and not, about queues that there are and that there are not. (Not the
// cancelling of jobs: whoever may notify may do that.)
func forge(ctx context.Context, s *scene.Scene) error {
	channel := store.New(s.Admin, store.Options{}).Channel()
	lasts := s.Long(10*time.Second, 2*time.Second)
	var given, sent atomic.Int64
	began := time.Now()
	one := func() error {
		for {
			last := given.Add(forgedAtOnce)
			at := time.Duration(last) * time.Second / forged
			if at > lasts || time.Since(began) > lasts {
				return nil
			}
			if err := s.Wait(ctx, at-time.Since(began)); err != nil {
				return err
			}
			// All are different: of those that are the same in a transaction, one is sent. Plain ones, as what it takes to make
			// them up is taken from those who have to read them.
			_, err := s.Admin.Exec(ctx, `
				select pg_notify($1, case n % 4
				         when 0 then n || ' apples'
				         when 1 then 'bucket ' || n
				         when 2 then 'pause apples' || n
				         else 'x' || n
				       end)
				from generate_series($2::int, $3::int) n
				union all
				select pg_notify($1, unnest(array['*', 'pause apples', 'cancel', '', md5($2::text)]))`, channel, last-forgedAtOnce, last-1)
			if err != nil {
				return fmt.Errorf("forge notifications: %w", err)
			}
			sent.Add(forgedAtOnce)
		}
	}
	var errs [forgers]error
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = one() })
	}
	all.Wait()
	s.Log.Info("forged notifications", "a second", int(float64(sent.Load())/time.Since(began).Seconds()))
	return errors.Join(errs[:]...)
}
