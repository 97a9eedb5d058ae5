// The workloads, each of them one run of one contender.

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

const (
	// trialBound is for one run with all that belongs to it. None needs it, unless something hangs.
	trialBound = 90 * time.Second
	// pickUp bounds how long the first job of a drain may take to be picked up: pollers poll.
	pickUp = 6 * time.Second
	// glance is how often a table is asked whether all is done, when the handlers of all jobs have returned.
	glance = 2 * time.Millisecond
)

var errBound = errors.New("the bound was reached")

// outcome is what a run found.
type outcome struct {
	figures map[string]float64
	note    string
}

// figure adds a figure, unless there is none.
func (o *outcome) figure(name string, v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		o.figures[name] = v
	}
}

// cost adds what each of n jobs has cost.
func (o *outcome) cost(before, after usage, n int) {
	if n > 0 {
		o.figure("wal_bytes_per_job", (after.wal-before.wal)/float64(n))
		o.figure("server_cpu_us_per_job", (after.cpu-before.cpu)*1e6/float64(n))
		o.figure("queries_per_job", (after.queries-before.queries)/float64(n))
	}
}

// pickups adds the percentiles of delays.
func (o *outcome) pickups(d delays, names ...string) {
	for i, p := range []float64{50, 95, 99, 99.9} {
		if ms, ok := d.percentiles(p); ok && names[i] != "" {
			o.figure(names[i], ms[0])
		}
	}
}

// trial is a run: a new database, a pool for the producer, and workers.
type trial struct {
	c        *contender
	scale    scale
	settings settings // of the workers
	db       *database
	pool     *pgxpool.Pool
	producer
	workers *fleet
}

// try gives do a trial, and removes all that there was of it.
func (r *runner) try(ctx context.Context, c *contender, s settings, do func(ctx context.Context, t *trial) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, trialBound, fmt.Errorf("not over within %v", trialBound))
	defer cancel()
	t := &trial{c: c, scale: r.scale, settings: s}
	if t.db, err = r.server.create(ctx, r.templates[c.ID]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.db.drop()) }()
	if err = t.db.look(ctx); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(t.db.url)
	if err != nil {
		return err
	}
	config.MaxConns = putters
	if t.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	defer t.pool.Close()
	if t.producer, err = c.produce(ctx, t.pool); err != nil {
		return err
	}
	t.settings.DatabaseURL, t.settings.Settings = t.db.url, c.setting
	t.workers = newFleet(c.exec)
	stop := sync.OnceValue(t.workers.stop)
	defer func() { err = errors.Join(err, stop()) }()
	return do(ctx, t)
}

// warm opens all connections of the pool: what that takes is not to be measured.
func (t *trial) warm(ctx context.Context) error {
	for range putters {
		conn, err := t.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // all of them at the end, else it would be the same one each time
	}
	return nil
}

// unfinished is how many jobs have not been run to their end, as the table says.
func (t *trial) unfinished(ctx context.Context) (n int, err error) {
	err = t.db.conn.QueryRow(ctx, `select count(*) `+t.c.unfinished).Scan(&n)
	return n, err
}

// finished waits until there are none.
func (t *trial) finished(ctx context.Context) error {
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		var some bool
		// Not cancelled: that would cost the connection. It has a statement_timeout.
		err := t.db.conn.QueryRow(context.WithoutCancel(ctx), `select exists (select `+t.c.unfinished+`)`).Scan(&some)
		if err != nil || !some {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// within is do with a bound of its own; to reach it is no error.
func within(ctx context.Context, bound time.Duration, do func(ctx context.Context) error) (reached bool, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, bound, errBound)
	defer cancel()
	err = do(bounded)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(bounded), errBound) {
		return true, nil
	}
	return false, err
}

// ---------------------------------------------------------------- drain

// drained is how a drain went.
type drained struct {
	outcome
	jobs    int
	rate    float64
	elapsed time.Duration
}

// drain puts n jobs in one transaction beside workers that wait for them. The clock runs from the first handler entered
// until the last job's completion has been written; how soon that first one starts is another workload.
func (r *runner) drain(ctx context.Context, c *contender, processes, n int, heldXmin bool) (d drained, err error) {
	d = drained{outcome: outcome{figures: map[string]float64{}}, jobs: n}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if heldXmin {
			holder, err := t.db.snapshot(ctx)
			if err != nil {
				return err
			}
			defer holder.Close(context.WithoutCancel(ctx))
			if _, err := holder.Exec(ctx, `begin isolation level repeatable read; select 1`); err != nil {
				return err
			}
		}
		if err := t.workers.start(ctx, processes, t.settings); err != nil {
			return err
		}
		var before usage
		err := pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) (err error) {
			if err := t.fill(ctx, tx, 1, n); err != nil {
				return fmt.Errorf("fill the queue: %w", err)
			}
			if _, err := tx.Exec(ctx, `analyze `+c.table); err != nil { // as autovacuum would have done by then
				return err
			}
			before, err = t.db.usage(ctx)
			return err
		})
		if err != nil {
			return err
		}
		late, err := within(ctx, pickUp, func(ctx context.Context) error { return t.workers.awaitDone(ctx, 1) })
		if err != nil {
			return err
		}
		if late {
			return fmt.Errorf("no job was run within %v", pickUp)
		}
		ended, err := within(ctx, 2*t.scale.drain, func(ctx context.Context) error {
			if err := t.workers.awaitDone(ctx, n); err != nil {
				return err
			}
			return t.finished(ctx)
		})
		if err != nil {
			return err
		}
		end := time.Now()
		left := 0
		if ended {
			if left, err = t.unfinished(ctx); err != nil {
				return err
			}
			d.note = fmt.Sprintf("ended after %v with %d of %d jobs done", 2*t.scale.drain, n-left, n)
		}
		after, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		first, _, _ := t.workers.span()
		d.elapsed = end.Sub(first)
		d.rate = float64(n-left) / d.elapsed.Seconds()
		if done := t.workers.done(); ended && done > 1 {
			// Of one job every 2 seconds 3 seconds see two.
			first, last, _ := t.workers.span()
			d.rate = min(d.rate, float64(done-1)/last.Sub(first).Seconds())
		}
		d.figure("jobs_per_second", d.rate)
		d.figure("jobs", float64(n))
		if extra := t.workers.done() - n; extra > 0 {
			d.figure("repeated_jobs", float64(extra))
		}
		d.cost(before, after, n-left)
		return nil
	})
	return d, err
}

// drainToScale chooses the number of jobs by how fast the contender was before; if it is too small, it drains again.
func (r *runner) drainToScale(ctx context.Context, c *contender, processes int) (d drained, err error) {
	for range 3 {
		n := firstDrain
		if rate, ok := r.rates[rateOf{c.ID, processes}]; ok {
			n = int(rate * r.scale.drain.Seconds())
		} else if rate, ok := r.rates[rateOf{c.ID, 1}]; ok {
			n = int(rate * r.scale.drain.Seconds())
		}
		n = min(max(n, fewestDrained), mostDrained)
		if d, err = r.drain(ctx, c, processes, n, false); err != nil {
			return d, err
		}
		r.rates[rateOf{c.ID, processes}] = d.rate
		if n == mostDrained || d.elapsed >= r.scale.drain/2 {
			break
		}
	}
	return d, nil
}

// xmin compares a drain with a snapshot held open with one of as many jobs without.
func (r *runner) xmin(ctx context.Context, c *contender, round int) (o outcome, err error) {
	plain, ok := r.plain[round][c.ID]
	if !ok {
		if plain, err = r.drainToScale(ctx, c, 1); err != nil {
			return o, err
		}
	}
	held, err := r.drain(ctx, c, 1, plain.jobs, true)
	if err != nil {
		return o, err
	}
	held.figure("ratio", held.rate/plain.rate)
	return held.outcome, nil
}

// ---------------------------------------------------------------- rates

// bearable is a load at a low rate, lower still for a contender that is slower, for as long as that takes: what is asked
// is how soon it starts a job that it has the time to start.
func (r *runner) bearable(c *contender, rate float64, duration time.Duration) load {
	const least = 4 // jobs
	if drained, ok := r.rates[rateOf{c.ID, 1}]; ok && 0.8*drained < rate {
		rate = 0.8 * drained
		duration = min(max(duration, time.Duration(least/rate*float64(time.Second))), r.scale.longest)
	}
	return load{rate, duration}
}

// load puts single jobs at a rate, whatever becomes of them, and measures from when each should have been put.
func (r *runner) load(ctx context.Context, c *contender, l load) (o outcome, err error) {
	o.figures = map[string]float64{}
	warmup := max(1, l.calls()/10) // statements are prepared in it
	run, put := 0, 0
	var elapsed time.Duration
	var late bool
	var workers *fleet
	var before, after usage
	err = r.try(ctx, c, settings{Measure: measureStamp}, func(ctx context.Context, t *trial) error {
		workers = t.workers
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		if before, err = t.db.usage(ctx); err != nil {
			return err
		}
		start := time.Now()
		late, err = within(ctx, 2*l.duration, func(ctx context.Context) (err error) {
			put, err = l.run(ctx, func(ctx context.Context, n int, due time.Time) error {
				j := job{ID: int64(n + 1)}
				if n >= warmup {
					j.Stamp = due.UnixNano()
				}
				return t.put(ctx, j, time.Time{})
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		elapsed, run = time.Since(start), t.workers.done()
		ended, err := within(ctx, l.duration, func(ctx context.Context) error { return t.workers.awaitDone(ctx, put) })
		if err != nil {
			return err
		}
		total := t.workers.done()
		if late || ended {
			o.note = fmt.Sprintf("%d of %d jobs put, %d run when it was ended", put, l.calls(), total)
		}
		if !ended {
			if _, err := within(ctx, time.Second, t.finished); err != nil { // so that the cost is all there
				return err
			}
		}
		if after, err = t.db.usage(ctx); err != nil {
			return err
		}
		o.cost(before, after, total)
		return nil
	})
	if err != nil {
		return o, err
	}
	delays, _ := workers.delays()
	o.pickups(delays, "pickup_p50_ms", "pickup_p95_ms", "pickup_p99_ms", "pickup_p999_ms")
	o.figure("jobs_per_second", l.achieved(run, elapsed, o.figures["pickup_p50_ms"]))
	return o, nil
}

// schedule puts jobs that become due one after another, all of them beforehand. Each is stamped with when it is due, so
// that none measures from the time as its library reads it, which may be in whole ms.
func (r *runner) schedule(ctx context.Context, c *contender, due load) (o outcome, err error) {
	o.figures = map[string]float64{}
	var workers *fleet
	run := 0
	err = r.try(ctx, c, settings{Measure: measureStamp}, func(ctx context.Context, t *trial) error {
		workers = t.workers
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		first := time.Now().Add(r.scale.lead).Truncate(time.Millisecond) // what all of them can tell
		now := load{rate: float64(due.calls()) * 1000, duration: time.Millisecond}
		_, err := now.run(ctx, func(ctx context.Context, n int, _ time.Time) error {
			at := first.Add(due.due(n))
			return t.put(ctx, job{ID: int64(n + 1), Stamp: at.UnixNano()}, at)
		})
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		if !time.Now().Before(first) {
			return fmt.Errorf("the first job was due before all were put, in %v", r.scale.lead)
		}
		bound := time.Until(first) + due.duration + r.scale.late
		ended, err := within(ctx, bound, func(ctx context.Context) error { return t.workers.awaitDone(ctx, due.calls()) })
		run = t.workers.done()
		if ended {
			o.note = fmt.Sprintf("%d of %d jobs run when it was ended, %v after the last was due", run, due.calls(), r.scale.late)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	delays, early := workers.delays()
	o.pickups(delays, "lateness_p50_ms", "", "lateness_p99_ms", "")
	o.figure("early", float64(early))
	return o, nil
}

// enqueue puts single jobs from all connections as fast as they can, beside a worker.
func (r *runner) enqueue(ctx context.Context, c *contender) (o outcome, err error) {
	o.figures = map[string]float64{}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if err := t.warm(ctx); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		warmed, err := t.putFor(ctx, r.scale.enqueue/4) // statements are prepared in it
		if err != nil {
			return err
		}
		before, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		n, err := t.putFor(ctx, r.scale.enqueue)
		if err != nil {
			return err
		}
		elapsed := time.Since(start)
		after, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		o.figure("puts_per_second", float64(n)/elapsed.Seconds())
		o.figure("backlog_jobs", float64(max(0, warmed+n-t.workers.done())))
		o.cost(before, after, n)
		return nil
	})
	return o, err
}

// putFor puts from all connections at once until the time is over.
func (t *trial) putFor(ctx context.Context, d time.Duration) (put int, err error) {
	var total atomic.Int64
	errs := make([]error, putters)
	var all sync.WaitGroup
	start := time.Now()
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil && time.Since(start) < d {
				errs[i] = t.put(ctx, job{ID: total.Add(1)}, time.Time{})
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	return int(total.Load()), nil
}

// ---------------------------------------------------------------- waiting

// recovery kills a process that runs jobs, while another one lives, and waits until that one runs them. alone is
// held as long as the machine should be ours: from the start until a moment after the kill.
func (r *runner) recovery(ctx context.Context, c *contender, alone *sync.Mutex) (o outcome, err error) {
	o.figures = map[string]float64{}
	alone.Lock()
	release := sync.OnceFunc(alone.Unlock)
	defer release()
	if err := ctx.Err(); err != nil {
		return o, err
	}
	err = r.try(ctx, c, settings{Starts: true}, func(ctx context.Context, t *trial) error {
		holding := t.settings
		holding.Hold = true
		if err := t.workers.start(ctx, 1, holding); err != nil {
			return err
		}
		for id := range int64(heldJobs) {
			if err := t.put(ctx, job{ID: id + 1}, time.Time{}); err != nil {
				return fmt.Errorf("put: %w", err)
			}
		}
		victim := t.workers.members[0]
		started := func(n int) func(context.Context) error {
			return func(ctx context.Context) error {
				return t.workers.await(ctx, func() bool { return len(victim.starts) >= n })
			}
		}
		late, err := within(ctx, pickUp, started(1))
		if err != nil {
			return err
		}
		if late {
			return fmt.Errorf("no job was run within %v", pickUp)
		}
		if _, err := within(ctx, time.Second, started(heldJobs)); err != nil { // or as many as it runs at once
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		held := t.workers.starts(victim)
		at := time.Now()
		if err := t.workers.kill(ctx, victim); err != nil {
			return err
		}
		var again []float64 // ms
		rerun := func(ctx context.Context) error {
			return t.workers.await(ctx, func() bool {
				again = reruns(held, t.workers.members[1].starts, at)
				return len(again) == len(held)
			})
		}
		ended, err := within(ctx, t.scale.moment, rerun)
		release()
		if err == nil && ended {
			_, err = within(ctx, t.scale.recovery-time.Since(at), rerun)
		}
		if err != nil {
			return err
		}
		o.figure("held_jobs", float64(len(held)))
		if 2*len(again) < len(held) {
			o.figure("rerun_more_than_ms", float64(t.scale.recovery.Milliseconds()))
		} else {
			o.figure("rerun_p50_ms", again[(len(again)-1)/2])
		}
		if len(again) < len(held) {
			o.note = fmt.Sprintf("%d of %d jobs were run again within %v", len(again), len(held), t.scale.recovery)
		}
		return nil
	})
	return o, err
}

// reruns is how long after the kill each held job was run again, sorted, in ms; only its first run counts.
func reruns(held, starts []start, kill time.Time) (ms []float64) {
	seen := map[int64]bool{}
	for _, s := range starts {
		isHeld := slices.ContainsFunc(held, func(h start) bool { return h.ID == s.ID })
		if isHeld && !seen[s.ID] && s.At >= kill.UnixNano() {
			seen[s.ID] = true
			ms = append(ms, float64(s.At-kill.UnixNano())/float64(time.Millisecond))
		}
	}
	slices.Sort(ms)
	return ms
}

// idle counts the queries of a worker that has nothing to do.
func (r *runner) idle(ctx context.Context, c *contender) (o outcome, err error) {
	o.figures = map[string]float64{}
	err = r.try(ctx, c, settings{}, func(ctx context.Context, t *trial) error {
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		pass := func(d time.Duration) error {
			_, err := within(ctx, d, func(ctx context.Context) error { return t.workers.awaitDone(ctx, 1) })
			return err
		}
		if err := pass(t.scale.rest); err != nil {
			return err
		}
		before, err := t.db.usage(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := pass(t.scale.idle); err != nil {
			return err
		}
		elapsed := time.Since(start)
		after, err := t.db.usage(ctx)
		o.figure("queries_per_minute", (after.queries-before.queries)/elapsed.Minutes())
		return err
	})
	return o, err
}

// measure is one task, in which it notes the rate that was offered. The workloads of waiting are not among them.
func (r *runner) measure(ctx context.Context, c *contender, t *task) (o outcome, err error) {
	switch t.workload {
	case result.Drain:
		d, err := r.drainToScale(ctx, c, t.processes)
		if t.processes == 1 && err == nil {
			if r.plain[t.round] == nil {
				r.plain[t.round] = map[string]drained{}
			}
			r.plain[t.round][c.ID] = d
		}
		return d.outcome, err
	case result.Load:
		return r.load(ctx, c, load{t.offered, r.scale.load})
	case result.Latency:
		l := r.bearable(c, latencyRate, r.scale.latency)
		t.offered = l.rate
		return r.load(ctx, c, l)
	case result.Schedule:
		return r.schedule(ctx, c, r.bearable(c, scheduleRate, r.scale.schedule))
	case result.Enqueue:
		return r.enqueue(ctx, c)
	case result.Xmin:
		return r.xmin(ctx, c, t.round)
	}
	panic("no workload " + t.workload)
}
