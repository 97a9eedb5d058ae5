// Delays, counted in buckets that are one in a hundred wide, as they travel between processes.

package main

import (
	"math"
	"slices"
	"time"
)

// delays are buckets of a histogram: the upper bound in µs, and how many fell below it and above the one before.
type delays [][2]float64

const bucketGrowth = 1.01

// histogram counts delays. Buckets are by the logarithm; the first is for all up to 1 µs.
type histogram struct{ counts []int }

func (h *histogram) record(d time.Duration) {
	us := float64(d) / float64(time.Microsecond)
	i := 0
	if us > 1 {
		i = int(math.Ceil(math.Log(us) / math.Log(bucketGrowth)))
	}
	if i >= len(h.counts) {
		h.counts = append(h.counts, make([]int, i+1-len(h.counts))...)
	}
	h.counts[i]++
}

// delays are the buckets that are not empty.
func (h *histogram) delays() delays {
	d := delays{}
	for i, n := range h.counts {
		if n > 0 {
			d = append(d, [2]float64{math.Pow(bucketGrowth, float64(i)), float64(n)})
		}
	}
	return d
}

// count is how many delays there are.
func (d delays) count() (n int) {
	for _, bucket := range d {
		n += int(bucket[1])
	}
	return n
}

// percentiles are in ms; of no delays there are none, and ok is false. The buckets may be in any order, as after append.
func (d delays) percentiles(ps ...float64) (ms []float64, ok bool) {
	sorted := slices.SortedFunc(slices.Values(d), func(a, b [2]float64) int { return int(math.Copysign(1, a[0]-b[0])) })
	total := d.count()
	if total == 0 {
		return nil, false
	}
	for _, p := range ps {
		rank, seen := math.Ceil(p/100*float64(total)), 0.0
		for _, bucket := range sorted {
			if seen += bucket[1]; seen >= rank {
				ms = append(ms, bucket[0]/1000)
				break
			}
		}
	}
	return ms, true
}
