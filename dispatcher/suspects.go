// Who runs beside whom, when a process has died: see bury() in sql/functions.sql.

package dispatcher

import "github.com/pq-dispatch/pq-dispatch/store"

// deaths is in how many runs of a job processes may have died for it to be claimed now. A suspect runs beside no
// other, and beside no witness. It has to wait for those, and not they for all the suspects.
func (l *loop) deaths(q *queue) int {
	switch {
	case l.suspects > 0:
		return 0
	case l.witnesses > 0 || q.witnessesFirst:
		return 1
	}
	return store.AnyDeaths
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
