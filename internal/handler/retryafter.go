package handler

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
)

// retryAfter reads a Retry-After header: seconds, or a date, which is taken relative to now. The delay
// is within 0..retry.MaxDelay; ok is false when the value is neither.
func retryAfter(value string, now time.Time) (delay time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	if value != "" && strings.Trim(value, "0123456789") == "" {
		const most = uint64(retry.MaxDelay / time.Second)
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > most { // too many digits, or simply too long
			seconds = most
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(date.Sub(now), 0), retry.MaxDelay), true
}
