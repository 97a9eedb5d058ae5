// enqueue: how fast jobs are put, one by one and by COPY.

package bench

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/load"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// putters is how many connections put at once.
const putters = 16

// enqueue compares puts that wake the dispatcher with puts that need not, as it sweeps all the time.
func enqueue(ctx context.Context, h *harness) error {
	h.atLeast("ratio", 0.85)
	floor, err := h.putFor(ctx, "the floor", "disable", "", settings{Sweep: time.Millisecond})
	if err != nil {
		return err
	}
	h.floor("jobs_per_second", floor.rate)
	h.floor("backlog_jobs", floor.backlog)
	for _, c := range []struct{ prefix, notify string }{{"", ""}, {"always_notify_", "always"}} {
		r, err := h.putFor(ctx, c.prefix+"puts", "enable", c.notify, settings{})
		if err != nil {
			return err
		}
		h.figure(c.prefix+"jobs_per_second", r.rate)
		h.figure(c.prefix+"ratio", r.rate/floor.rate)
		h.figure(c.prefix+"backlog_jobs", r.backlog)
	}
	return nil
}

// putResult is how puts went beside a dispatcher.
type putResult struct {
	rate    float64 // jobs a second, from the first put until all of them had been run
	backlog float64 // jobs that had not been run when the last one was put
}

// putFor puts for the benchmark's duration, from all connections as fast as they can. That the dispatcher
// keeps up is part of it: the time until it has run all of them counts, too. One that is left behind
// takes no processor time from the puts.
func (h *harness) putFor(ctx context.Context, what, triggers, notify string, s settings) (r putResult, err error) {
	h.show.step("round %d: %s", h.round+1, what)
	if err := h.prepare(ctx, triggers); err != nil {
		return r, err
	}
	pool, err := h.connect(ctx, putters, notify)
	if err != nil {
		return r, err
	}
	defer pool.Close()
	put, start := 0, time.Now()
	var all *fleet
	err = h.with(ctx, 1, s, func(f *fleet) error {
		all = f
		start = time.Now()
		if put, err = putAll(ctx, h.queue.With(pool), h.scale.Duration); err != nil {
			return err
		}
		r.backlog = float64(max(0, put-f.Done()))
		return f.awaitDone(ctx, h, what, put)
	})
	if err != nil {
		return r, err
	}
	_, end, _ := all.Span()
	r.rate = float64(put) / end.Sub(start).Seconds()
	return r, nil
}

// putAll puts jobs from all connections at once until the time is over.
func putAll(ctx context.Context, queue *store.Queue, duration time.Duration) (put int, err error) {
	return load.Flood(putters, duration, func(int64) error {
		_, err := queue.Put(ctx, 0)
		return err
	})
}

// enqueueCopy compares PutMany with a bare COPY.
func enqueueCopy(ctx context.Context, h *harness) error {
	h.atLeast("ratio", 0.8)
	floor, err := h.copyTime(ctx, "the floor", "disable", func(n int) error {
		_, err := h.pool.CopyFrom(ctx, pgx.Identifier{h.schema, tableName}, []string{"q_name", "data"},
			pgx.CopyFromSlice(n, func(int) ([]any, error) { return []any{queueName, []byte("0")}, nil }))
		return err
	})
	if err != nil {
		return err
	}
	h.floor("jobs_per_second", floor)
	rate, err := h.copyTime(ctx, "PutMany", "enable", func(n int) error {
		_, err := store.PutMany(ctx, h.queue, slices.Values(make([]int, n)))
		return err
	})
	if err != nil {
		return err
	}
	h.figure("jobs_per_second", rate)
	h.figure("ratio", rate/floor)
	return nil
}

// copyTime is how many jobs a second put puts.
func (h *harness) copyTime(ctx context.Context, what, triggers string, put func(n int) error) (rate float64, err error) {
	h.show.step("round %d: %s", h.round+1, what)
	if err := h.prepare(ctx, triggers); err != nil {
		return 0, err
	}
	start := time.Now()
	err = put(h.scale.Jobs)
	return float64(h.scale.Jobs) / time.Since(start).Seconds(), err
}
