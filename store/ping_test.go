package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestAPoolPingsNotBeforeASweepAndTheSweepOutlivesABrokenConnection(t *testing.T) {
	config, err := pgxpool.ParseConfig(migrated.Database(t))
	check(t, err)
	config.MaxConns = 2
	idle, pings := 500*time.Millisecond, 0
	config.ShouldPing = func(ctx context.Context, p pgxpool.ShouldPingParams) bool {
		p.IdleDuration = idle
		if !store.ShouldPing(ctx, p) {
			return false
		}
		pings++
		return true
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(pool.Close)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	put(t, apples, "Cox")
	look := func() {
		t.Helper()
		survey, err := jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples})
		if err != nil || !survey.Lit || !survey.Outlooks[0].Due {
			t.Fatalf("got %+v, %v, want the job and the beacon seen", survey, err)
		}
	}
	look()
	if pings != 0 {
		t.Errorf("got %d pings of connections that were used half a second ago, want none", pings)
	}
	idle = 2 * time.Second
	look()
	if pings != 0 {
		t.Errorf("got %d pings before a sweep, want none", pings)
	}
	put(t, apples, "Boskoop")
	if pings != 1 {
		t.Errorf("got %d pings before a put, want one", pings)
	}
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		pid := conn.Conn().PgConn().PID()
		conn.Release()
		exec(t, connect(t, pool), `select pg_terminate_backend($1, 10000)`, pid)
	}
	look()
}
