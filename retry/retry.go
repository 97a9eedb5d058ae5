// Package retry answers one question: after this failed run, how long until the next, or none at all?
//
// A [Policy] turns the number of the failed run into a delay. An error can overrule it: [Permanent]
// stops, [After] brings a delay of its own. [Decide] is the one place where the three, and the limit
// of attempts, come together. Nothing here keeps state between two calls, so a job's retries go on
// as before when the process that counted the first of them is gone.
//
// [Reconnect] is for the other kind of retry, a loop in this process that must never give up.
package retry

import (
	"errors"
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// MaxDelay is the longest delay that leaves this package: 30 days. Longer ones, from whatever
// source, are cut to it; a retry that far off is a mistake (or an overflow) rather than a wish.
const MaxDelay = 30 * 24 * time.Hour

// Policy says what follows a failed run. Implementations are called from several goroutines.
type Policy interface {
	// Next gives the delay until the next run. attempt is the number of the run that failed, from
	// 1; err is why it did. ok=false means no further run.
	Next(attempt int, err error) (delay time.Duration, ok bool)
}

// PolicyFunc is a function as a [Policy].
type PolicyFunc func(attempt int, err error) (delay time.Duration, ok bool)

// Next calls f.
func (f PolicyFunc) Next(attempt int, err error) (time.Duration, bool) { return f(attempt, err) }

// Fixed is the policy of the same delay each time, for ever; d is cut to 0..[MaxDelay].
func Fixed(d time.Duration) Policy {
	d = clamp(d)
	return PolicyFunc(func(int, error) (time.Duration, bool) { return d, true })
}

// Decide says what follows the failed run number attempt (from 1) of at most maxAttempts (0 or
// less: no limit). In this order:
//
//   - an error marked [Permanent], here or by backoff.Permanent of backoff v4, stops;
//   - the last of maxAttempts stops;
//   - an error made by [After] has its delay;
//   - else p decides; a nil p is [Exponential]{}.
//
// The delay is always within 0..[MaxDelay], whatever p returns, and 0 when ok is false.
func Decide(p Policy, attempt, maxAttempts int, err error) (delay time.Duration, ok bool) {
	if _, permanent := errors.AsType[*backoff.PermanentError](err); permanent {
		return 0, false
	}
	if maxAttempts > 0 && attempt >= maxAttempts {
		return 0, false
	}
	if after, found := errors.AsType[*afterError](err); found {
		return after.delay, true
	}
	if p == nil {
		p = Exponential{}
	}
	delay, ok = p.Next(attempt, err)
	if !ok {
		return 0, false
	}
	return clamp(delay), true
}

// Permanent marks err as one that no further run would mend. Text, errors.Is and errors.As stay
// those of err; nil stays nil. The mark is backoff's own, so backoff.Retry obeys it as well.
func Permanent(err error) error { return backoff.Permanent(err) }

// After gives err a delay of its own until the next run, as an HTTP server's Retry-After does. d is
// cut to 0..[MaxDelay]. Text, errors.Is and errors.As stay those of err; nil stays nil.
func After(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &afterError{err: err, delay: clamp(d)}
}

type afterError struct {
	err   error
	delay time.Duration
}

func (e *afterError) Error() string { return e.err.Error() }
func (e *afterError) Unwrap() error { return e.err }

// Exponential multiplies the delay by Factor with each attempt, spreads it by Jitter, and never
// stops. The zero value works: 1 s, 2 s, 4 s, ... up to an hour, each with 20 % of jitter.
//
// The power is taken directly, not by stepping through the attempts before: attempt 1 000 000 costs
// as much as the first, and nothing is lost when the process restarts. A delay is always more than
// 0 and at most Max, jitter included.
type Exponential struct {
	Initial time.Duration // delay after the first attempt; 0 or less: 1 s
	Max     time.Duration // no delay is longer, Initial neither; 0 or less: 1 h; at most MaxDelay
	Factor  float64       // growth per attempt; 0, less or NaN: 2; below 1 counts as 1, delays never shrink
	Jitter  float64       // share of the delay, both ways, up to 1; 0 or NaN: 0.2; less than 0: none
}

// Next is the delay after the given attempt; numbers below 1 count as 1. ok is always true.
func (e Exponential) Next(attempt int, _ error) (delay time.Duration, ok bool) {
	e = e.withDefaults()
	power := math.Pow(e.Factor, float64(max(attempt, 1)-1)) // +Inf at worst, never NaN: Factor >= 1
	// The cap leaves room for the jitter above it. To cut the spread delay instead would put half of
	// all capped retries on the very same moment, the crowd that jitter is there to scatter.
	mean := min(float64(e.Initial)*power, float64(e.Max)/(1+e.Jitter))
	return min(max(spread(time.Duration(mean), e.Jitter), 1), e.Max), true
}

// withDefaults replaces what is zero or makes no sense. The comparisons are turned so that a NaN
// takes the default.
func (e Exponential) withDefaults() Exponential {
	if e.Initial <= 0 {
		e.Initial = time.Second
	}
	if e.Max <= 0 {
		e.Max = time.Hour
	}
	e.Max = min(e.Max, MaxDelay)
	if !(e.Factor > 0) {
		e.Factor = 2
	}
	e.Factor = max(e.Factor, 1)
	switch {
	case e.Jitter < 0:
		e.Jitter = 0
	case !(e.Jitter > 0):
		e.Jitter = 0.2
	}
	e.Jitter = min(e.Jitter, 1)
	return e
}

// spread is d, evenly scattered over d ± share·d: the first step of backoff's own sequence, so that
// jobs and reconnects are jittered alike.
func spread(d time.Duration, share float64) time.Duration {
	b := backoff.ExponentialBackOff{
		InitialInterval:     d,
		MaxInterval:         d,
		Multiplier:          1,
		RandomizationFactor: share,
		Clock:               backoff.SystemClock,
	}
	b.Reset()
	return b.NextBackOff()
}

// Reconnect is the backoff of a loop that reconnects: jittered delays from 50 ms to 5 s, none
// outside of that, for ever. Call Reset after a connection that worked. Like every backoff.BackOff
// it belongs to one goroutine.
func Reconnect() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		// Half of it as jitter, both ways: 100 ms begins at 50 ms, 3333 ms ends just under 5 s.
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(3333*time.Millisecond),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0), // by default backoff gives up for good after 15 minutes
	)
}

func clamp(d time.Duration) time.Duration { return min(max(d, 0), MaxDelay) }
