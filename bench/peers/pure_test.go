package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

func TestPercentilesOfTheHistogramAreThoseOfTheDelaysUpToOnePercent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.IntRange(1, 3_600_000_000), 1, 200).Draw(t, "us")
		p := rapid.SampledFrom([]float64{50, 95, 99, 99.9, 100}).Draw(t, "p")
		parts := rapid.IntRange(1, 3).Draw(t, "processes")
		histograms := make([]histogram, parts)
		for i, d := range us {
			histograms[i%parts].record(time.Duration(d) * time.Microsecond)
		}
		var all delays
		for _, h := range histograms {
			all = append(all, h.delays()...)
		}
		if all.count() != len(us) {
			t.Fatalf("got %d delays, want %d", all.count(), len(us))
		}
		got, ok := all.percentiles(p)
		slices.Sort(us)
		want := float64(us[int(math.Ceil(p/100*float64(len(us))))-1]) / 1000
		if !ok || got[0] < want*0.9999 || got[0] > want*bucketGrowth*1.0001 {
			t.Fatalf("got %v, %v, want %v ms and at most 1 %% more", got, ok, want)
		}
	})
}

func TestDelayOfNothingHasNoPercentileAndOneInThePastIsCounted(t *testing.T) {
	var h histogram
	if _, ok := h.delays().percentiles(50); ok {
		t.Error("got a percentile of no delays")
	}
	h.record(-time.Second)
	if got, ok := h.delays().percentiles(50); !ok || got[0] != 0.001 {
		t.Errorf("got %v, %v, want the first bucket's 0.001 ms", got, ok)
	}
}

func TestContendersTakeTurnsInEachRound(t *testing.T) {
	s := scale{processes: []int{1, 4}, rates: []float64{100, 200}}
	var got []string
	for _, step := range plan(2, []string{result.Drain, result.Load, result.Recovery, result.Idle}, []string{"A", "B"}, s) {
		for _, task := range step {
			got = append(got, fmt.Sprintf("%d %s %s %d %g", task.round, task.workload, task.contender, task.processes, task.offered))
		}
	}
	want := []string{
		"0 drain A 1 0", "0 drain B 1 0", "0 drain A 4 0", "0 drain B 4 0",
		"0 load A 1 100", "0 load B 1 100", "0 load A 1 200", "0 load B 1 200",
		"0 recovery A 2 0", "0 recovery B 2 0", "0 idle A 1 0", "0 idle B 1 0",
		"1 drain A 1 0", "1 drain B 1 0", "1 drain A 4 0", "1 drain B 4 0",
		"1 load A 1 100", "1 load B 1 100", "1 load A 1 200", "1 load B 1 200",
		"1 recovery A 2 0", "1 recovery B 2 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryWorkloadHasVariants(t *testing.T) {
	for _, workload := range allWorkloads {
		for _, s := range []scale{fullScale, quickScale} {
			if len(variants(workload, s)) == 0 {
				t.Errorf("%s: got none", workload)
			}
		}
	}
}

func TestFallenBehindIsTooFewJobsOrTooLateOnes(t *testing.T) {
	for _, c := range []struct {
		rate, p99 float64
		want      bool
	}{
		{100, 5, false},
		{95, 1000, false},
		{94.9, 5, true},
		{100, 1001, true},
		{0, 0, true},
	} {
		figures := map[string]float64{"jobs_per_second": c.rate, "pickup_p99_ms": c.p99}
		if c.rate == 0 { // no job was run
			delete(figures, "pickup_p99_ms")
		}
		if got := behind(100, figures); got != c.want {
			t.Errorf("%v/s of 100 with p99 %v ms: got %v, want %v", c.rate, c.p99, got, c.want)
		}
	}
}

func TestRateOfAQueueThatKeepsUpIsTheOfferedOneHoweverItPolls(t *testing.T) {
	l := at(1000, 2*time.Second)
	for _, c := range []struct {
		name     string
		run      int
		elapsed  time.Duration
		medianMS float64
		want     float64
	}{
		{"at once", 2000, 2 * time.Second, 1, 1000},
		{"polls every 200 ms: half of that is under way", 1900, 2 * time.Second, 100, 1000},
		{"does 62 %", 1240, 2 * time.Second, 400, 775},
		{"far behind: a fifth of the time at most is made up for", 200, 2 * time.Second, 1500, 125},
		{"calls too late: nothing is made up for", 2000, 4 * time.Second, 900, 500},
		{"nothing run", 0, 2 * time.Second, 0, 0},
	} {
		got := achieved(l, c.run, c.elapsed, c.medianMS)
		if math.Abs(got-c.want) > 0.01*c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestContenderIsSparedWhatItCouldNotDoBefore(t *testing.T) {
	r := &runner{
		present: map[string]*contender{"a": {}}, log: discard{}, results: &result.Results{},
		behind: map[int]map[string]bool{}, beyond: map[string]bool{}, failed: map[string]bool{},
	}
	ctx := t.Context()
	record := func(task task, figures map[string]float64, err error) {
		t.Helper()
		if r.spared(task) {
			t.Fatalf("spared %v before there is a reason", task)
		}
		r.record(ctx, task, outcome{figures: figures}, err)
	}
	record(task{workload: result.Load, contender: "a", offered: 100}, map[string]float64{"jobs_per_second": 50, "pickup_p99_ms": 1}, nil)
	record(task{workload: result.Recovery, contender: "a"}, map[string]float64{"rerun_more_than_ms": 5000}, nil)
	record(task{workload: result.Xmin, contender: "a"}, nil, errors.New("broken"))
	for _, c := range []struct {
		task
		want bool
	}{
		{task{workload: result.Load, contender: "a", offered: 200}, true},
		{task{workload: result.Load, contender: "a", offered: 100, round: 1}, false}, // each round has its chance
		{task{workload: result.Load, contender: "b", offered: 200}, false},
		{task{workload: result.Recovery, contender: "a", round: 1}, true},
		{task{workload: result.Xmin, contender: "a", round: 1}, true},
		{task{workload: result.Drain, contender: "a", round: 1}, false},
	} {
		if got := r.spared(c.task); got != c.want {
			t.Errorf("%+v: got spared %v, want %v", c.task, got, c.want)
		}
	}
	if len(r.results.Absent) != 1 || r.results.Measured[2].Note != "failed: broken" {
		t.Errorf("got %+v, want the failure among the absent and in a note", r.results)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestRerunsAreTheFirstRunsOfHeldJobsAfterTheKill(t *testing.T) {
	kill := time.Unix(1000, 0)
	at := func(ms int64) int64 { return kill.UnixNano() + ms*int64(time.Millisecond) }
	held := []run{{ID: 1, At: at(-50)}, {ID: 2, At: at(-50)}, {ID: 3, At: at(-50)}}
	starts := []run{{ID: 2, At: at(30)}, {ID: 1, At: at(-10)}, {ID: 1, At: at(20)}, {ID: 2, At: at(40)}, {ID: 9, At: at(1)}}
	if got := reruns(held, starts, kill); !slices.Equal(got, []float64{20, 30}) {
		t.Errorf("got %v, want 20 and 30 ms", got)
	}
}

func TestBoundThatIsReachedIsNoErrorAndTheEndOfTheRunIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if reached, err := within(t.Context(), time.Second, wait); !reached || err != nil {
			t.Errorf("got %v, %v, want reached", reached, err)
		}
		broken := errors.New("broken")
		if reached, err := within(t.Context(), time.Second, func(context.Context) error { return broken }); reached || !errors.Is(err, broken) {
			t.Errorf("got %v, %v, want the error", reached, err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, broken)
		defer cancel()
		if reached, err := within(ctx, time.Minute, wait); reached || !errors.Is(err, broken) {
			t.Errorf("got %v, %v, want the cause of the outer end", reached, err)
		}
	})
}

func TestFaultIsJudgedByWhatBecameOfTheJobs(t *testing.T) {
	struck := time.Unix(1000, 0)
	at := func(ms int64) int64 { return struck.UnixNano() + ms*int64(time.Millisecond) }
	runs := func(pairs ...int64) (all []run) {
		for pair := range slices.Chunk(pairs, 2) {
			all = append(all, run{ID: pair[0], At: at(pair[1])})
		}
		return all
	}
	// 1 is done before; 2 is in hand and done twice, 3 in hand and run again once, 4 in hand and still in the table, 5 was put
	// and is nowhere, 6 was fetched before and started afterwards, 7 and 8 were put afterwards.
	victim := &member{Starts: runs(1, -500, 2, -100, 3, -100, 4, -100, 6, 10, 8, 300), Ends: runs(1, -300, 2, 50, 6, 210, 8, 500)}
	other := &member{Starts: runs(2, 20, 3, 40, 7, 30), Ends: runs(2, 220, 3, 240, 7, 230)}
	h := history{
		accepted: runs(1, -510, 2, -110, 3, -110, 4, -110, 5, -110, 6, -5, 7, 5, 8, 250),
		victims:  members{victim}, struck: struck, from: struck, unfinished: 1,
	}
	o := outcome{figures: map[string]float64{}}
	h.judge(&o, members{victim, other}, time.Minute)
	want := map[string]float64{
		"lost_jobs": 1, "stuck_jobs": 1, "rerun_jobs": 2, "repeated_jobs": 1, "held_jobs": 3, "rerun_p50_ms": 20, "rerun_max_ms": 40,
		"rerun_more_than_ms": 60_000, "first_start_ms": 10, "victim_start_ms": 300, "back_ms": 0,
	}
	if diff := cmp.Diff(want, o.figures); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRateIsBackInTheFirstSecondThatHasNineTenthsOfIt(t *testing.T) {
	struck := time.Unix(1000, 0)
	every := func(step, from, to int64) (at []int64) { // ms
		for ms := from; ms < to; ms += step {
			at = append(at, struck.UnixNano()+ms*int64(time.Millisecond))
		}
		return at
	}
	for _, c := range []struct {
		name string
		ends []int64
		want float64
	}{
		{"never gone", every(10, -1000, 5000), 0},
		{"stands for two seconds", slices.Concat(every(10, -1000, 0), every(10, 2000, 5000)), 1900},
		{"half the rate for two seconds", slices.Concat(every(10, -1000, 0), every(20, 0, 2000), every(10, 2000, 5000)), 1800},
	} {
		if got := back(c.ends, struck, struck); math.Abs(got-c.want) > 1 {
			t.Errorf("%s: got %v ms, want %v ms", c.name, got, c.want)
		}
	}
	if got := back(every(10, -1000, 0), struck, struck); !math.IsNaN(got) {
		t.Errorf("a rate that never comes back: got %v, want none", got)
	}
}
