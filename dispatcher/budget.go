// How many jobs are held at once, where the server has room for few locks.

package dispatcher

import "time"

const (
	// pause is how long nothing is asked of a server whose lock table is full.
	pause = time.Second
	// regrowth is how often the budget doubles after that.
	regrowth = pause / 4
	// someRoom is what a session holds at least, when the table is full, if others leave it room to work in.
	someRoom = 8
)

// allowance is how many locks a session may hold.
type allowance struct {
	share  int // of the server's lock table, as a sweep has told
	budget int // of that now

	full  bool // the table was full, and no claim was granted with all of the share since
	grows bool // the budget does, up to the share
}

// entitle sets the share.
func (a *allowance) entitle(share int) {
	a.share = share
	if !a.grows {
		a.budget = share
	}
	a.budget = min(a.budget, share)
}

// grant notes that a claim found room.
func (a *allowance) grant() {
	a.full = a.full && a.budget < a.share
}

// shrink lowers the budget, as the table is full with so many locks of the session in it. It tells whether that is news. Where
// others leave some room for long, a budget that grows comes to the end of it again and again: the second time it
// stays as it is, until a sweep.
func (a *allowance) shrink(locks int) (news bool) {
	news = !a.full
	a.grows = news || locks < someRoom
	a.budget = min(max(1, locks/2), a.share)
	a.full = true
	return news
}

// grow doubles the budget, if it grows.
func (a *allowance) grow() {
	if a.grows {
		a.budget = min(max(1, 2*a.budget), a.share)
		a.grows = a.budget < a.share
	}
}

// spare is how many locks more the session may hold.
func (l *loop) spare() int {
	return l.session.allowance.budget - l.locks + len(l.release) + len(l.over)
}

// shrink answers a full lock table: hold fewer, so that other sessions get theirs, and ask again after
// a pause.
func (l *loop) shrink(a answer) {
	if l.session.allowance.shrink(l.locks) {
		l.d.log.Error("the server's lock table is full; running fewer jobs at once",
			"budget", l.session.allowance.budget, "remedy", "raise max_locks_per_transaction, or lower the concurrency", "error", a.err)
	}
	l.paused = true
	l.resume.Reset(pause)
	l.over = append(l.over, a.claim.Over...)
	l.locks += len(a.claim.Over)
	l.ended = append(l.ended, a.claim.Ended...)
	if l.stopping { // what tells of a wake lock needs room; our neighbour in the ring will see the session end
		l.forsaken = a.queue == nil && len(a.claim.Unpark) == 0 && l.slots.empty()
		return
	}
	l.unparked = append(l.unparked, a.claim.Unpark...)
	if q := a.queue; q != nil {
		q.wanted = true
		if a.claim.Park { // it may have the lock: a session lock outlives the failed statement
			q.bucket.held, q.asleep = true, false
			l.unpark(q.bucket)
		}
	}
}

// regain is what follows a pause: it asks again, and by and by holds more.
func (l *loop) regain() {
	wasPaused := l.paused
	l.paused = false
	if l.session == nil { // the next one begins with all of its share
		return
	}
	if !wasPaused {
		l.session.allowance.grow()
	}
	if l.session.allowance.grows {
		l.resume.Reset(regrowth)
	}
}
