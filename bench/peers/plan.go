// What is measured, how much of it, and in which order.

package main

import (
	"time"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

var allWorkloads = []string{
	result.Drain, result.Load, result.Latency, result.Schedule, result.Enqueue, result.Xmin, result.Recovery, result.Idle,
}

// faultWorkloads are run only if they are named: they take a minute each.
var faultWorkloads = []string{result.Restart, result.Outage, result.HalfOpen}

// scale is how much there is of each workload.
type scale struct {
	processes []int     // of drain
	rates     []float64 // of load, rising

	drain    time.Duration // that a drain should take: so many jobs are put; it is ended after twice that
	load     time.Duration // of one rate
	latency  time.Duration
	lead     time.Duration // to put scheduled jobs before the first is due
	schedule time.Duration // in which jobs become due
	late     time.Duration // that they are waited for, after that
	enqueue  time.Duration
	longest  time.Duration // of latency and schedule, for one that is slow
	moment   time.Duration // in which most jobs are run again, and nobody else may be busy
	recovery time.Duration // that is waited for jobs to be run again
	rest     time.Duration // before idle is measured: what is done at the start is over
	idle     time.Duration
	before   time.Duration // a fault
	outage   time.Duration // that the server is away
	after    time.Duration // that jobs are put after a fault

	// patience is added to the bounds by which a drain, a load or a latency is ended, or given up before its first job. A comparison has none; a test has
	// some, as its machine may be busy with others.
	patience time.Duration
}

// How long all may take: no step is begun after that.
const (
	fullTime  = 14 * time.Minute
	quickTime = 80 * time.Second
)

var (
	fullScale = scale{
		processes: []int{1, 2, 4, 8}, rates: []float64{250, 1000, 2000, 4000, 8000},
		drain: time.Second, load: 1200 * time.Millisecond, latency: 1500 * time.Millisecond, lead: 1500 * time.Millisecond,
		schedule: time.Second, late: 6 * time.Second, enqueue: 1200 * time.Millisecond,
		longest: 10 * time.Second, moment: 2 * time.Second, recovery: 30 * time.Second, rest: 5 * time.Second, idle: 30 * time.Second,
		before: 3 * time.Second, outage: 15 * time.Second, after: 20 * time.Second,
	}
	quickScale = scale{
		processes: []int{1, 2}, rates: []float64{500},
		drain: 300 * time.Millisecond, load: 500 * time.Millisecond, latency: 500 * time.Millisecond, lead: 700 * time.Millisecond,
		schedule: 500 * time.Millisecond, late: 2 * time.Second, enqueue: 300 * time.Millisecond,
		longest: 2 * time.Second, moment: 300 * time.Millisecond, recovery: 5 * time.Second, rest: time.Second, idle: 4 * time.Second,
		before: 2 * time.Second, outage: time.Second, after: 3 * time.Second,
	}
)

const (
	latencyRate   = 100  // jobs a second
	scheduleRate  = 200  // jobs a second that become due
	heldJobs      = 10   // of the process that is killed
	firstDrain    = 1000 // jobs, before it is known how fast a contender is
	fewestDrained = 100  // the rate of fewer would be that of one batch
	mostDrained   = 200_000
)

// task is one run of one contender.
type task struct {
	round     int
	workload  string
	contender string
	processes int
	offered   float64
}

// plan is all tasks in their order. Those of one step are the same work for one contender after the other, so that in
// each round they take turns: A B A B. What only waits is measured in the first round only, for all at once.
func plan(rounds int, workloads, contenders []string, s scale) (steps [][]task) {
	for round := range rounds {
		for _, workload := range workloads {
			for _, variant := range variants(workload, s) {
				if workload == result.Idle && round > 0 {
					continue
				}
				variant.round, variant.workload = round, workload
				step := []task{}
				for _, id := range contenders {
					variant.contender = id
					step = append(step, variant)
				}
				steps = append(steps, step)
			}
		}
	}
	return steps
}

// variants are the runs of one workload.
func variants(workload string, s scale) (all []task) {
	switch workload {
	case result.Drain:
		for _, n := range s.processes {
			all = append(all, task{processes: n})
		}
	case result.Load:
		for _, rate := range s.rates {
			all = append(all, task{processes: 1, offered: rate})
		}
	case result.Latency:
		all = []task{{processes: 1, offered: latencyRate}}
	case result.Recovery, result.Restart, result.Outage, result.HalfOpen:
		all = []task{{processes: 2}}
	default:
		all = []task{{processes: 1}}
	}
	return all
}

const (
	enough  = 0.95       // of the offered rate: with less, a contender has fallen behind
	tooLate = 1000 * 1.0 // ms, p99: with more, too
)

// behind tells whether a contender could not do the work that it was offered: it is offered no more in this round.
func behind(offered float64, figures map[string]float64) bool {
	p99, some := figures["pickup_p99_ms"]
	return figures["jobs_per_second"] < enough*offered || !some || p99 > tooLate
}
