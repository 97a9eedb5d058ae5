// How many jobs are held at once, where the server has room for few locks.

package dispatcher

import "time"

const (
	// pause is how long nothing is asked of a server whose lock table is full.
	pause = time.Second
	// regrowth is how often the budget doubles after that.
	regrowth = pause / 4
)

// spare is how many locks more the session may hold.
func (l *loop) spare() int { return l.session.budget - l.locks + len(l.release) + len(l.over) }

// entitle sets the session's share of the server's locks. A budget that was lowered grows up to it by and by.
func (s *sessionScope) entitle(share int) {
	if s.budget == s.share {
		s.budget = share
	}
	s.share = share
	s.budget = min(s.budget, share)
}

// shrink answers a full lock table: hold fewer, so that other sessions get theirs, and ask again after
// a pause.
func (l *loop) shrink(a answer) {
	s := l.session
	s.budget = min(max(1, l.locks/2), s.share)
	l.over = append(l.over, a.claim.Over...)
	l.locks += len(a.claim.Over)
	l.paused = true
	l.resume.Reset(pause)
	l.ended = append(l.ended, a.claim.Ended...)
	l.unparked = append(l.unparked, a.claim.Unpark...)
	if q := a.queue; q != nil {
		q.wanted = true
		if a.claim.Park { // it may have the lock: a session lock outlives the failed statement
			q.bucket.held, q.asleep = true, false
			l.unpark(q.bucket)
		}
	}
	if !l.full {
		l.full = true
		l.d.log.Error("the server's lock table is full; running fewer jobs at once",
			"budget", s.budget, "remedy", "raise max_locks_per_transaction, or lower the concurrency", "error", a.err)
	}
}

// regain is what follows a pause: it asks again, and, as long as the lock table has room, holds more and more, up to the
// session's share.
func (l *loop) regain() {
	grows := !l.paused
	l.paused = false
	s := l.session
	if s != nil && grows {
		s.budget = min(2*s.budget, s.share)
	}
	if s == nil || s.budget == s.share { // the next session begins with all of its share
		l.full = false
		return
	}
	l.resume.Reset(regrowth)
}
