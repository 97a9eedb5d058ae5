// The sweep: one look at all queues now and then, for what no hint told of, and for what the dead have left.

package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// surveyed is what came of a sweep.
type surveyed struct {
	session *sessionScope // in whose time it was begun
	begun   time.Time
	queues  []*queue
	survey  store.Survey
	err     error
}

// lookAround begins a sweep, if it is time. It runs beside the lock session: where vacuum is kept from its work, it
// steps over all that was ever done, and no claim should wait for that.
func (l *loop) lookAround() {
	if !l.sweep || l.sweeping || l.session == nil || l.paused || l.stopping {
		return
	}
	l.sweep, l.sweeping = false, true
	now := time.Now()
	s := surveyed{session: l.session, begun: now, queues: l.unwatched(now)}
	l.background.Go(func() {
		ctx, cancel := context.WithTimeout(s.session.ctx, sessionTimeout) // no longer: the next session begins with one
		defer cancel()
		s.survey, s.err = l.d.jobs.Sweep(ctx, s.session.id, sources(s.queues))
		l.surveyed <- s // there is room: no other is under way
	})
}

// unwatched are the queues but those with a long head that are awake, and so looked at all the time.
func (l *loop) unwatched(now time.Time) (queues []*queue) {
	for _, q := range l.queues {
		if !q.place.long() || q.asleep || q.halted || now.Sub(q.place.looked) > time.Second {
			queues = append(queues, q)
		}
	}
	return queues
}

// hearSurvey takes the result.
func (l *loop) hearSurvey(s surveyed) {
	l.sweeping = false
	if s.session != l.session || l.stopping {
		return // the next session begins with a sweep
	}
	if s.err != nil {
		if errors.Is(s.err, context.DeadlineExceeded) {
			l.d.jobs.Renew()
		}
		if l.inner.Err() == nil {
			l.d.log.Warn("cannot look at all queues; the next sweep tries again", "error", s.err)
		}
		if !l.session.surveyed {
			l.sweep, l.paused = true, true
			l.resume.Reset(pause)
		}
		return
	}
	l.session.surveyed = true
	telemetry.Wake(l.inner, "sweep")
	if !s.survey.Lit { // the server has ended the session, and nobody told us
		select {
		case l.keeper.dark <- s.session.id:
		default:
		}
		return
	}
	for i, outlook := range s.survey.Outlooks {
		if outlook.Due {
			s.queues[i].wanted = true
		}
		if outlook.NextDue >= 0 {
			l.expect(s.queues[i], outlook.NextDue)
		}
	}
	l.session.allowance.entitle(s.survey.Budget)
	for _, id := range s.survey.Cancelled { // who asked may not have been heard
		l.cancel(id, s.begun) // a later run it does not know of
	}
	l.shed()
	if len(s.survey.Dead) > 0 && !l.burying {
		l.burying = true
		l.background.Go(func() {
			l.bury(s.survey.Dead)
			l.buried <- struct{}{}
		})
	}
}

// bury sees to what dead dispatchers have left. Claims wait for it: a job that is claimed again before
// its attempt is counted could go on killing processes uncounted.
func (l *loop) bury(dead []int32) {
	for _, id := range dead {
		if err := l.d.bury(l.inner, id, 0); err != nil && l.inner.Err() == nil {
			l.d.log.Warn("cannot bury a dead dispatcher; the next sweep tries again", "dispatcher", id, "error", err)
		}
	}
}
