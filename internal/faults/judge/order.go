// In which order the jobs of a queue begin.

package judge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// order judges the order in which a process begins the jobs of a queue, which is that of their ids: none of those that are put
// here is urgent.
//
// Of one job and another, this is judged only if the first was committed and due orderMargin before the put of the other
// began, so that its id is smaller and it could be claimed all that time. Then it must not begin orderMargin after the other, in
// the same process. A job that was scheduled may overtake others by right, when it is due; others must not overtake it.
//
// That holds where this process alone serves the queue. Where others do as well, claims leap over what they have in hand, and come
// back for what they have left behind: there it is allowed, and counted.
//
// Only first runs are judged, as a later one waits for its delay; only jobs of which it is certain when they were put; and only
// where no fault has been near since, or shortly before, the first one's time: a job may have been in the hand of a process that was
// stopped, cut off or dead. In the short runs that leaves what comes before the first fault: see the fault backlog, which
// breaks nothing.
func (c *court) order() {
	type line struct {
		process *process
		queue   string
	}
	type first struct {
		job *job
		run *run
	}
	lines := map[line][]first{}
	for _, token := range slices.Sorted(maps.Keys(c.jobs)) {
		if j := c.jobs[token]; j.how == journal.PutOK && j.begun != 0 && len(j.runs) > 0 && j.runs[0].attempt == 1 {
			of := line{j.runs[0].process, j.runs[0].queue}
			lines[of] = append(lines[of], first{j, j.runs[0]})
		}
	}
	inOrder := func(a, b line) int {
		return cmp.Or(cmp.Compare(a.process.name, b.process.name), cmp.Compare(a.queue, b.queue))
	}
	for _, of := range slices.SortedFunc(maps.Keys(lines), inOrder) {
		runs, alone := lines[of], c.alone(of.process, of.queue)
		slices.SortStableFunc(runs, func(a, b first) int { return cmp.Compare(a.run.start, b.run.start) })
		var youngest *job // that was put last, of those that have begun orderMargin before
		behind := 0
		for _, x := range runs {
			for ; runs[behind].run.start < x.run.start-orderMargin; behind++ {
				if y := runs[behind].job; y.delay == 0 && (youngest == nil || y.begun > youngest.begun) {
					youngest = y
				}
			}
			there := max(x.job.begun+x.job.delay, x.job.told)
			if c.disturbed(there, x.run.start) {
				continue
			}
			if alone {
				c.v.Ordered++
			}
			switch {
			case youngest == nil || youngest.begun <= there+orderMargin:
			case alone:
				c.accuse(Disorder, x.job, fmt.Sprintf("it began %v after job %d, which was put %v after it was there",
					time.Duration(x.run.start-youngest.runs[0].start), youngest.runs[0].job, time.Duration(youngest.begun-there)))
			default:
				c.v.Overtaken++
			}
		}
	}
}

// alone tells whether no other process serves a queue.
func (c *court) alone(of *process, queue string) bool {
	for _, p := range c.processes {
		if p != of && len(p.sessions) > 0 && (len(p.serves) == 0 || slices.Contains(p.serves, queue)) {
			return false
		}
	}
	return true
}

// disturbed tells whether a fault that breaks something has been near a time, or shortly before.
func (c *court) disturbed(from, to int64) bool {
	return slices.ContainsFunc(c.faults, func(f fault) bool {
		return !f.harmless && f.begin <= to && f.end >= from-lateAfterFault
	})
}
