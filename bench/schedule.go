// schedule: how punctual scheduled jobs are.

package bench

import (
	"context"
	"fmt"
	"time"
)

// schedule puts jobs that become due one after another, all of them beforehand, and measures from the
// time that each is scheduled for.
func schedule(ctx context.Context, h *harness) error {
	h.never("early_jobs")
	h.atMost("p50_ms", 2)
	h.atMost("p99_ms", 8)
	if err := h.sameClock(ctx); err != nil {
		return err
	}
	if err := h.prepare(ctx, "enable"); err != nil {
		return err
	}
	l := h.pace()
	// All are in the table when the first one is due.
	lead := 2*time.Second + time.Duration(l.Calls())*20*time.Microsecond
	var all *fleet
	err := h.with(ctx, 1, settings{Delay: fromSchedule}, func(f *fleet) error {
		all = f
		h.show.step("putting %d jobs", l.Calls())
		_, err := h.pool.Exec(ctx, `
			insert into `+h.jobs.Table()+` (q_name, data, schedule_at)
			select $1, '0', now() + $2::interval + i * $3::interval
			from generate_series(0, $4::int - 1) i`, queueName, lead, l.Due(1), l.Calls())
		if err != nil {
			return fmt.Errorf("put the scheduled jobs: %w", err)
		}
		return f.awaitDone(ctx, h, "running", l.Calls())
	})
	if err != nil {
		return err
	}
	delays, early, _ := all.delays()
	h.figure("jobs", float64(delays.count()))
	h.figure("early_jobs", float64(early))
	h.figure("p50_ms", delays.percentile(50))
	h.figure("p99_ms", delays.percentile(99))
	h.figure("max_ms", delays.percentile(100))
	return nil
}

// sameClock makes sure that the server's clock is ours: else what is measured is their difference.
func (h *harness) sameClock(ctx context.Context) error {
	var theirs time.Time
	before := time.Now()
	err := h.pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&theirs)
	after := time.Now()
	switch {
	case err != nil:
		return fmt.Errorf("read the server's clock: %w", err)
	// The server's time has microseconds.
	case theirs.Before(before.Truncate(time.Microsecond)) || theirs.After(after):
		return fmt.Errorf("the server's clock is not that of this machine (%v off): run this on the server's machine", theirs.Sub(before))
	}
	return nil
}
