// What becomes of a job: put, run, completed once, set aside, and one handler at a time.

package judge

import (
	"fmt"
	"slices"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// judge judges a job.
func (c *court) judge(j *job) {
	present := j.row != nil || len(j.completions) > 0
	seen := present || len(j.runs) > 0 || j.effects > 0
	switch j.how {
	case journal.PutOK:
		c.v.Put++
		if !present {
			if c.isForgiven(j.told) {
				c.v.Forgiven++
			} else {
				c.accuse(Lost, j, "it was committed, and is neither done nor in the table")
			}
		}
	case journal.PutFailed, journal.PutRolledBack:
		if j.how == journal.PutFailed {
			c.v.PutFailed++
		} else {
			c.v.PutRolledBack++
		}
		if seen {
			c.accuse(Phantom, j, "it was not committed, and yet there")
		}
	case journal.PutIndeterminate, journal.PutBegin:
		c.v.PutIndeterminate++
	default:
		c.accuse(Phantom, j, "nobody has put it")
	}
	c.judgeEnd(j)
	for i, b := range j.runs {
		c.judgeTime(j, i)
		c.judgeAttempt(j, i)
		for _, a := range j.runs[:i] {
			c.judgePair(j, a, b)
		}
	}
}

// judgeEnd judges what became of the job.
func (c *court) judgeEnd(j *job) {
	if len(j.completions) > 1 || j.kind == Transactional && j.effects > 1 {
		c.accuse(AcceptedTwice, j, fmt.Sprintf("%d completions, %d effects", len(j.completions), j.effects))
	}
	fails := j.kind == Doomed || j.kind == Hopeless || j.kind == Poison
	if len(j.completions) > 0 {
		if j.kind == Transactional && j.effects == 0 {
			c.accuse(HalfAccepted, j, "it is completed, and its effect is not there")
		}
		if !slices.ContainsFunc(j.runs, func(r *run) bool {
			return finished(r.outcome) || j.kind == Transactional && (!r.ended || r.outcome == journal.Broken)
		}) {
			c.accuse(Lost, j, fmt.Sprintf("it is gone, and none of its %d runs has done it", len(j.runs)))
		}
		at := j.completions[0].At
		for _, b := range j.runs {
			if b.start > at+tick && !c.broken(b, b.start) && !slices.ContainsFunc(j.runs, func(a *run) bool { return a.start < b.start && c.broken(a, at) }) {
				c.accuse(Again, j, fmt.Sprintf("a run began %v after its completion was accepted", time.Duration(b.start-at)))
				break
			}
		}
	} else if j.kind == Transactional && j.effects > 0 {
		c.accuse(HalfAccepted, j, "its effect is there, and it is not completed")
	}
	if j.row == nil {
		return
	}
	switch {
	case !j.row.SetAside:
		c.accuse(Stuck, j, fmt.Sprintf("it still waits, with attempt %d; %s", j.row.Attempt, j.row.Reason))
	case !fails:
		c.accuse(Aside, j, "it was set aside: "+j.row.Reason)
	}
}

// judgePair judges a run beside an earlier one of the same job.
func (c *court) judgePair(j *job, a, b *run) {
	// Either of them may be of a claim that was lost; the second one, if its dispatcher has not heard of that.
	switch broken := c.broken(a, b.start) || c.broken(b, b.start); {
	case b.start < a.end && broken:
		c.v.OverlapsBroken++
		c.v.Overlaps[c.latestFault(b.start)]++
	case b.start < a.end:
		c.accuse(Overlap, j, "two handlers at once, and the first one's session lived")
	case finished(a.outcome) && !broken && c.superseded(j, a, b):
		c.v.Superseded++
	case finished(a.outcome) && !broken:
		c.accuse(Again, j, "a run that did it, under an unbroken claim, was followed by another")
	}
}

// superseded tells whether the outcome of a run may have been refused since that of an earlier one of the same attempt was
// written first, late: its dispatcher had lost the claim and still wrote what became of it. One of the two is accepted,
// as it has to be, and the next run is by its word.
func (c *court) superseded(j *job, a, b *run) bool {
	return slices.ContainsFunc(j.runs, func(z *run) bool {
		return z != a && z.start < a.start && z.attempt == a.attempt && z.ended && !finished(z.outcome) && c.broken(z, b.start)
	})
}

// broken tells whether the lock session of a run came to its end until then. It may have ended before the run began, if
// the dispatcher had not noticed.
func (c *court) broken(r *run, until int64) bool {
	p := r.process
	if len(p.sessions) == 0 { // it does not tell of its sessions: any fault may have broken them
		return p.died <= until+slack || slices.ContainsFunc(c.faults, func(f fault) bool { return f.begin <= until && f.end >= r.start-near })
	}
	for _, s := range slices.Backward(p.sessions) {
		if s.freed <= until+slack && s.freed >= r.start-slack {
			return true
		}
		if s.up <= r.start { // that of the claim
			return s.freed <= until+slack
		}
	}
	return false
}

// latestFault is the name of the one that began last until then.
func (c *court) latestFault(until int64) (name string) {
	for _, f := range c.faults {
		if f.begin <= until {
			name = f.name
		}
	}
	return name
}

func (c *court) isForgiven(at int64) bool {
	return slices.ContainsFunc(c.forgiven, func(span [2]int64) bool { return at >= span[0] && at <= span[1] })
}

// finished tells whether a run with this outcome has ended the job.
func finished(outcome string) bool {
	return outcome == journal.Done || outcome == journal.DoneTx || outcome == journal.Discarded
}
