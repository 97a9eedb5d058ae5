// Package result is what a comparison found, as it is written to a file and read by the report.
package result

import "time"

// Results is one comparison: every contender on one server of one machine, in alternating rounds.
type Results struct {
	Date        time.Time         `json:"date"`
	CommandLine []string          `json:"command_line"`
	Quick       bool              `json:"quick"` // shortened: no figures to quote
	Seconds     float64           `json:"seconds"`
	Machine     Machine           `json:"machine"`
	Versions    map[string]string `json:"versions"` // go, postgresql, node, pq-dispatch
	Settings    map[string]string `json:"settings"` // of the server, those that matter
	Contenders  []Contender       `json:"contenders"`
	Absent      []Absent          `json:"absent"` // what could not take part, and why
	Measured    []Measurement     `json:"measured"`
}

// Machine is where it ran.
type Machine struct {
	CPUs      int    `json:"cpus"`
	Model     string `json:"model"`
	MemoryMiB int    `json:"memory_mib"`
	OS        string `json:"os"`
	Arch      string `json:"arch"`
}

// Contender is a queue with settings of its own: one that is run at its defaults and at its best is two.
type Contender struct {
	ID       string   `json:"id"`   // river-default
	Name     string   `json:"name"` // River, default settings
	Version  string   `json:"version"`
	Baseline bool     `json:"baseline"` // written here, no product
	Settings []string `json:"settings"` // as its users would write them: MaxWorkers 100
	Source   string   `json:"source"`   // what advises these settings: an address or a sentence
}

// Absent is a contender that could not take part.
type Absent struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Measurement is one run of one contender under one workload.
type Measurement struct {
	Workload  string  `json:"workload"` // one of the constants below
	Contender string  `json:"contender"`
	Processes int     `json:"processes"` // worker processes
	Offered   float64 `json:"offered"`   // jobs put per second, open loop; 0: not a workload of a rate
	Round     int     `json:"round"`     // from 0

	// Figures by name: jobs_per_second, pickup_p50_ms and so on. A figure that could not be had is left out;
	// one that ends in _more_than says that the true one is larger, as its run was ended there.
	Figures map[string]float64 `json:"figures"`
	Note    string             `json:"note,omitempty"`
}

// The workloads, with the figures of each. wal_bytes_per_job, server_cpu_us_per_job and
// queries_per_job come with drain, load and enqueue.
// Also: jobs, how many a drain was of; repeated_jobs, if any was run twice; backlog_jobs, put but not run when the last of
// enqueue was put; put_p99_ms, of load: how long the put itself took; held_jobs, of the process that was killed; behind, 1 if a load was too much, so that no higher one was offered.
const (
	Drain    = "drain"    // jobs_per_second: no-op jobs put before; with 1, 2, 4, 8 processes
	Load     = "load"     // jobs_per_second, pickup_p50_ms, _p95, _p99, _p999: put and work at Offered
	Latency  = "latency"  // the same at a low rate on an idle system
	Schedule = "schedule" // lateness_p50_ms, _p99_ms, early: jobs due at known times
	Recovery = "recovery" // rerun_p50_ms or rerun_more_than_ms: from kill -9 to the job's next run
	Enqueue  = "enqueue"  // puts_per_second: single puts from 16 connections, workers alive
	Xmin     = "xmin"     // jobs_per_second and ratio (to itself without): while a snapshot is held open
	Idle     = "idle"     // queries_per_minute, of one worker process with nothing to do
)

// Faults under a steady load, which are run only if they are named. From their end, or of HalfOpen from its beginning:
// first_start_ms, until a job that waits is started, victim_start_ms, one put afterwards by a worker that was hit; rerun_p50_ms and
// rerun_max_ms, until the jobs that were in hand are run again, if they are (or rerun_more_than_ms, if some were left);
// back_ms, until as many jobs end in a second as before, or 90 % of them. Also: held_jobs, in hand when it happened;
// rerun_jobs, started more than once; repeated_jobs, run to their end more than once; stuck_jobs, that were still unfinished
// when no more was waited for; lost_jobs, put and neither run nor there.
const (
	Restart  = "restart"   // the server crashes and is started again
	Outage   = "outage"    // the same, but that it is away for a while in between
	HalfOpen = "half-open" // the server's side of all connections of one of two workers is closed, and it is not told
)
