// Who runs beside whom, when a process has died: see bury() in sql/functions.sql.

package dispatcher

import (
	"slices"
	"time"
)

// witnessTime is how long a suspect waits for witnesses while new ones are claimed: then none is, until those in hand
// have ended and it has had its turn. Where processes go on dying, there would always be some.
const witnessTime = time.Second

// admits tells whether jobs of a queue may be claimed now in whose runs one process has died, and those in whose runs
// several have. A suspect runs beside no other, and beside no witness. Each kind lets the other one pass: a suspect
// after its run, witnesses after a time.
func (l *loop) admits(q *queue, now time.Time) (witnesses, suspects bool) {
	switch {
	case l.suspects > 0:
		return false, false
	case l.witnesses > 0:
		return !l.suspectWaits(now), false
	case q.witnessesFirst:
		return true, false
	}
	return q.suspect.IsZero() && !l.suspectWaits(now), true
}

// suspectWaits tells whether one has waited long enough, as far as the looks from the head could tell, and there is a slot for it.
func (l *loop) suspectWaits(now time.Time) bool {
	return slices.ContainsFunc(l.queues, func(q *queue) bool {
		if q.suspect.IsZero() || now.Sub(q.suspect) <= witnessTime {
			return false
		}
		free, _, _ := l.slots.spare(q)
		return free > 0
	})
}

// suspected notes what a look from the head has seen: whether a suspect could not be claimed. If one could, another's time
// begins.
func (l *loop) suspected(q *queue, waits bool, now time.Time) {
	switch {
	case !waits:
		q.suspect = time.Time{}
	case q.suspect.IsZero() || l.suspects > 0:
		q.suspect = now
	}
}

// watch keeps an eye on a job that was claimed, if processes have died while they ran it.
func (l *loop) watch(c *claim) {
	switch {
	case c.job.Suspect():
		l.suspects++
	case c.job.Deaths > 0:
		l.witnesses++
	}
}

// acquit ends that with its claim. When the last one ends, others may be claimed that had to wait for it.
func (l *loop) acquit(c *claim) {
	switch {
	case c.job.Suspect():
		l.suspects--
	case c.job.Deaths > 0:
		l.witnesses--
	default:
		return
	}
	if l.suspects+l.witnesses > 0 {
		return
	}
	for _, q := range l.queues {
		q.wanted = true
		q.witnessesFirst = q.witnessesFirst || c.job.Suspect()
	}
}
