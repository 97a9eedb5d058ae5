package retry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"pgregory.net/rapid"
)

var errBoom = errors.New("boom")

func TestExponentialWithoutJitterIsThePowerUpToTheCap(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name    string
		policy  Exponential
		attempt int
		want    time.Duration
	}{
		{"defaults, first", Exponential{Jitter: -1}, 1, time.Second},
		{"defaults, second", Exponential{Jitter: -1}, 2, 2 * time.Second},
		{"defaults, last below the cap", Exponential{Jitter: -1}, 12, 2048 * time.Second},
		{"defaults, capped", Exponential{Jitter: -1}, 13, time.Hour},
		{"defaults, a million", Exponential{Jitter: -1}, 1e6, time.Hour},
		{"attempt MaxInt", Exponential{Jitter: -1}, math.MaxInt, time.Hour},
		{"attempt zero counts as the first", Exponential{Jitter: -1}, 0, time.Second},
		{"attempt MinInt counts as the first", Exponential{Jitter: -1}, math.MinInt, time.Second},
		{"own values", Exponential{Initial: 10 * time.Millisecond, Max: time.Minute, Factor: 3, Jitter: -1}, 4, 270 * time.Millisecond},
		{"factor of 1 stays", Exponential{Factor: 1, Jitter: -1}, 1e6, time.Second},
		{"factor below 1 counts as 1", Exponential{Factor: 0.5, Jitter: -1}, 9, time.Second},
		{"negative factor is the default", Exponential{Factor: -3, Jitter: -1}, 3, 4 * time.Second},
		{"NaN factor is the default", Exponential{Factor: nan, Jitter: -1}, 3, 4 * time.Second},
		{"infinite factor, first", Exponential{Factor: inf, Jitter: -1}, 1, time.Second},
		{"infinite factor, second", Exponential{Factor: inf, Jitter: -1}, 2, time.Hour},
		{"initial above the cap", Exponential{Initial: 2 * time.Hour, Jitter: -1}, 1, time.Hour},
		{"negative times are the defaults", Exponential{Initial: -1, Max: -1, Jitter: -1}, 20, time.Hour},
		{"the cap has a cap", Exponential{Max: math.MaxInt64, Jitter: -1}, 1e6, MaxDelay},
		{"all at their largest", Exponential{math.MaxInt64, math.MaxInt64, math.MaxFloat64, -1}, math.MaxInt, MaxDelay},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := c.policy.Next(c.attempt, errBoom)
			if got != c.want || !ok {
				t.Errorf("%+v.Next(%d): got %v, %t, want %v, true", c.policy, c.attempt, got, ok, c.want)
			}
		})
	}
}

func TestExponentialNeverLeavesItsRangeOverAMillionAttempts(t *testing.T) {
	var policy Exponential
	for attempt := range int(1e6) + 1 {
		mean, _ := Exponential{Jitter: -1}.Next(attempt, nil)
		mean = min(mean, time.Hour*5/6) // where the cap leaves room for a fifth above it
		low, high := mean*4/5-1, min(mean*6/5+1, time.Hour)
		if got, ok := policy.Next(attempt, nil); !ok || got < low || got > high {
			t.Fatalf("Next(%d): got %v, %t, want %v to %v, true", attempt, got, ok, low, high)
		}
	}
}

func TestExponentialIsInRangeForWildParameters(t *testing.T) {
	durations := rapid.OneOf(
		rapid.SampledFrom([]time.Duration{math.MinInt64, -1, 0, 1, 2, time.Second, MaxDelay - 1, MaxDelay, MaxDelay + 1, math.MaxInt64 - 1, math.MaxInt64}),
		rapid.Map(rapid.Int64(), func(n int64) time.Duration { return time.Duration(n) }),
	)
	floats := rapid.OneOf(
		rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), -1, 1, 0.5, 2,
			math.SmallestNonzeroFloat64, math.MaxFloat64, math.Nextafter(1, 2), math.Nextafter(1, 0)}),
		rapid.Float64(),
	)
	attempts := rapid.OneOf(
		rapid.IntRange(0, 1e6),
		rapid.SampledFrom([]int{math.MinInt, -1, 0, 1, 2, 62, 63, 64, 65, 1023, 1024, 1025, math.MaxInt}),
	)
	rapid.Check(t, func(t *rapid.T) {
		policy := Exponential{durations.Draw(t, "initial"), durations.Draw(t, "max"), floats.Draw(t, "factor"), floats.Draw(t, "jitter")}
		attempt := attempts.Draw(t, "attempt")
		limit := MaxDelay
		if policy.Max <= 0 {
			limit = time.Hour
		} else if policy.Max < limit {
			limit = policy.Max
		}
		if got, ok := policy.Next(attempt, errBoom); !ok || got <= 0 || got > limit {
			t.Fatalf("%+v.Next(%d): got %v, %t, want more than 0, at most %v, true", policy, attempt, got, ok, limit)
		}

		policy.Jitter = -1
		later := attempts.Draw(t, "later")
		if later < attempt {
			attempt, later = later, attempt
		}
		got, _ := policy.Next(attempt, nil)
		gotLater, _ := policy.Next(later, nil)
		if got > gotLater {
			t.Fatalf("%+v: got %v after attempt %d but %v after attempt %d, want no shrinking", policy, got, attempt, gotLater, later)
		}
	})
}

// A right implementation fails here less than once in 2^1000 runs.
func TestExponentialJitterSpreadsEvenlyBothWaysBelowAndAtTheCap(t *testing.T) {
	const attempt = 3 // 4 s without jitter
	for _, c := range []struct {
		name      string
		policy    Exponential
		attempt   int
		low, high time.Duration
	}{
		{"default", Exponential{}, attempt, 3200 * time.Millisecond, 4800 * time.Millisecond},
		{"NaN is the default", Exponential{Jitter: math.NaN()}, attempt, 3200 * time.Millisecond, 4800 * time.Millisecond},
		{"half", Exponential{Jitter: 0.5}, attempt, 2 * time.Second, 6 * time.Second},
		{"whole", Exponential{Jitter: 1}, attempt, 0, 8 * time.Second},
		{"more than whole counts as whole", Exponential{Jitter: 7}, attempt, 0, 8 * time.Second},
		{"infinite counts as whole", Exponential{Jitter: math.Inf(1)}, attempt, 0, 8 * time.Second},
		{"half, at the cap", Exponential{Jitter: 0.5, Max: time.Minute}, 1e6, 20 * time.Second, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			quarters := [4]int{}
			for range 4000 {
				got, _ := c.policy.Next(c.attempt, nil)
				if got < c.low-1 || got > c.high+1 {
					t.Fatalf("Next(%d): got %v, want %v to %v", c.attempt, got, c.low, c.high)
				}
				quarters[min(max(int(4*(got-c.low)/(c.high-c.low)), 0), 3)]++
			}
			for i, n := range quarters {
				if n < 200 || n > 2000 {
					t.Errorf("quarter %d of %v to %v: got %d of 4000 delays, want about 1000", i+1, c.low, c.high, n)
				}
			}
		})
	}
	for range 100 {
		if got, _ := (Exponential{Jitter: math.Inf(-1)}).Next(attempt, nil); got != 4*time.Second {
			t.Fatalf("negative jitter: got %v, want 4s", got)
		}
	}
}

func TestDecideCombinesErrorLimitAndPolicy(t *testing.T) {
	fixed := Fixed(7 * time.Second)
	returns := func(d time.Duration, ok bool) Policy {
		return PolicyFunc(func(int, error) (time.Duration, bool) { return d, ok })
	}
	for _, c := range []struct {
		name                 string
		policy               Policy
		attempt, maxAttempts int
		err                  error
		want                 time.Duration
		wantOK               bool
	}{
		{"the policy decides", fixed, 1, 3, errBoom, 7 * time.Second, true},
		{"last but one attempt", fixed, 2, 3, errBoom, 7 * time.Second, true},
		{"last attempt", fixed, 3, 3, errBoom, 0, false},
		{"past the last attempt", fixed, 4, 3, errBoom, 0, false},
		{"no limit", fixed, math.MaxInt, 0, errBoom, 7 * time.Second, true},
		{"negative limit is none", fixed, 9, -1, errBoom, 7 * time.Second, true},
		{"permanent stops", fixed, 1, 3, Permanent(errBoom), 0, false},
		{"permanent, wrapped", fixed, 1, 3, fmt.Errorf("run: %w", Permanent(errBoom)), 0, false},
		{"permanent, joined", fixed, 1, 3, errors.Join(errBoom, Permanent(errBoom)), 0, false},
		{"backoff's permanent", fixed, 1, 3, fmt.Errorf("run: %w", &backoff.PermanentError{Err: errBoom}), 0, false},
		{"backoff's permanent without a cause", fixed, 1, 3, &backoff.PermanentError{}, 0, false},
		{"after has its delay", fixed, 1, 3, After(time.Minute, errBoom), time.Minute, true},
		{"after, wrapped", fixed, 1, 3, fmt.Errorf("run: %w", After(time.Minute, errBoom)), time.Minute, true},
		{"after asks no policy", returns(0, false), 1, 3, After(time.Minute, errBoom), time.Minute, true},
		{"outer after wins", fixed, 1, 3, After(time.Minute, After(time.Hour, errBoom)), time.Minute, true},
		{"after at once", fixed, 1, 3, After(0, errBoom), 0, true},
		{"after a negative delay", fixed, 1, 3, After(math.MinInt64, errBoom), 0, true},
		{"after too long a delay", fixed, 1, 3, After(math.MaxInt64, errBoom), MaxDelay, true},
		{"after does not lift the limit", fixed, 3, 3, After(time.Minute, errBoom), 0, false},
		{"permanent inside after", fixed, 1, 3, After(time.Minute, Permanent(errBoom)), 0, false},
		{"permanent around after", fixed, 1, 3, Permanent(After(time.Minute, errBoom)), 0, false},
		{"the policy stops", returns(time.Hour, false), 1, 3, errBoom, 0, false},
		{"the policy's delay is negative", returns(math.MinInt64, true), 1, 3, errBoom, 0, true},
		{"the policy's delay is too long", returns(math.MaxInt64, true), 1, 3, errBoom, MaxDelay, true},
		{"negative fixed delay", Fixed(-1), 1, 3, errBoom, 0, true},
		{"no error known", fixed, 1, 3, nil, 7 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := Decide(c.policy, c.attempt, c.maxAttempts, c.err)
			if got != c.want || ok != c.wantOK {
				t.Errorf("got %v, %t, want %v, %t", got, ok, c.want, c.wantOK)
			}
		})
	}
}

func TestDecideWithoutPolicyIsExponential(t *testing.T) {
	got, ok := Decide(nil, 4, 0, errBoom)
	if low, high := 6400*time.Millisecond, 9600*time.Millisecond; !ok || got < low || got > high+1 {
		t.Errorf("got %v, %t, want %v to %v, true", got, ok, low, high)
	}
}

func TestDecideTellsThePolicyAttemptAndError(t *testing.T) {
	cause := fmt.Errorf("run: %w", errBoom)
	Decide(PolicyFunc(func(attempt int, err error) (time.Duration, bool) {
		if attempt != 5 || err != cause {
			t.Errorf("got attempt %d, error %v, want 5, %v", attempt, err, cause)
		}
		return 0, true
	}), 5, 9, cause)
}

func TestMarkedErrorsStayWhatTheyWere(t *testing.T) {
	cause := fmt.Errorf("read: %w", &fs.PathError{Op: "open", Path: "apples", Err: fs.ErrNotExist})
	for name, marked := range map[string]error{
		"Permanent": Permanent(cause),
		"After":     After(time.Second, cause),
		"both":      Permanent(After(time.Second, cause)),
	} {
		t.Run(name, func(t *testing.T) {
			if !errors.Is(marked, fs.ErrNotExist) || errors.Is(marked, context.Canceled) {
				t.Errorf("errors.Is differs from that of %v", cause)
			}
			if path, ok := errors.AsType[*fs.PathError](marked); !ok || path.Path != "apples" {
				t.Errorf("errors.As: got %v, %t, want the path error", path, ok)
			}
			if got, want := marked.Error(), cause.Error(); got != want {
				t.Errorf("text: got %q, want %q", got, want)
			}
		})
	}
	if got := Permanent(nil); got != nil {
		t.Errorf("Permanent(nil): got %v, want nil", got)
	}
	if got := After(time.Second, nil); got != nil {
		t.Errorf("After(1s, nil): got %v, want nil", got)
	}
}

func TestReconnectGoesOnAfterAnOutageOfTwentyMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const low, high = 50 * time.Millisecond, 5 * time.Second
		reconnect := Reconnect()
		timer := time.NewTimer(0)
		<-timer.C
		tries := 0
		for outage := time.Now(); time.Since(outage) < 20*time.Minute; tries++ {
			delay := reconnect.NextBackOff()
			if delay < low || delay > high {
				t.Fatalf("try %d, %v into the outage: got %v, want %v to %v", tries, time.Since(outage), delay, low, high)
			}
			timer.Reset(delay)
			<-timer.C
		}
		if atLeast := int(20 * time.Minute / high); tries < atLeast {
			t.Errorf("got %d tries in 20 minutes, want at least %d", tries, atLeast)
		}
		reconnect.Reset()
		if got := reconnect.NextBackOff(); got < low || got > 150*time.Millisecond+1 {
			t.Errorf("first delay after Reset: got %v, want %v to 150ms", got, low)
		}
	})
}

func TestEachReconnectLoopHasItsOwnState(t *testing.T) {
	one, two := Reconnect(), Reconnect()
	for range 100 {
		one.NextBackOff()
	}
	if got := two.NextBackOff(); got > 150*time.Millisecond+1 {
		t.Errorf("first delay of the second loop: got %v, want at most 150ms", got)
	}
}

func BenchmarkExponential(b *testing.B) {
	b.ReportAllocs()
	for attempt := 0; b.Loop(); attempt++ {
		Exponential{}.Next(attempt, errBoom)
	}
}
