// drain: how fast jobs that do nothing are run.

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// floorBatch is how many jobs the floor reads and deletes at a time.
const floorBatch = 500

// drain compares dispatchers with one connection that claims nothing: it reads jobs and deletes them.
func drain(ctx context.Context, h *harness) error {
	h.atLeast("ratio", 0.65)
	h.atLeast("processes_4_ratio", 0.55)
	h.atMost("memory_mib", 64)
	floor, err := h.drainFloor(ctx)
	if err != nil {
		return err
	}
	h.floor("jobs_per_second", floor)
	for _, processes := range []int{1, 4} {
		prefix := ""
		if processes > 1 {
			prefix = fmt.Sprintf("processes_%d_", processes)
		}
		d, err := h.drain(ctx, processes)
		if err != nil {
			return err
		}
		h.figure(prefix+"jobs_per_second", d.rate)
		h.figure(prefix+"ratio", d.rate/floor)
		h.figure(prefix+"wal_bytes_per_job", d.used.wal/float64(h.scale.Jobs))
		h.figure(prefix+"server_cpu_us_per_job", d.used.cpu*1e6/float64(h.scale.Jobs))
		h.figure(prefix+"dispatcher_cpu_us_per_job", d.cpu*1e6/float64(h.scale.Jobs))
		h.figure(prefix+"memory_mib", d.memory)
		h.figure(prefix+"repeated_jobs", float64(d.runs-h.scale.Jobs))
	}
	return nil
}

// drainFloor is how many jobs a second one connection deletes.
func (h *harness) drainFloor(ctx context.Context) (rate float64, err error) {
	h.show.step("round %d: the floor", h.round+1)
	if err := h.prepare(ctx, "enable"); err != nil {
		return 0, err
	}
	if err := h.fill(ctx, h.scale.Jobs); err != nil {
		return 0, err
	}
	before, err := h.usage(ctx)
	if err != nil {
		return 0, err
	}
	conn, err := h.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	start := time.Now()
	n, err := h.deleteAll(ctx, conn.Conn())
	elapsed := time.Since(start)
	if err != nil {
		return 0, err
	}
	if n != h.scale.Jobs {
		return 0, fmt.Errorf("the floor found %d jobs of %d", n, h.scale.Jobs)
	}
	after, err := h.usage(ctx)
	if err != nil {
		return 0, err
	}
	used := after.since(before)
	h.floor("wal_bytes_per_job", used.wal/float64(n))
	h.floor("server_cpu_us_per_job", used.cpu*1e6/float64(n))
	return float64(n) / elapsed.Seconds(), nil
}

// deleteAll reads jobs by keyset and deletes them, batch by batch.
func (h *harness) deleteAll(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	read := `
		select id, data, enqueued_at, schedule_at, expected_at, task, attempt, max_attempts, metadata
		from ` + h.jobs.Table() + `
		where id > $1
		order by id
		limit $2`
	remove := `
		delete from ` + h.jobs.Table() + `
		where id = any ($1)`
	ids := make([]int64, 0, floorBatch)
	last := int64(0)
	for {
		rows, err := conn.Query(ctx, read, last, floorBatch)
		if err != nil {
			return n, err
		}
		ids = ids[:0]
		for rows.Next() {
			var data []byte
			if err := rows.Scan(&last, &data, nil, nil, nil, nil, nil, nil, nil); err != nil {
				rows.Close()
				return n, err
			}
			ids = append(ids, last)
		}
		if err := rows.Err(); err != nil || len(ids) == 0 {
			return n, err
		}
		if _, err := conn.Exec(ctx, remove, ids); err != nil {
			return n, err
		}
		n += len(ids)
		h.show.at("the floor", n, h.scale.Jobs)
	}
}

// drainResult is how a drain went.
type drainResult struct {
	rate   float64 // jobs a second
	runs   int     // of handlers
	used   usage
	cpu    float64 // of the dispatchers, in seconds
	memory float64 // of the largest process, in MiB
}

// drain puts all jobs in one transaction beside dispatchers that wait for them. Its commit is the
// start; the end is when the last job is deleted.
func (h *harness) drain(ctx context.Context, processes int) (r drainResult, err error) {
	what := fmt.Sprintf("round %d: %d process(es)", h.round+1, processes)
	h.show.step("%s", what)
	if err := h.prepare(ctx, "enable"); err != nil {
		return r, err
	}
	var all *fleet
	var elapsed time.Duration
	err = h.with(ctx, processes, settings{}, func(f *fleet) error {
		all = f
		before, start, err := h.putAtOnce(ctx)
		if err != nil {
			return err
		}
		cpu := f.cpu()
		if err := f.awaitDone(ctx, h, what, h.scale.Jobs); err != nil {
			return err
		}
		if err := h.drained(ctx); err != nil {
			return err
		}
		elapsed = time.Since(start)
		after, err := h.usage(ctx)
		r.cpu = f.cpu() - cpu
		r.used = after.since(before)
		return err
	})
	if err != nil {
		return r, err
	}
	_, _, r.memory = all.delays()
	r.runs = all.Done()
	r.rate = float64(h.scale.Jobs) / elapsed.Seconds()
	return r, nil
}

// putAtOnce puts all jobs and returns when it began to commit, and what the server had used by then.
func (h *harness) putAtOnce(ctx context.Context) (before usage, start time.Time, err error) {
	tx, err := h.pool.Begin(ctx)
	if err != nil {
		return before, start, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if err := h.fillBy(ctx, tx, h.scale.Jobs, "null"); err != nil {
		return before, start, err
	}
	if before, err = h.usage(ctx); err != nil {
		return before, start, err
	}
	start = time.Now()
	return before, start, tx.Commit(ctx)
}
