// How attempts are counted, as tightly as the journals can tell.

package judge

import (
	"fmt"
	"slices"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// judgeAttempt judges the number of a run. A job's number goes up with a run that failed, and with the end of a lock
// session that had the job in hand; each at most by one, and both by one together, as the product writes either only if
// the number is still that of the run. So it is enough to count from the latest outcome that surely stands: its number is known, and
// it puts the job off, which takes it out of the hands of all who had claimed it before.
func (c *court) judgeAttempt(j *job, i int) {
	b := j.runs[i]
	if c.broken(b, b.start) { // its number is that of its claim, which was lost, though its dispatcher had not heard
		return
	}
	least, since, later := 1, j.begun+j.delay, j.runs[:i]
	for n, a := range slices.Backward(j.runs[:i]) {
		if a.outcome != journal.Failed && a.outcome != journal.Snoozed || c.broken(a, b.start) || c.superseded(j, a, b) {
			continue
		}
		if least = a.attempt; a.outcome == journal.Failed {
			least++
		}
		since, later = a.end+a.delay, j.runs[n+1:i]
		break
	}
	most := least
	if b.attempt > least { // which is rare
		most += c.deaths(j, b, since, later)
		for _, r := range later {
			if failed(r) {
				most++
			}
		}
	}
	switch {
	case b.attempt < least || b.attempt > most:
		c.accuse(Attempts, j, fmt.Sprintf("attempt %d, want %d to %d", b.attempt, least, most))
	case j.kind == Doomed && b.attempt > DoomedAttempts:
		c.accuse(Attempts, j, fmt.Sprintf("attempt %d of %d", b.attempt, DoomedAttempts))
	}
}

// failed tells whether a run's outcome would count as an attempt. It may have come too late to be written.
func failed(r *run) bool { return r.outcome == journal.Failed || r.outcome == journal.Broken }

// deaths is how many lock sessions may have ended with the job in hand, from when it was due until b began, beside those that
// ended a run which has failed. later are the runs in that time.
func (c *court) deaths(j *job, b *run, since int64, later []*run) (n int) {
	for _, p := range c.processes {
		if len(p.serves) > 0 && b.queue != "" && !slices.Contains(p.serves, b.queue) {
			continue
		}
		for i, s := range p.sessions {
			if s.freed == never || s.freed-slack > b.start || s.latest+slack < since {
				continue
			}
			var last *run // of this session
			for _, r := range later {
				if r.process == p && r.start >= s.up && r.start <= s.latest+slack && (i+1 == len(p.sessions) || r.start < p.sessions[i+1].up) {
					last = r
				}
			}
			switch {
			case last != nil && !failed(last): // it was at work on it, or its outcome may not have been written
				n++
			// It may have claimed the job and not begun, of which no journal knows: unless the job was not yet due
			// again, or surely in other hands.
			case last != nil && (last.end > s.latest+slack || last.end+last.delay > s.latest+slack):
			case !c.held(j, b, s):
				n++
			}
		}
	}
	return n
}

// held tells whether a job was at work, under another session that lived, all the time in which this one may have ended.
func (c *court) held(j *job, b *run, s *session) bool {
	return slices.ContainsFunc(j.runs, func(r *run) bool {
		return r != b && r.start < s.freed-slack && r.end > s.latest+slack && !c.broken(r, s.latest+slack)
	})
}
