// How jobs are put at a rate.

package main

import (
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/load"
)

// putters is how many connections put at once.
const putters = 16

// at is a load of puts.
func at(rate float64, duration time.Duration) load.Load {
	return load.Load{Rate: rate, Duration: duration, Callers: putters}
}

// achieved is the jobs run per second, of those run when the last call had returned, after elapsed. Of a queue that keeps up
// some are still on their way then: as many as come in while one is, which takes medianMS. That is taken off the time, up to
// a fifth of it, unless the calls themselves came too late.
func achieved(l load.Load, run int, elapsed time.Duration, medianMS float64) float64 {
	seconds := elapsed.Seconds()
	if seconds <= 1.05*l.Duration.Seconds() {
		seconds = l.Duration.Seconds() - min(medianMS/1000, l.Duration.Seconds()/5)
	}
	return min(float64(run)/seconds, l.Rate)
}
