// Faults under load: the server crashes, is away for a while, or the connections of a worker go half-open.

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
)

const (
	faultRate   = 100                    // jobs put a second
	faultWorkMS = 200                    // that each takes: some twenty are in hand
	faultStep   = 50 * time.Millisecond  // between two windows in which the rate is looked at
	faultWindow = time.Second            // of each
	backAt      = 0.9                    // of the rate before
	putPatience = 2 * time.Second        // for a put while the server is away
	settling    = 250 * time.Millisecond // for what workers have to tell
	telling     = 5 * time.Second        // for the end of each job, if that is not told by then
)

// missing is a figure that could not be had.
var missing = math.NaN()

// fault lets it happen beside two workers and a producer that goes on, and waits until no job is left, or the bound
// is reached. Jobs count from the moment from which they could be run: the end of what happens to the server, the beginning
// of what happens to a worker.
func (r *runner) fault(ctx context.Context, c *contender, workload string) (o outcome, err error) {
	o.figures = map[string]float64{}
	u, err := url.Parse(r.server.pg.URL(""))
	if err != nil {
		return o, err
	}
	link, err := proxy.New(u.Host, proxy.Options{})
	if err != nil {
		return o, err
	}
	defer link.Close()
	err = r.try(ctx, c, settings{Starts: true, WorkMS: faultWorkMS}, func(ctx context.Context, t *trial) error {
		through := t.settings
		if through.DatabaseURL, err = link.URL(t.db.url); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, through); err != nil {
			return err
		}
		if err := t.workers.start(ctx, 1, t.settings); err != nil {
			return err
		}
		both := members{t.workers.member(0), t.workers.member(1)}
		victims := both
		if workload == result.HalfOpen {
			victims = victims[:1]
		}

		puts := t.produceThroughout(ctx)
		h := history{victims: victims}
		if err = pause(ctx, t.scale.before); err == nil {
			h.struck = time.Now()
			h.from, err = r.strike(ctx, workload, link)
		}
		if err == nil {
			err = pause(ctx, t.scale.after)
		}
		puts.stop()
		h.accepted = puts.accepted
		if err != nil {
			return err
		}
		if err := t.db.look(ctx); err != nil { // the connection may have broken
			return err
		}
		late, err := within(ctx, t.scale.recovery, t.finished)
		if late { // else there was a moment with none: what comes later was not accepted
			h.unfinished, err = t.unfinished(ctx)
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, settling); err != nil {
			return err
		}
		_, err = within(ctx, telling, func(ctx context.Context) error {
			return t.workers.Await(ctx, 0, func(members) bool { return h.endless(both) <= h.unfinished })
		})
		if err != nil {
			return err
		}
		for _, m := range both { // how well they end is not the question
			if err := t.workers.Kill(ctx, m); err != nil {
				return err
			}
		}
		h.judge(&o, both, t.scale.after+t.scale.recovery)
		return nil
	})
	return o, err
}

// strike does what happens, and returns from when on jobs can be run again.
func (r *runner) strike(ctx context.Context, workload string, link *proxy.Proxy) (from time.Time, err error) {
	away := time.Duration(0)
	switch workload {
	case result.HalfOpen:
		from = time.Now()
		if link.HalfOpen(nil) == 0 {
			return from, errors.New("the worker has no connection that could go half-open")
		}
		return from, nil
	case result.Outage:
		away = r.scale.outage
	}
	if err := r.server.pg.Stop(ctx, devpg.Immediate); err != nil {
		return from, err
	}
	waited := pause(ctx, away)
	err = r.server.pg.Resume(context.WithoutCancel(ctx)) // others are to follow
	return time.Now(), errors.Join(waited, err)
}

// puts are the jobs whose puts were accepted: that they are not lost is what a queue promises.
type puts struct {
	stop func() // returns when no put is under way

	mu       sync.Mutex
	accepted []run // and when
}

// produceThroughout puts jobs until it is stopped. That a put fails is what faults do; the next one is made all the same.
func (t *trial) produceThroughout(ctx context.Context) *puts {
	ctx, cancel := context.WithCancel(ctx)
	p := &puts{}
	var producing sync.WaitGroup
	producing.Go(func() {
		_, _ = at(faultRate, trialBound).Run(ctx, func(ctx context.Context, n int, _ time.Time) error {
			id := int64(n + 1)
			ctx, cancel := context.WithTimeout(ctx, putPatience)
			defer cancel()
			if t.put(ctx, job{ID: id}, time.Time{}) != nil {
				t.pool.Reset() // the other connections are as broken
				return nil
			}
			p.mu.Lock()
			p.accepted = append(p.accepted, run{ID: id, At: time.Now().UnixNano()})
			p.mu.Unlock()
			return nil
		})
	})
	p.stop = func() {
		cancel()
		producing.Wait()
	}
	return p
}

// history is what is known of a fault.
type history struct {
	accepted   []run     // the puts, and when
	victims    members   // whose jobs are in hand when it happens
	struck     time.Time // when it happened
	from       time.Time // from when on jobs can be run again
	unfinished int       // jobs in the table in the end that were not run to their end
}

// judge says what became of the jobs. waited is how long it was waited for them.
func (h history) judge(o *outcome, all members, waited time.Duration) {
	starts, ends := map[int64][]int64{}, map[int64][]int64{} // of each job, when
	var done []int64                                         // when jobs ended for the first time
	for _, m := range all {
		for _, s := range m.Starts {
			starts[s.ID] = append(starts[s.ID], s.At)
		}
		for _, e := range m.Ends {
			ends[e.ID] = append(ends[e.ID], e.At)
		}
	}
	rerun, repeated := 0, 0
	for id := range starts {
		if len(starts[id]) > 1 {
			rerun++
		}
		if len(ends[id]) > 1 {
			repeated++
		}
		if len(ends[id]) > 0 {
			done = append(done, slices.Min(ends[id]))
		}
	}
	put := map[int64]int64{} // when
	for _, p := range h.accepted {
		put[p.ID] = p.At
	}
	// A job that no handler has ended is either still there or lost. One whose end was not written is still there, too.
	o.figure("lost_jobs", float64(max(0, h.endless(all)-h.unfinished)))
	o.figure("stuck_jobs", float64(h.unfinished))
	o.figure("rerun_jobs", float64(rerun))
	o.figure("repeated_jobs", float64(repeated))

	held := h.held()
	again := reruns(held, all.Starts(), h.from)
	o.figure("held_jobs", float64(len(held)))
	if len(again) > 0 {
		o.figure("rerun_p50_ms", again[(len(again)-1)/2])
		o.figure("rerun_max_ms", again[len(again)-1])
	}
	if h.unfinished > 0 {
		o.figure("rerun_more_than_ms", float64(waited.Milliseconds()))
		o.note = fmt.Sprintf("%d jobs were not run to their end within %v", h.unfinished, waited)
	}
	// What a worker had fetched before it may start afterwards, and says nothing about its connections.
	from := h.from.UnixNano()
	waiting := func(id int64) bool { return slices.Min(starts[id]) >= from }
	later := func(id int64) bool { return waiting(id) && put[id] >= from }
	o.figure("first_start_ms", first(all, from, waiting))
	o.figure("victim_start_ms", first(h.victims, from, later))
	o.figure("back_ms", back(done, h.struck, h.from))
}

// endless is how many of the jobs no worker has told the end of.
func (h history) endless(all members) (n int) {
	ended := map[int64]bool{}
	for _, m := range all {
		for _, e := range m.Ends {
			ended[e.ID] = true
		}
	}
	for _, p := range h.accepted {
		if !ended[p.ID] {
			n++
		}
	}
	return n
}

// held are the jobs that were in hand.
func (h history) held() (held []run) {
	at := h.struck.UnixNano()
	for _, m := range h.victims {
		for _, s := range m.Starts {
			ended := slices.ContainsFunc(m.Ends, func(e run) bool { return e.ID == s.ID && e.At < at })
			if s.At < at && !ended {
				held = append(held, s)
			}
		}
	}
	return held
}

// first is how long after from the first job of some was started, in ms.
func first(members members, from int64, of func(id int64) bool) (ms float64) {
	ms = missing
	for _, s := range members.Starts() {
		if s.At >= from && of(s.ID) {
			after := float64(s.At-from) / float64(time.Millisecond)
			if math.IsNaN(ms) || after < ms {
				ms = after
			}
		}
	}
	return ms
}

// back is how long after from the first second begins in which as many jobs end as before it happened, or nearly, in ms.
func back(ends []int64, struck, from time.Time) (ms float64) {
	in := func(begin time.Time) (n int) {
		for _, at := range ends {
			if at >= begin.UnixNano() && at < begin.Add(faultWindow).UnixNano() {
				n++
			}
		}
		return n
	}
	enough := backAt * float64(in(struck.Add(-faultWindow)))
	for begin := from; len(ends) > 0 && begin.UnixNano() <= slices.Max(ends); begin = begin.Add(faultStep) {
		if float64(in(begin)) >= enough {
			return float64(begin.Sub(from)) / float64(time.Millisecond)
		}
	}
	return missing
}

// pause waits, or returns the cause of the context's end.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
