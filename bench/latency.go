// latency: how soon a job starts, in an idle system and in a busy one.

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/load"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// latency compares the way of a job, from the call of Put until its handler is entered, with that of
// a notification to a bare listener that then reads one row.
func latency(ctx context.Context, h *harness) error {
	h.atMost("p50_ratio", 1.4)
	h.atMost("p99_ratio", 2)
	floor, err := h.latencyFloor(ctx)
	if err != nil {
		return err
	}
	dispatcher, err := h.offered(ctx, 1, h.pacedPuts(fromCall))
	if err != nil {
		return err
	}
	delays, _, _ := dispatcher.delays()
	for _, p := range []struct {
		name string
		p    float64
	}{{"p50", 50}, {"p99", 99}, {"max", 100}} {
		h.floor(p.name+"_ms", floor.percentile(p.p))
		h.figure(p.name+"_ms", delays.percentile(p.p))
		if p.p < 100 {
			h.figure(p.name+"_ratio", delays.percentile(p.p)/floor.percentile(p.p))
		}
	}
	return nil
}

// pace is the load of single puts.
func (h *harness) pace() load.Load {
	return load.Load{Rate: float64(h.scale.Rate), Duration: h.scale.Duration, Callers: putters}
}

// warmup is how many calls of a load come before the ones that count: connections are opened in them,
// statements prepared.
func warmup(l load.Load) int { return min(l.Calls()/10, int(l.Rate)) }

// pacer offers load to dispatchers and returns how many jobs it has put.
type pacer func(ctx context.Context) (put int, err error)

// countedFrom says since when a put takes its time.
type countedFrom int

const (
	fromCall countedFrom = iota // for an idle system, where no put waits for another one
	fromDue                     // when it should have been called
)

// pacedPuts puts single jobs at the benchmark's rate.
func (h *harness) pacedPuts(since countedFrom) pacer {
	return func(ctx context.Context) (int, error) {
		pool, err := h.connect(ctx, putters, "")
		if err != nil {
			return 0, err
		}
		defer pool.Close()
		queue := h.queue.With(pool)
		l := h.pace()
		_, err = l.Run(ctx, func(ctx context.Context, n int, due time.Time) error {
			h.show.at("putting", n, l.Calls())
			stamp := due.UnixNano()
			if since == fromCall {
				stamp = time.Now().UnixNano()
			}
			if n < warmup(l) {
				stamp = 0
			}
			_, err := queue.Put(ctx, stamp)
			return err
		})
		return l.Calls(), err
	}
}

// offered has dispatchers run what is offered, and returns when they have stopped.
func (h *harness) offered(ctx context.Context, processes int, offer pacer) (all *fleet, err error) {
	h.show.step("round %d: %d process(es)", h.round+1, processes)
	if err := h.prepare(ctx, "enable"); err != nil {
		return nil, err
	}
	err = h.with(ctx, processes, settings{Delay: fromStamp}, func(f *fleet) error {
		all = f
		put, err := offer(ctx)
		if err != nil {
			return err
		}
		return f.awaitDone(ctx, h, "running", put)
	})
	return all, err
}

// latencyFloor inserts rows that notify, without the trigger, and has a listener read each.
func (h *harness) latencyFloor(ctx context.Context) (*histogram, error) {
	h.show.step("round %d: the floor", h.round+1)
	if err := h.prepare(ctx, "disable"); err != nil {
		return nil, err
	}
	const channel = "pq_dispatch_bench_floor"
	listener, err := pgx.ConnectConfig(ctx, h.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	defer listener.Close(context.WithoutCancel(ctx))
	if _, err := listener.Exec(ctx, `listen `+channel); err != nil {
		return nil, err
	}
	pool, err := h.connect(ctx, putters, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()

	l := h.pace()
	delays := newHistogram()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var listening sync.WaitGroup
	listening.Go(func() {
		for range l.Calls() {
			if err := h.hearAndRead(ctx, listener, delays); err != nil {
				cancel(err)
				return
			}
		}
	})
	_, err = l.Run(ctx, func(ctx context.Context, n int, _ time.Time) error {
		stamp := time.Now().UnixNano()
		if n < warmup(l) {
			stamp = 0
		}
		var id int64
		return pool.QueryRow(ctx, `
			with put as (
			  insert into `+h.jobs.Table()+` (q_name, data) values ($1, $2::jsonb)
			  returning id
			)
			select id from put, pg_notify($3, put.id::text)`, queueName, strconv.FormatInt(stamp, 10), channel).Scan(&id)
	})
	if err != nil {
		cancel(err)
	}
	listening.Wait()
	return delays, errors.Join(err, context.Cause(ctx))
}

func (h *harness) hearAndRead(ctx context.Context, listener *pgx.Conn, delays *histogram) error {
	n, err := listener.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	id, err := strconv.ParseInt(n.Payload, 10, 64)
	if err != nil {
		return err
	}
	var data []byte
	err = listener.QueryRow(ctx, `select data from `+h.jobs.Table()+` where id = $1`, id).Scan(&data)
	if err != nil {
		return err
	}
	now := time.Now()
	stamp, err := strconv.ParseInt(string(data), 10, 64)
	if err == nil && stamp != 0 {
		delays.record(now.Sub(time.Unix(0, stamp)))
	}
	return err
}

// The load of latencyLoad comes in batches, as single puts cannot reach what dispatchers can do.
const (
	loadProcesses = 4
	loadShare     = 0.6
	loadBatches   = 100 // a second
	floodBatch    = 1000
	floodShare    = 6 // of the duration: so much less is the capacity measured
)

// latencyLoad offers a share of the drain rate, in batches that arrive whatever happens, and measures from
// when each batch should have been put. Where puts and dispatchers share the processors that may be more than there is for
// both, so it offers the same share of what they can do together as well.
func latencyLoad(ctx context.Context, h *harness) error {
	h.atMost("p99_ms", 25)
	if rate := float64(h.scale.Rate); rate > 0 {
		return h.openLoop(ctx, "", rate)
	}
	h.atMost("capacity_p99_ms", 25)
	d, err := h.drain(ctx, loadProcesses)
	if err != nil {
		return err
	}
	h.figure("drain_jobs_per_second", d.rate)
	if err := h.openLoop(ctx, "", loadShare*d.rate); err != nil {
		return err
	}
	capacity, err := h.capacity(ctx)
	if err != nil {
		return err
	}
	h.figure("capacity_jobs_per_second", capacity)
	return h.openLoop(ctx, "capacity_", loadShare*capacity)
}

// capacity is how many jobs a second are put and run, where as many are put as can be.
func (h *harness) capacity(ctx context.Context) (rate float64, err error) {
	pool, err := h.connect(ctx, putters, "")
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	queue := h.queue.With(pool)
	var put int
	var start, end time.Time
	all, err := h.offered(ctx, loadProcesses, func(ctx context.Context) (int, error) {
		start = time.Now()
		calls, err := load.Flood(putters, h.scale.Duration/floodShare, func(int64) error {
			_, err := store.PutMany(ctx, queue, slices.Values(make([]int, floodBatch)))
			return err
		})
		put = calls * floodBatch
		return put, err
	})
	if err != nil {
		return 0, err
	}
	all.Look(func(members members) { _, end, _ = members.Span() })
	return float64(put) / end.Sub(start).Seconds(), nil
}

// openLoop offers a rate and tells how soon its jobs start.
func (h *harness) openLoop(ctx context.Context, prefix string, rate float64) error {
	h.figure(prefix+"offered_jobs_per_second", rate)
	late, elapsed, put := newHistogram(), time.Duration(0), 0
	dispatchers, err := h.offered(ctx, loadProcesses, func(ctx context.Context) (_ int, err error) {
		start := time.Now()
		put, err = h.pacedBatches(ctx, rate, late)
		elapsed = time.Since(start)
		return put, err
	})
	if err != nil {
		return err
	}
	delays, _, _ := dispatchers.delays()
	h.figure(prefix+"put_jobs_per_second", float64(put)/elapsed.Seconds())
	h.figure(prefix+"p50_ms", delays.percentile(50))
	h.figure(prefix+"p99_ms", delays.percentile(99))
	h.figure(prefix+"max_ms", delays.percentile(100))
	h.figure(prefix+"producer_late_p99_ms", late.percentile(99))
	return nil
}

// pacedBatches puts jobs at a rate, by COPY. late counts how much later than due puts started.
func (h *harness) pacedBatches(ctx context.Context, rate float64, late *histogram) (put int, err error) {
	pool, err := h.connect(ctx, putters, "")
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	queue := h.queue.With(pool)
	batch := max(1, int(rate/loadBatches))
	l := load.Load{Rate: rate / float64(batch), Duration: h.scale.Duration, Callers: putters}
	var total atomic.Int64
	var mu sync.Mutex // of late
	_, err = l.Run(ctx, func(ctx context.Context, n int, due time.Time) error {
		mu.Lock()
		late.record(time.Since(due))
		mu.Unlock()
		h.show.at("putting batches", n, l.Calls())
		stamp := due.UnixNano()
		if n < warmup(l) {
			stamp = 0
		}
		ids, err := store.PutMany(ctx, queue, slices.Values(slices.Repeat([]int64{stamp}, batch)))
		total.Add(int64(len(ids)))
		if err != nil {
			return fmt.Errorf("put a batch: %w", err)
		}
		return nil
	})
	return int(total.Load()), err
}
