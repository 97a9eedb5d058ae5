// What wakes the loop: notifications, and the one timer of the wheel.

package dispatcher

import (
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
)

// heed takes what the listener has heard.
func (l *loop) heed() {
	telemetry.Wake(l.inner, "notification")
	heard := l.hints.take()
	if heard.all { // the sweep looks for the dead, too
		l.sweep = true
	}
	if heard.members {
		l.ring.changed()
	}
	l.obey(heard)
	for _, q := range l.queues {
		if heard.all || q.bucket != nil && heard.buckets[q.bucket.number] && !q.bucket.held {
			q.wanted = true
		}
	}
	for q, due := range heard.pending {
		if due.IsZero() || !l.offsetOK {
			q.wanted = true
		} else {
			l.expect(q, time.Until(due.Add(-l.offset)))
		}
	}
}

// expect has the wheel fire for a queue after a delay. What is beyond the horizon is left to the
// sweep.
func (l *loop) expect(q *queue, delay time.Duration) {
	if delay > l.horizon {
		return
	}
	if at := time.Since(l.epoch) + delay; at < q.armed {
		q.armed = at
		l.wheel.add(at, q)
	}
}

// callAgain is how often others are told of due jobs that there is no room for here.
const callAgain = time.Second

// inform lets others know of jobs that there is no room for here, once a timer has fired for them: they may have room,
// and not know, as of a retry: an UPDATE notifies nobody.
func (l *loop) inform(q *queue) {
	if !q.untold {
		return
	}
	now := time.Since(l.epoch)
	if wait := callAgain - (now - q.called); wait > 0 {
		l.expect(q, wait)
		return
	}
	q.called, q.untold = now, false
	l.call(q)
}

func (l *loop) advance() {
	now := time.Since(l.epoch)
	l.wheel.advance(now, func(at time.Duration, q *queue) {
		q.wanted, q.untold = true, true
		if at >= q.armed {
			q.armed = never
		}
	})
	if l.session != nil {
		l.shed() // what should have been started by now
	}
}

// arm sets the one timer to the wheel's next entry.
func (l *loop) arm() {
	at, ok := l.wheel.next()
	if !ok {
		l.timer.Stop()
		return
	}
	l.timer.Reset(at - time.Since(l.epoch))
}
