// Durations, counted: a high dynamic range histogram.

package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The histogram counts microseconds to three digits; what is longer than its range is counted as that.
const (
	finest  = time.Microsecond
	longest = time.Hour
)

type histogram struct{ h *hdrhistogram.Histogram }

func newHistogram() *histogram {
	return &histogram{hdrhistogram.New(1, int64(longest/finest), 3)}
}

func (h *histogram) record(d time.Duration) {
	_ = h.h.RecordValue(int64(min(max(d, 0), longest) / finest)) // in range, so there is no error
}

func (h *histogram) add(other *histogram) { h.h.Merge(other.h) }

func (h *histogram) count() int { return int(h.h.TotalCount()) }

// percentile is in milliseconds.
func (h *histogram) percentile(p float64) float64 {
	return milliseconds(time.Duration(h.h.ValueAtPercentile(p)) * finest)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// MarshalText is how it travels between processes.
func (h *histogram) MarshalText() ([]byte, error) {
	return h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

func (h *histogram) UnmarshalText(text []byte) (err error) {
	h.h, err = hdrhistogram.Decode(text)
	return err
}
