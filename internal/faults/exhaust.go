// Faults of what runs out: vacuum's horizon, locks, connections.

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

const exhaustFamily = "exhaustion"

var _ = register(
	scene.Fault{
		Name: "pinned-xmin", Family: exhaustFamily,
		About:  "a transaction stays open, so that no dead row can be removed",
		Inject: pinHorizon,
	},
	scene.Fault{
		Name: "locks-exhausted", Family: exhaustFamily,
		About:  "a bystander fills the server's lock table",
		Inject: fillLockTable,
	},
	scene.Fault{
		Name: "connections-exhausted", Family: exhaustFamily,
		About:  "bystanders take all connections that there are, and those that become free",
		Needs:  scene.Needs{Slow: "who was refused a connection tries again within 7.5 s"},
		Inject: takeConnections,
	},
)

// bystander is a connection of somebody else's.
func bystander(ctx context.Context, s *scene.Scene) (*pgx.Conn, error) {
	config := s.Admin.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] = scene.AdminName
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect as a bystander: %w", err)
	}
	return conn, nil
}

// leave closes a bystander's connection, and with it frees what it holds.
func leave(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

func pinHorizon(ctx context.Context, s *scene.Scene) error {
	conn, err := bystander(ctx, s)
	if err != nil {
		return err
	}
	defer leave(ctx, conn)
	if _, err := conn.Exec(ctx, `begin isolation level repeatable read; select 1 from pg_class limit 1`); err != nil {
		return err
	}
	return s.Wait(ctx, s.Long(30*time.Second, 2*time.Second))
}

// fillLockTable takes advisory locks until there is room for no more, and those that become free, for a while.
func fillLockTable(ctx context.Context, s *scene.Scene) error {
	conn, err := bystander(ctx, s)
	if err != nil {
		return err
	}
	defer leave(ctx, conn)
	end := time.Now().Add(s.Long(5*time.Second, 1500*time.Millisecond))
	for full := 0; ; full++ {
		// What a statement that fails has locked, stays locked. The lock of one number, taken again, needs no room.
		_, err := conn.Exec(ctx, `select pg_advisory_lock(9000000000 + n) from generate_series(1, 1000000) n`)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "53200" {
			return fmt.Errorf("fill the lock table: got %w, want it to run out of memory", err)
		}
		if time.Now().After(end) {
			s.Log.Info("the lock table was full", "times", full+1)
			return nil
		}
		if err := s.Wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// takeConnections takes all connections, and then breaks some of the product's, so that it has to come back for them.
func takeConnections(ctx context.Context, s *scene.Scene) error {
	holding, release := context.WithCancel(ctx)
	var mu sync.Mutex
	var taken []*pgx.Conn
	var takers sync.WaitGroup
	for range 4 {
		takers.Go(func() {
			for holding.Err() == nil {
				conn, err := bystander(holding, s)
				if err != nil {
					_ = s.Wait(holding, 5*time.Millisecond)
					continue
				}
				mu.Lock()
				taken = append(taken, conn)
				mu.Unlock()
			}
		})
	}
	defer func() {
		release()
		takers.Wait()
		for _, conn := range taken {
			leave(ctx, conn)
		}
	}()
	if err := s.Wait(ctx, s.Long(2*time.Second, 500*time.Millisecond)); err != nil {
		return err
	}
	m, who := someProcess(s)
	reset := s.Proxy.Reset(m)
	if err := s.Wait(ctx, s.Long(5*time.Second, 1500*time.Millisecond)); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	s.Log.Info("no connection was left", "taken", len(taken), "reset", reset, "of", who)
	if len(taken) == 0 {
		return errors.New("take connections: got none")
	}
	return nil
}
