// The violations, with what shows them.

package judge

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// accuse is blame with all that is known of a job.
func (c *court) accuse(what What, j *job, text string) {
	if c.v.Counts[what] >= keep {
		c.v.Counts[what]++
		return
	}
	var evidence []journal.Event
	if j.begun != 0 {
		evidence = append(evidence, journal.Event{Time: j.begun, Kind: journal.PutBegin, Token: j.token, Due: j.delay, Text: j.kind})
	}
	if j.told != 0 {
		evidence = append(evidence, journal.Event{Time: j.told, Kind: j.how, Token: j.token})
	}
	id := int64(0)
	for _, r := range j.runs {
		evidence = append(evidence, r.events...)
		id = r.job
		for _, s := range r.process.sessions {
			if s.freed >= r.start-slack && s.freed != never {
				evidence = append(evidence, journal.Event{Time: s.freed, Kind: journal.BackendEnded, Job: s.pid, Text: r.process.name, Process: r.process.name})
				break
			}
		}
	}
	for _, done := range j.completions {
		evidence = append(evidence, journal.Event{Time: done.At, Kind: "accepted", Token: done.Token, Job: done.Job, Attempt: done.Attempt})
	}
	slices.SortStableFunc(evidence, func(a, b journal.Event) int { return cmp.Compare(a.Time, b.Time) })
	c.blame(what, fmt.Sprintf("token %d, job %d, %s: %s", j.token, id, cmp.Or(j.kind, "unknown"), text), evidence...)
}

func (c *court) blame(what What, text string, evidence ...journal.Event) {
	if c.v.Counts[what]++; c.v.Counts[what] <= keep || what == Leaked {
		c.v.Violations = append(c.v.Violations, Violation{What: what, Text: text, Evidence: evidence})
	}
}

// leak blames what was left, as many as there are.
func (c *court) leak(l Leak) {
	if l.Count > 0 {
		c.v.Counts[Leaked] += l.Count - 1
		c.blame(Leaked, fmt.Sprintf("%d %s", l.Count, l.What))
	}
}
