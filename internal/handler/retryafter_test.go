package handler

import (
	"net/http"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
)

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, " 120 ": 2 * time.Minute, "007": 7 * time.Second,
		"2592000": retry.MaxDelay, "2592001": retry.MaxDelay, "18446744073709551616": retry.MaxDelay, "99999999999999999999999": retry.MaxDelay,
		"Mon, 04 May 2026 03:03:01 GMT":  time.Minute,
		"Monday, 04-May-26 03:03:01 GMT": time.Minute,
		"Mon May  4 03:03:01 2026":       time.Minute,
		"Mon, 04 May 2026 03:02:00 GMT":  0,
		"Fri, 31 Dec 9999 23:59:59 GMT":  retry.MaxDelay,
		"Mon, 01 Jan 0001 00:00:00 GMT":  0,
	} {
		if got, ok := retryAfter(value, now); got != want || !ok {
			t.Errorf("%q: got %v, %v; want %v", value, got, ok, want)
		}
	}
	for _, value := range []string{"", " ", "-1", "+1", "1.5", "1s", "0x1", "١", "soon", "Mon, 99 May 2026 03:03:01 GMT"} {
		if got, ok := retryAfter(value, now); ok {
			t.Errorf("%q: got %v, want that it is neither", value, got)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"0", "120", "-1", "99999999999999999999", "Mon, 04 May 2026 03:03:01 GMT", "Mon May  4 03:03:01 2026"} {
		f.Add(value, int64(1777863721))
	}
	f.Fuzz(func(t *testing.T, value string, seconds int64) {
		now := time.Unix(seconds%(1<<38), 0)
		delay, ok := retryAfter(value, now)
		if delay < 0 || delay > retry.MaxDelay || !ok && delay != 0 {
			t.Errorf("got %v, %v; want a delay within 0..%v", delay, ok, retry.MaxDelay)
		}
		if date, err := http.ParseTime(value); err == nil && date.Before(now) && delay != 0 {
			t.Errorf("got %v for a date of the past, want 0", delay)
		}
	})
}
