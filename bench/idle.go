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

// idle has dispatchers wait and counts the server's transactions, which are their statements, for none
// of these is in a transaction with another. In a given database others may add theirs, and everywhere
// autovacuum.
func idle(ctx context.Context, h *harness) error {
	h.atMost("statements_per_second_and_process", 0.2)
	h.atMost("cpu_percent", 0.2)
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	s := settings{Queues: []string{}}
	for i := range idleQueues - 1 { // one more is that of its first job
		s.Queues = append(s.Queues, fmt.Sprintf("idle %d", i))
	}
	return h.with(ctx, idleProcesses, s, func(f *fleet) error {
		// The statistics of a session are told when it has been idle for a while: up to ten seconds.
		rest := min(11*time.Second, h.scale.Duration)
		if err := h.wait(ctx, "coming to rest", rest); err != nil {
			return err
		}
		// One connection for both readings, so that we know what is ours.
		conn, err := h.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		used, err := h.usage(ctx)
		if err != nil {
			return err
		}
		before, err := transactions(ctx, conn.Conn())
		if err != nil {
			return err
		}
		start, cpu := time.Now(), f.cpu()
		if err := h.wait(ctx, "idle", h.scale.Duration); err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		cpu = f.cpu() - cpu
		after, err := transactions(ctx, conn.Conn())
		if err != nil {
			return err
		}
		usedAfter, err := h.usage(ctx)
		if err != nil {
			return err
		}
		used = usedAfter.since(used)
		h.figure("statements_per_second_and_process", max(0, after-before-ownTransactions)/seconds/idleProcesses)
		h.figure("cpu_percent", cpu/seconds/idleProcesses*100)
		h.figure("server_cpu_percent", used.cpu/seconds*100)
		h.figure("wal_bytes_per_second", used.wal/seconds)
		return nil
	})
}

// ownTransactions are those of two readings: the first one's query, the second one's flush.
const ownTransactions = 2

// transactions is how many there were in the database so far, those of idle sessions and this one
// included.
func transactions(ctx context.Context, conn *pgx.Conn) (n float64, err error) {
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
