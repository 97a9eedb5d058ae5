package tune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// landscape is a made-up machine: how good each setting is, with noise and a drift on top.
type landscape struct {
	peak  Setting
	steep float64 // loss per step away from the peak along an axis, as a logarithm; 0: all settings are equal
	noise float64 // standard deviation of a trial's logarithm
	drift float64 // change over the whole budget, as a logarithm

	trial time.Duration
	clock time.Time
	begin time.Time
	rand  *rand.Rand
}

// truth is the logarithm of how good a setting is.
func (l *landscape) truth(s Setting) (log float64) {
	for _, a := range Axes(1000) {
		log -= l.steep * math.Abs(float64(slices.Index(a.Values, *a.field(&s))-slices.Index(a.Values, *a.field(&l.peak))))
	}
	return log
}

func (l *landscape) measure(goal Goal) func(context.Context, Setting) (Sample, error) {
	return func(ctx context.Context, s Setting) (Sample, error) {
		l.clock = l.clock.Add(l.trial)
		log := l.truth(s) + l.noise*l.rand.NormFloat64() + l.drift*l.clock.Sub(l.begin).Minutes()
		if goal.Rate > 0 {
			return Sample{Throughput: goal.Rate, P99: 100 * math.Exp(-log), KeptUp: true}, ctx.Err()
		}
		return Sample{Throughput: 10_000 * math.Exp(log), P99: 5}, ctx.Err()
	}
}

func (l *landscape) search(t require, goal Goal, budget time.Duration) *Result {
	l.begin = time.Unix(0, 0)
	l.clock = l.begin
	s := Search{Axes: Axes(1000), Goal: goal, Budget: budget, Measure: l.measure(goal), now: func() time.Time { return l.clock }}
	r, err := s.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if r.Elapsed > budget+2*l.trial || r.Elapsed != l.clock.Sub(l.begin) || len(r.Trials) != int(r.Elapsed/l.trial) {
		t.Fatalf("got %d trials in %v, want the budget of %v kept", len(r.Trials), r.Elapsed, budget)
	}
	return r
}

// require is what a test and a check of rapid have both.
type require interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func TestTheOptimumIsFoundWithinTheBudgetInSpiteOfNoiseAndDrift(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var peak Setting
		for _, a := range Axes(1000) {
			*a.field(&peak) = rapid.SampledFrom(a.Values).Draw(t, a.Name)
		}
		l := &landscape{
			peak: peak, steep: rapid.Float64Range(0.15, 0.5).Draw(t, "steep"), noise: rapid.Float64Range(0, 0.02).Draw(t, "noise"),
			drift: rapid.Float64Range(-0.1, 0.1).Draw(t, "drift"), trial: time.Second,
			rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
		}
		goal := Goal{Rate: rapid.SampledFrom([]float64{0, 500}).Draw(t, "rate")}
		r := l.search(t, goal, 3*time.Minute)
		if r.Best != peak {
			t.Fatalf("got %v, want %v", r.Best, peak)
		}
		want := math.Exp(l.truth(peak) - l.truth(Default))
		if r.Ratio.Estimate < want*0.95 || r.Ratio.Estimate > want*1.05 {
			t.Fatalf("got a ratio of %v, want %v", r.Ratio, want)
		}
	})
}

func TestWhereAllIsEqualTheDefaultStaysAndMostOfTheBudgetIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &landscape{
			peak: Default, noise: rapid.Float64Range(0, 0.01).Draw(t, "noise"), trial: time.Second,
			rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
		}
		r := l.search(t, Goal{}, 10*time.Minute)
		if r.Best != Default || r.Stopped != Converged || r.Elapsed > 5*time.Minute {
			t.Fatalf("got %v after %v, %s, want the default soon", r.Best, r.Elapsed, r.Stopped)
		}
		if r.Ratio != (Ratio{1, 1, 1}) || r.Rejected == nil && len(r.Default) != alone || !slices.Equal(r.Confirmed, r.Default) {
			t.Fatalf("got the ratio %v of %v to %v, want the default itself", r.Ratio, r.Confirmed, r.Default)
		}
	})
}

func TestAGainThatIsNotWorthItIsLeft(t *testing.T) {
	l := &landscape{peak: Setting{Concurrency: 200, Processes: 1}, steep: 0.02, noise: 0.002, trial: time.Second, rand: rand.New(rand.NewPCG(1, 1))}
	if r := l.search(t, Goal{}, 3*time.Minute); r.Best != Default {
		t.Errorf("got %v, want the default, which is 2 %% slower", r.Best)
	}
}

func TestNoiseAloneIsNoReasonToLeaveTheDefault(t *testing.T) {
	left := 0
	const searches = 200
	for seed := range uint64(searches) {
		l := &landscape{peak: Default, noise: 0.3, trial: time.Second, rand: rand.New(rand.NewPCG(seed, 2))}
		if r := l.search(t, Goal{}, 3*time.Minute); r.Best != Default {
			left++
		}
	}
	// A find has to stand the confirmation, where chance lets one of forty pass each time it is looked at.
	if left > searches/10 {
		t.Errorf("got another setting in %d of %d searches where all are equal, want nearly none", left, searches)
	}
}

func TestABudgetTooShortToTellKeepsTheDefault(t *testing.T) {
	l := &landscape{peak: Default, noise: 0.05, trial: time.Second, rand: rand.New(rand.NewPCG(3, 3))}
	r := l.search(t, Goal{}, 4*time.Second)
	if r.Best != Default || r.Stopped != OutOfTime || len(r.Default) == 0 {
		t.Errorf("got %v, %s, %d samples, want the default for lack of time, with samples", r.Best, r.Stopped, len(r.Default))
	}
}

func TestWithEqualThroughputALowerP99Decides(t *testing.T) {
	clock := time.Unix(0, 0)
	random := rand.New(rand.NewPCG(4, 4))
	s := Search{Axes: Axes(100), Budget: 3 * time.Minute, now: func() time.Time { return clock }, Measure: func(_ context.Context, s Setting) (Sample, error) {
		clock = clock.Add(time.Second)
		p99 := 10.0
		if s.Prefetch < 0 {
			p99 = 5
		}
		return Sample{Throughput: 1000 * math.Exp(0.003*random.NormFloat64()), P99: p99 * math.Exp(0.1*random.NormFloat64())}, nil
	}}
	r, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Setting{Concurrency: 100, Prefetch: -1, Processes: 1}); r.Best != want {
		t.Errorf("got %v, want %v", r.Best, want)
	}
}

func TestAFailedTrialEndsTheSearch(t *testing.T) {
	broken := errors.New("the server is gone")
	s := Search{Axes: Axes(100), Budget: time.Minute, Measure: func(context.Context, Setting) (Sample, error) { return Sample{}, broken }}
	if _, err := s.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestTheDefaultIsTheSimplestSetting(t *testing.T) {
	for _, c := range []int{1, 200} {
		for _, other := range []Setting{{c, 0, 1, 0}, {100, -1, 1, 0}, {100, 0, 2, 0}, {100, 0, 1, 8}} {
			if simplicity(Default, other) >= 0 || simplicity(other, Setting{c, 500, 4, 8}) >= 0 {
				t.Errorf("got %v in the wrong place", other)
			}
		}
	}
	for s, want := range map[Setting]string{
		Default:       "concurrency 100",
		{5, -1, 2, 8}: "concurrency 5, no prefetch, 2 processes, pool of 8",
		{5, 50, 1, 0}: "concurrency 5, prefetch 50",
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestIntervalsAreThoseOfStudent(t *testing.T) {
	for _, test := range []struct {
		of           []float64
		mean, margin float64
	}{
		{nil, 0, math.Inf(1)},
		{[]float64{3}, 0, math.Inf(1)},
		{[]float64{1, 3}, 2, 12.706},
		{[]float64{2, 4, 4, 4, 5, 5, 7, 9}, 5, 1.788}, // s = 2.138, t = 2.365
	} {
		if got := intervalOf(test.of); got.mean != test.mean || fmt.Sprintf("%.3f", got.margin) != fmt.Sprintf("%.3f", test.margin) {
			t.Errorf("got %v of %v, want %v ± %v", got, test.of, test.mean, test.margin)
		}
	}
}

func TestWithLittleTimeTheSearchBeginsNearTheDefaultAndGoesOnFromThere(t *testing.T) {
	l := &landscape{peak: Setting{Concurrency: 1000, Processes: 1}, steep: 0.5, noise: 0.01, trial: time.Second, rand: rand.New(rand.NewPCG(5, 5))}
	l.begin = time.Unix(0, 0)
	l.clock = l.begin
	s := Search{Axes: Axes(1000), Budget: 50 * time.Second, Trial: time.Second, Measure: l.measure(Goal{}), now: func() time.Time { return l.clock }}
	r, err := s.Run(t.Context())
	if err != nil || r.Best != l.peak {
		t.Errorf("got %v, %v, want %v", r.Best, err, l.peak)
	}
	if r.Trials[0].Setting.Concurrency < 20 {
		t.Errorf("got %v first, want one near the default", r.Trials[0].Setting)
	}
}

func TestTheRangeAroundASettingHasAsManyValuesAsAsked(t *testing.T) {
	for _, axis := range Axes(1000) {
		for _, value := range axis.Values {
			for most := 1; most < 12; most++ {
				low, high := axis.around(axis.at(Default, value), most)
				at := slices.Index(axis.Values, value)
				if low > at || high < at || high-low+1 != min(most, len(axis.Values)) || high >= len(axis.Values) {
					t.Errorf("%s: got %d to %d of %d around %d, want %d", axis.Name, low, high, len(axis.Values), at, most)
				}
			}
		}
	}
}
