// When runs begin: not early, not late, and in the order of their queue.

package judge

import (
	"fmt"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// judgeTime judges when a run began.
func (c *court) judgeTime(j *job, i int) {
	b := j.runs[i]
	if j.begun != 0 && b.start < j.begun+j.delay-tick {
		c.accuse(Early, j, fmt.Sprintf("a run began %v before its time", time.Duration(j.begun+j.delay-b.start)))
	}
	if i == 0 {
		if j.how == journal.PutOK {
			c.judgeLate(j, b)
		}
		return
	}
	if a := j.runs[i-1]; c.superseded(j, a, b) || c.broken(b, b.start) { // it was claimed before a had run
		return
	} else if (a.outcome == journal.Failed || a.outcome == journal.Snoozed) && !c.broken(a, b.start) && b.start < a.end+a.delay-tick {
		c.accuse(Early, j, fmt.Sprintf("a run began %v before its delay was over", time.Duration(a.end+a.delay-b.start)))
	}
}

// judgeLate judges how late the job's first run began.
func (c *court) judgeLate(j *job, b *run) {
	from := max(j.begun+j.delay, j.told)
	c.late = append(c.late, max(0, b.start-from))
	until := max(from, c.open) + lateAfter
	for _, f := range c.faults {
		if f.begin <= b.start && f.end >= from-near {
			if f.foreign >= Busy { // others had the machine, then and maybe for longer
				return
			}
			until = max(until, min(f.end, never-lateAfterFault)+lateAfterFault)
		}
	}
	if b.start > until && c.foreign(from-near, b.start) < Busy {
		c.accuse(Late, j, fmt.Sprintf("its first run began %v after its time", time.Duration(b.start-from)))
	}
}

// foreign is the percentage of the machine that others used in that time, as far as it was written down. A reading is of all
// the time since the one before, which on a busy machine may be long.
func (c *court) foreign(from, to int64) int {
	sum, n, before := 0, 0, int64(0)
	for _, r := range c.machine {
		if r.at >= from && before <= to {
			sum += r.foreign
			n++
		}
		before = r.at
	}
	return sum / max(1, n)
}
