package load

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestLoadCallsAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Load{Rate: 1000, Duration: 2 * time.Second, Callers: 4}
		start := time.Now()
		made, err := l.Run(t.Context(), func(_ context.Context, n int, due time.Time) error {
			if want := start.Add(time.Duration(n) * time.Millisecond); !due.Equal(want) || !time.Now().Equal(want) {
				t.Errorf("call %d: got %v, due %v, want %v", n, time.Since(start), due.Sub(start), want.Sub(start))
			}
			return nil
		})
		if err != nil || made != 2000 {
			t.Errorf("got %d calls, %v; want 2000", made, err)
		}
		if got, want := time.Since(start), 1999*time.Millisecond; got != want {
			t.Errorf("got an end after %v, want %v", got, want)
		}
	})
}

func TestLoadThatCannotKeepUpLeavesNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// One caller, whose calls take ten times as long as it has: the n-th starts n*10 ms after the first, when
		// it should have started after n ms.
		const takes = 10 * time.Millisecond
		start := time.Now()
		made, err := Load{Rate: 1000, Duration: time.Second, Callers: 1}.Run(t.Context(), func(_ context.Context, n int, due time.Time) error {
			if want := time.Duration(n) * time.Millisecond; due.Sub(start) != want {
				t.Errorf("call %d: got it due after %v, want %v, however late", n, due.Sub(start), want)
			}
			if got, want := time.Since(start), time.Duration(n)*takes; got != want {
				t.Errorf("call %d: got it started after %v, want %v", n, got, want)
			}
			time.Sleep(takes)
			return nil
		})
		if err != nil || made != 1000 {
			t.Errorf("got %d calls, %v; want 1000", made, err)
		}
	})
}

func TestSlowCallsDoNotDelayOthersWhileCallersAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := Load{Rate: 1000, Duration: time.Second, Callers: 11}.Run(t.Context(), func(_ context.Context, n int, due time.Time) error {
			if late := time.Since(due); late != 0 {
				t.Errorf("call %d: got it %v late, want it in time", n, late)
			}
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestLoadEndsAtAnErrorAndWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := errors.New("wrong")
		var called atomic.Int64
		_, err := Load{Rate: 10, Duration: time.Hour, Callers: 3}.Run(t.Context(), func(_ context.Context, n int, _ time.Time) error {
			called.Add(1)
			if n == 5 {
				return wrong
			}
			return nil
		})
		if !errors.Is(err, wrong) || called.Load() != 6 {
			t.Errorf("got %v after %d calls, want the error of the sixth", err, called.Load())
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(wrong) })
		if _, err := (Load{Rate: 0.001, Duration: time.Hour, Callers: 3}).Run(ctx, func(context.Context, int, time.Time) error { return nil }); !errors.Is(err, wrong) {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
}

func TestDueTimesKeepTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Load{Rate: rapid.Float64Range(0.1, 1e6).Draw(t, "rate"), Duration: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "duration"))}
		n := l.Calls()
		if n > 0 && l.Due(n-1) > l.Duration {
			t.Errorf("got the last of %d calls after %v, beyond %v", n, l.Due(n-1), l.Duration)
		}
		if next := l.Due(n + 1); next < l.Duration {
			t.Errorf("got %d calls, though another one is due after %v of %v", n, next, l.Duration)
		}
		i := rapid.IntRange(0, 1e9).Draw(t, "call")
		if l.Due(i) > l.Due(i+1) || l.Due(0) != 0 {
			t.Errorf("got call %d after %v and the next after %v", i, l.Due(i), l.Due(i+1))
		}
	})
}

func TestFloodEndsWithItsTimeAndTellsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, err := Flood(3, time.Second, func(int64) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		if made != 30 || err != nil {
			t.Errorf("got %d calls and %v, want 30", made, err)
		}
		broken := errors.New("broken")
		made, err = Flood(3, time.Second, func(n int64) error {
			time.Sleep(100 * time.Millisecond)
			if n == 2 {
				return broken
			}
			return nil
		})
		if made != 20 || !errors.Is(err, broken) {
			t.Errorf("got %d calls and %v, want 20 of the two others, and %v", made, err, broken)
		}
	})
}
