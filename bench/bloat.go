// bloat: what a transaction that stays open, and keeps vacuum from its work, does to the queue.

package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// bloat compares a steady load beside such a transaction with the same without it.
func bloat(ctx context.Context, h *harness) error {
	h.atLeast("throughput_ratio", 0.95)
	h.atMost("p99_ratio", 2)
	rate, p50, p99, err := h.steady(ctx)
	if err != nil {
		return err
	}
	h.floor("jobs_per_second", rate)
	h.floor("p50_ms", p50)
	h.floor("p99_ms", p99)

	tx, err := h.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	// The first query takes the snapshot, which stays. It must not touch the queue's table, which is
	// truncated meanwhile.
	if _, err := tx.Exec(ctx, `select count(*) from pg_class`); err != nil {
		return fmt.Errorf("open the long transaction: %w", err)
	}
	heldRate, heldP50, heldP99, err := h.steady(ctx)
	if err != nil {
		return err
	}
	h.figure("jobs_per_second", heldRate)
	h.figure("p50_ms", heldP50)
	h.figure("p99_ms", heldP99)
	h.figure("throughput_ratio", heldRate/rate)
	h.figure("p99_ratio", heldP99/p99)
	return nil
}

// steady puts single jobs at the benchmark's rate and has one dispatcher run them. Pick-up counts from when
// a job should have been put.
func (h *harness) steady(ctx context.Context) (rate, p50, p99 float64, err error) {
	dispatcher, err := h.offered(ctx, 1, h.pacedPuts(fromDue))
	if err != nil {
		return 0, 0, 0, err
	}
	delays, _, _ := dispatcher.delays()
	return dispatcher.rate(), delays.percentile(50), delays.percentile(99), nil
}
