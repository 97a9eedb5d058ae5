// The jobs of a run: what a producer puts, and what a dispatcher does with it.

package main

import (
	"math/rand/v2"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// load is a job's data.
type load struct {
	Token int64  `json:"t"`
	Kind  string `json:"k"`
	Work  int    `json:"w,omitempty"` // ms that a run takes
	Fails int    `json:"f,omitempty"` // so many runs fail before one succeeds
	Delay int    `json:"d,omitempty"` // ms until the next run after one that failed or was put off
	Brief int    `json:"b,omitempty"` // a run that begins more than so many ms after the put takes no time; 0: each takes its time
}

// The kinds of jobs, beside those of package judge.
const (
	plain   = "plain"   // does nothing but take its time
	effect  = "effect"  // writes to the database, and is completed afterwards
	flaky   = "flaky"   // fails a few times
	putOff  = "snooze"  // is put off, once in each process
	dropped = "discard" // ends by dispatcher.Discard

	heedless = "heedless" // takes its time, whatever its context says; only faults put it
)

// job is one to be put.
type job struct {
	load
	queue string
	after time.Duration // until it is due
}

// queues are all of them but that of the task. Jobs of all kinds are in each, so that they meet.
var queues = []string{"apples", "pears", "plums", "a queue with \"quotes\" and spaces"}

// chores is a task: jobs with typed arguments and retries of their own.
var chores = store.Task[load]{Queue: "chores", Name: "chore", MaxRetries: 999, RetryIn: 100 * time.Millisecond}

// invent draws a job.
func invent(r *rand.Rand, token int64) job {
	j := job{load: load{Token: token, Kind: plain, Work: r.IntN(4)}, queue: queues[r.IntN(len(queues))]}
	switch n := r.IntN(100); {
	case n < 30:
	case n < 62:
		j.Kind = judge.Transactional
	case n < 75:
		j.Kind = effect
	case n < 85:
		j.Kind, j.Fails, j.Delay = flaky, 1+r.IntN(3), 50+r.IntN(400)
	case n < 88:
		j.Kind, j.Delay = judge.Doomed, 50+r.IntN(200)
	case n < 90:
		j.Kind = judge.Hopeless
	case n < 93:
		j.Kind, j.Delay = putOff, 50+r.IntN(400)
	case n < 95:
		j.Kind = dropped
	default:
		j.Work = 200 + r.IntN(1000)
	}
	if r.IntN(4) == 0 {
		j.after = time.Duration(r.IntN(3000)) * time.Millisecond
	}
	return j
}
