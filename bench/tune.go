// tune: which settings suit a user's jobs on a user's server. Package internal/tune searches; here is what it measures.

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/load"
	"github.com/pq-dispatch/pq-dispatch/internal/tune"
	"github.com/pq-dispatch/pq-dispatch/internal/workers"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// TuneOptions of [Tune].
type TuneOptions struct {
	Options // Exec starts the hidden command that calls [TuneProcess]; Quick, Scale and Profile have no meaning

	Payload int           // bytes of a job's data, about
	Work    time.Duration // that a handler waits for; 0: jobs do nothing
	Command []string      // a program, by its absolute path, and its arguments, to be run for each job; instead of Work
	Rate    int           // puts a second; 0: as fast as they are run

	Budget time.Duration // of the search; 0: DefaultBudget
	Plot   string        // a file for an SVG; empty: none
}

const (
	// DefaultBudget is enough for jobs that take less than a second.
	DefaultBudget = 3 * time.Minute

	// MaxPayload is what a store takes if nothing else is said.
	MaxPayload = 1 << 20
)

// ErrBudget is matched by the error about a budget that is too short for jobs that take so long.
var ErrBudget = errors.New("the budget is too short")

// ErrCommand is matched by the error about a command that fails.
var ErrCommand = errors.New("the command fails")

const (
	trialsInBudget = 150 // by the time that counts; two thirds of these fit in, with what lies between them
	shortestTrial  = 300 * time.Millisecond
	longestTrial   = 1500 * time.Millisecond
	jobsInTrial    = 4  // one after another in a slot, at least
	fewestTrials   = 12 // that a budget has to allow

	mostConcurrency = 1000
	// mostPrograms is how many programs run at once at most: each is a process of this machine.
	mostPrograms = 100

	// singlePuts is how many puts a second come one by one; where there are more, they come in groups.
	singlePuts = 2000

	probeRate  = 200 // puts a second, for the p99 beside a throughput, if the default runs twice as many
	probeShare = 0.4 // of the time of a trial
	// fewestProbes is how many there are however slow the default was: none have no percentiles.
	fewestProbes = 10

	// patienceShare is how much longer than it should a trial may take, as a share of its time, until it is ended:
	// the setting does not keep up.
	patienceShare = 0.5
	slack         = 250 * time.Millisecond
)

// tuner measures settings.
type tuner struct {
	*harness
	o      TuneOptions
	data   tuneData
	length time.Duration // of a trial
	work   time.Duration // that a job takes, about
	probe  float64       // puts a second; 0: not known yet
	puts   *store.Queue  // over connections of their own, which stay from trial to trial
	wal    map[tune.Setting][]float64
}

// Tune searches and prints its [TuneReport]. When ctx ends it stops what it has started, removes what it has made, and
// returns the context's cause. An error that matches [ErrInUse] means that nothing was done.
func Tune(ctx context.Context, o TuneOptions) error {
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	report, err := search(ctx, o)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = report.print(o)
	}
	if err != nil {
		return fmt.Errorf("bench tune: %w", err)
	}
	return nil
}

func search(ctx context.Context, o TuneOptions) (report *TuneReport, err error) {
	t := &tuner{o: o, data: newTuneData(o.Payload), work: o.Work, wal: map[tune.Setting][]float64{}}
	if o.Command != nil {
		if t.work, err = t.tryCommand(ctx); err != nil {
			return nil, err
		}
	}
	t.length = max(min(o.Budget/trialsInBudget, longestTrial), shortestTrial, jobsInTrial*t.work)
	if o.Budget < fewestTrials*t.length {
		return nil, fmt.Errorf("%w: a job takes about %v, so give it %v at least", ErrBudget, t.work.Round(time.Millisecond), fewestTrials*t.length.Round(time.Second))
	}
	if o.DatabaseURL != "" {
		if err := refuseInUse(ctx, o.DatabaseURL); err != nil {
			return nil, err
		}
	}
	t.harness, err = open(ctx, Bench{Name: "tune"}, o.Options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	pool, err := t.connect(ctx, putters, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	t.puts = t.queue.With(pool)
	begin := time.Now()
	if err := t.calibrate(ctx); err != nil {
		return nil, err
	}
	trial := time.Since(begin)
	most := mostConcurrency
	if o.Command != nil {
		most = mostPrograms
	}
	s := tune.Search{
		Axes: tune.Axes(most), Goal: t.goal(), Budget: o.Budget - trial, Trial: trial, Measure: t.trial,
		Say: func(part string, of tune.Setting, trial int, left time.Duration) {
			t.show.step("%s: trial %d, %v; %v left", part, trial, of, max(0, left).Round(time.Second))
		},
	}
	found, err := s.Run(ctx)
	if err != nil {
		return nil, err
	}
	return t.tell(ctx, found, time.Since(begin))
}

func (t *tuner) goal() tune.Goal { return tune.Goal{Rate: float64(t.o.Rate)} }

// tryCommand runs the command once, so that one that fails is said at once, and tells how long it took.
func (t *tuner) tryCommand(ctx context.Context) (time.Duration, error) {
	h, err := newTuneExec(t.o.Command)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	defer func() { _ = h.Close(context.WithoutCancel(ctx)) }() // nothing runs any more
	start := time.Now()
	err = h.Handle(ctx, &dispatcher.Job{Job: &store.Job{ID: 1, Queue: queueName, Data: t.data.at(0), Attempt: 1}})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return time.Since(start), nil
}

// calibrate runs the default once, so that what is slow the first time is over, and to learn how much it can do.
func (t *tuner) calibrate(ctx context.Context) error {
	t.show.step("the default, to warm up")
	sample, err := t.trial(ctx, tune.Default)
	t.probe = max(1, min(probeRate, sample.Throughput/2))
	return err
}

// trial measures a setting once.
func (t *tuner) trial(ctx context.Context, s tune.Setting) (sample tune.Sample, err error) {
	if err := t.exec(ctx,
		`truncate `+t.jobs.Table()+`, `+t.support("ledger"),
		`vacuum (analyze) `+t.jobs.Table()); err != nil {
		return sample, err
	}
	f, err := t.start(ctx, s)
	if err != nil {
		return sample, err
	}
	var missing []time.Duration
	before, err := t.usage(ctx)
	began := time.Now()
	if err == nil {
		if t.o.Rate > 0 {
			sample, missing, err = t.offer(ctx, f, float64(t.o.Rate), t.length)
		} else {
			sample, missing, err = t.feed(ctx, f, s)
		}
	}
	if err == nil {
		var after usage
		after, err = t.usage(ctx)
		t.wal[s] = append(t.wal[s], after.since(before).wal/time.Since(began).Seconds())
	}
	if err = errors.Join(err, f.Stop()); err != nil {
		return sample, err
	}
	delays, _, _ := f.delays()
	for _, d := range missing[min(delays.count(), len(missing)):] { // who has not been picked up by now waits that long at least
		delays.record(d)
	}
	sample.P50, sample.P99 = delays.percentile(50), delays.percentile(99)
	return sample, nil
}

// start starts the processes of a setting and returns when they run jobs.
func (t *tuner) start(ctx context.Context, s tune.Setting) (*fleet, error) {
	f := &fleet{workers.New[message](t.options.Exec, patience)}
	for range s.Processes {
		t.started++
		name := fmt.Sprintf("dispatcher %d", t.started)
		err := f.Start(name, tuneSettings{
			settings: settings{Name: name, DatabaseURL: t.url, Schema: t.schema, Concurrency: s.Concurrency, Work: t.o.Work},
			Prefetch: s.Prefetch, Connections: s.Connections, Command: t.o.Command,
		})
		if err != nil {
			return nil, errors.Join(err, f.Stop())
		}
	}
	return f.allReady(ctx)
}

// errOver is the cause of the end of a part of a trial.
var errOver = errors.New("the time of the trial is over")

// until runs a part of a trial for a time at most. That it was over is no error, but told.
func until(ctx context.Context, end time.Time, do func(context.Context) error) (over bool, err error) {
	part, cancel := context.WithDeadlineCause(ctx, end, errOver)
	defer cancel()
	err = do(part)
	if part.Err() != nil && ctx.Err() == nil && context.Cause(part) == errOver {
		return true, nil // whatever it led to
	}
	return false, err
}

// offer puts at a rate, whatever the dispatchers do, and waits until they have run all, but not for ever. missing holds
// for each job whose pick-up counts how long it has waited at least, if it was never picked up.
func (t *tuner) offer(ctx context.Context, f *fleet, rate float64, length time.Duration) (sample tune.Sample, missing []time.Duration, err error) {
	group := max(1, int(math.Ceil(rate/singlePuts)))
	l := load.Load{Rate: rate / float64(group), Duration: length, Callers: putters}
	counted := l.Calls() - warmup(l)
	var put atomic.Int64
	start := time.Now()
	end := start.Add(length + time.Duration(patienceShare*float64(length)) + slack + t.work)
	done := f.Done()
	over, err := until(ctx, end, func(ctx context.Context) error {
		_, err := l.Run(ctx, func(ctx context.Context, n int, due time.Time) error {
			stamp := due.UnixNano()
			if n < warmup(l) {
				stamp = 0
			}
			if err := t.put(ctx, group, stamp); err != nil {
				return err
			}
			put.Add(int64(group))
			return nil
		})
		if err != nil {
			return err
		}
		return f.await(ctx, func(all members) bool { return all.Done()-done >= l.Calls()*group })
	})
	if err != nil {
		return sample, nil, err
	}
	last, now := time.Now(), 0
	f.Look(func(all members) {
		now = all.Done()
		if _, latest, _ := all.Span(); !over && latest.After(start) {
			last = latest
		}
	})
	sample.Throughput = float64(now-done) / max(last.Sub(start)-t.work, time.Millisecond).Seconds()
	if !over {
		sample.Throughput = min(sample.Throughput, rate) // the last puts come a little before the end
	}
	sample.KeptUp = !over
	// The first of those that count has waited longest; who is missing came among the last.
	for i := range counted {
		waited := time.Since(start.Add(l.Due(warmup(l) + i)))
		missing = append(missing, slices.Repeat([]time.Duration{waited}, group)...)
	}
	return sample, missing, nil
}

// put puts a group of jobs.
func (t *tuner) put(ctx context.Context, group int, stamp int64) (err error) {
	data := t.data.at(stamp)
	if group == 1 {
		_, err = t.puts.Put(ctx, data)
	} else {
		_, err = store.PutMany(ctx, t.puts, slices.Values(slices.Repeat([]json.RawMessage{data}, group)))
	}
	return err
}

// feed measures how soon jobs start that are put at a moderate rate, and then how many are run a second if there are
// always more of them.
func (t *tuner) feed(ctx context.Context, f *fleet, s tune.Setting) (sample tune.Sample, missing []time.Duration, err error) {
	if t.probe > 0 {
		probe := max(time.Duration(probeShare*float64(t.length)), t.work)
		rate := max(t.probe, fewestProbes/probe.Seconds())
		if sample, missing, err = t.offer(ctx, f, rate, probe); err != nil {
			return sample, nil, err
		}
	}
	sample.KeptUp = true // that is about a rate
	sample.Throughput, err = t.sustained(ctx, f, s)
	return sample, missing, err
}

const (
	reserve      = 100 * time.Millisecond // of jobs that wait, at the present rate
	fewWaiting   = 500
	mostAtOnce   = 64 << 20 // bytes that are put by one statement
	mostPuts     = 50_000   // the same, in jobs
	warmingShare = 0.25     // of the time of a trial, that does not count
)

// sustained has jobs put all the time, so that some always wait, and returns how many are run a second.
func (t *tuner) sustained(ctx context.Context, f *fleet, s tune.Setting) (rate float64, err error) {
	filling, stop := context.WithCancelCause(ctx)
	var filler sync.WaitGroup
	defer filler.Wait()
	defer stop(nil)
	filler.Go(func() { stop(t.fillUp(ctx, filling, f, s)) })
	begin := time.Now()
	warm := max(time.Duration(warmingShare*float64(t.length)), t.work+t.work/2)
	var before, after count
	for _, end := range []time.Duration{warm, t.length} {
		timer := time.NewTimer(time.Until(begin.Add(end)))
		select {
		case <-timer.C:
		case <-filling.Done():
			timer.Stop()
			return 0, context.Cause(filling)
		}
		before, after = after, f.count(begin)
	}
	return after.since(before), nil
}

// fillUp puts jobs, many at a time, whenever few wait, until filling ends: then a statement that is under way is not cut off
// by it, as that would cost the connection.
func (t *tuner) fillUp(ctx, filling context.Context, f *fleet, s tune.Setting) error {
	before := f.Done()
	begin := time.Now()
	put := 0
	// More than that never has to wait; with less, slots may stay empty.
	enough := func(done int) int {
		perSecond := float64(done) / time.Since(begin).Seconds()
		n := max(fewWaiting, 2*s.Concurrency*s.Processes, int(perSecond*reserve.Seconds()))
		return max(1, min(n, mostPuts, mostAtOnce/max(1, t.o.Payload)))
	}
	for {
		n := 0
		err := f.await(filling, func(all members) bool {
			done := all.Done() - before
			n = enough(done)
			return put-done <= n
		})
		if err != nil {
			return err
		}
		_, err = t.pool.Exec(ctx, `
			insert into `+t.jobs.Table()+` (q_name, data)
			select $1, $2::jsonb
			from generate_series(1, $3::int)`, queueName, string(t.data.at(0)), n)
		if err != nil {
			return fmt.Errorf("put jobs: %w", err)
		}
		put += n
	}
}

// count is how many jobs were done, and when the last of them.
type count struct {
	done int
	at   time.Time
}

// count is that of all processes. If none is done yet it is of begin. (What they tell comes a little later, so the time is
// theirs.)
func (f *fleet) count(begin time.Time) (c count) {
	f.Look(func(all members) {
		_, c.at, _ = all.Span()
		c.done = all.Done()
	})
	if c.at.Before(begin) {
		c.at = begin
	}
	return c
}

// since is jobs a second.
func (c count) since(before count) float64 {
	if !c.at.After(before.at) {
		return 0
	}
	return float64(c.done-before.done) / c.at.Sub(before.at).Seconds()
}
