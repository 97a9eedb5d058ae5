// idle: what it costs to wait.

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	idleProcesses = 3
	idleQueues    = 10
)

// idle has dispatchers wait and counts their statements by the log of a server that was started for it, and in a given database
// by its transactions. (Of some it hears late: a session tells when it has been idle for up to ten seconds, and one that has touched
// no table, as a listener and who watches a neighbour, not before it ends.) Those that there are without dispatchers are the
// floor. In a given database others may add theirs, autovacuum first.
func idle(ctx context.Context, h *harness) error {
	h.atMost("statements_per_second_and_process", 0.2)
	h.atMost("cpu_percent", 0.2)
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	floor, err := h.atRest(ctx, "without dispatchers")
	if err != nil {
		return err
	}
	h.floor("statements_per_second", floor.statements)
	h.floor("server_cpu_percent", floor.cpu)
	s := settings{Queues: []string{}}
	for i := range idleQueues - 1 { // one more is that of its first job
		s.Queues = append(s.Queues, fmt.Sprintf("idle %d", i))
	}
	return h.with(ctx, idleProcesses, s, func(f *fleet) error {
		if err := h.wait(ctx, "coming to rest", min(11*time.Second, h.scale.Duration)); err != nil {
			return err
		}
		start, cpu := time.Now(), f.cpu()
		used, err := h.atRest(ctx, "idle")
		if err != nil {
			return err
		}
		h.figure("statements_per_second_and_process", max(0, used.statements-floor.statements)/idleProcesses)
		h.figure("cpu_percent", (f.cpu()-cpu)/time.Since(start).Seconds()/idleProcesses*100)
		h.figure("server_cpu_percent", used.cpu)
		h.figure("wal_bytes_per_second", used.wal)
		return nil
	})
}

// rates are what the server does a second.
type rates struct{ statements, cpu, wal float64 }

// atRest is what the server does while the benchmark's duration passes. cpu is in percent of one.
func (h *harness) atRest(ctx context.Context, what string) (r rates, err error) {
	conn, err := h.pool.Acquire(ctx) // one for both readings, so that what they add themselves is the same each time
	if err != nil {
		return r, err
	}
	defer conn.Release()
	used, err := h.usage(ctx)
	if err != nil {
		return r, err
	}
	before, err := h.statements(ctx, conn.Conn())
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := h.wait(ctx, what, h.scale.Duration); err != nil {
		return r, err
	}
	seconds := time.Since(start).Seconds()
	after, err := h.statements(ctx, conn.Conn())
	if err != nil {
		return r, err
	}
	usedAfter, err := h.usage(ctx)
	if err != nil {
		return r, err
	}
	used = usedAfter.since(used)
	return rates{max(0, after-before) / seconds, used.cpu / seconds * 100, used.wal / seconds}, nil
}

// statements is how many there were so far. What it asks itself, twice in a given database, is in the floor as well.
func (h *harness) statements(ctx context.Context, conn *pgx.Conn) (n float64, err error) {
	if h.server != nil {
		return float64(h.log.statements.Load()), nil
	}
	if _, err = conn.Exec(ctx, `select pg_stat_force_next_flush()`); err == nil {
		err = conn.QueryRow(ctx, `
			select (xact_commit + xact_rollback)::float8
			from pg_stat_database
			where datname = current_database()`).Scan(&n)
	}
	if err != nil {
		return 0, fmt.Errorf("count transactions: %w", err)
	}
	return n, nil
}

// wait shows how the time passes.
func (h *harness) wait(ctx context.Context, what string, d time.Duration) error {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	start := time.Now()
	for {
		select {
		case <-end.C:
			return nil
		case <-tick.C:
			h.show.at(what+", seconds", int(time.Since(start).Seconds()), int(d.Seconds()))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
