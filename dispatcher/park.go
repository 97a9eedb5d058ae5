// Parking: how a queue falls asleep without missing a job, and when it had better not sleep.
//
// A put notifies only if someone sleeps, since notifying costs (sql/triggers.sql). So before a queue
// sleeps, the lock session takes its wake lock and looks once more; the queue then is asleep. While
// puts come thick and fast, or while there is no slot for more, the lock is given up, so that puts are
// silent, and the queue is looked at every linger instead: as a network driver goes from interrupts
// to polling under load.

package dispatcher

import (
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// Between looks at a queue that is busy: as long as the last one took, so that a busy server is not asked by all that wait
	// for it again and again, but within these.
	linger        = time.Millisecond
	longestLinger = 10 * time.Millisecond

	quietLooks = 2 // in vain, before it is parked

	// A queue that is woken so often in a row, each time soon after the last, is not worth parking.
	busyWakes = 8
	soon      = 2 * time.Millisecond

	slowestPark = 100 * time.Millisecond // between attempts, while a silent put is under way
)

// bucket is a wake lock, which the queues that hash into it share.
type bucket struct {
	number int32
	held   bool // by our lock session; another's may do as well
	queues []*queue
}

// rest is what a queue's parking is about. It belongs to the loop.
type rest struct {
	bucket  *bucket
	asleep  bool          // nothing is due that is not claimed, and every put will notify
	quiet   int           // looks in vain since the last job
	wakes   int           // with jobs, each soon after the last
	last    time.Time     // when jobs were found
	waiting time.Duration // until the next attempt to park, while silent puts are under way
}

// reset is the state at the beginning of a session: awake, and to be parked at the first look in vain.
func (r *rest) reset(b *bucket) { *r = rest{bucket: b, quiet: quietLooks, waiting: linger} }

// parks tells whether the next claim is to take the wake lock first.
func (q *queue) parks(now time.Time) bool {
	return !q.bucket.held && (q.asleep || q.quiet >= quietLooks) && q.place.lull(q.last, now)
}

// looked tells how a claim has looked at its queue.
type looked struct {
	full bool // it had all that it wanted, or the one before that looked ahead had: there may be more
	head bool // it began at the head
}

// repose decides, after a claim, whether a queue sleeps or when it is looked at next.
func (l *loop) repose(q *queue, parking store.Parking, found int, looked looked, now time.Time) {
	drained := looked.head && !looked.full
	if parking == store.Parked {
		q.bucket.held = true
	}
	if drained {
		q.untold = false
	}
	if found > 0 {
		if q.quiet = 0; now.Sub(q.last) < soon {
			q.wakes++
		} else {
			q.wakes = 0
		}
		q.last = now
	} else {
		q.quiet++
	}
	safe := q.bucket.held || parking.Safe()
	q.asleep = drained && safe && q.wakes < busyWakes
	switch {
	case looked.full || !drained && !q.place.long(): // there may be more
		q.wanted = true
		l.unpark(q.bucket)
	case q.asleep:
		q.waiting = linger
	case parking == store.Busy:
		l.expect(q, q.waiting)
		q.waiting = min(2*q.waiting, slowestPark)
	default:
		q.wakes = 0
		l.unpark(q.bucket)
		if left := max(linger, min(q.place.cost, longestLinger)) - now.Sub(q.place.looked); left > 0 {
			l.expect(q, left)
		} else { // it was a look behind
			q.wanted = true
		}
	}
}

// unpark gives a wake lock up with the next ask, unless another queue sleeps by it.
func (l *loop) unpark(b *bucket) {
	if !b.held {
		return
	}
	for _, q := range b.queues {
		if q.asleep {
			return
		}
	}
	b.held = false
	l.unparked = append(l.unparked, b.number)
}

// saturate sees to the queues that have jobs but no room: another process may have.
func (l *loop) saturate() {
	spare := l.spare()
	for _, q := range l.queues {
		if !q.wanted && len(q.hand.claims) == 0 {
			continue
		}
		free, waiting, busy := l.slots.spare(q)
		if waiting > 0 { // by then they should have been started; look whether to hand them back
			l.expect(q, reserveTime)
		}
		if !q.wanted || min(spare, q.room(free, waiting, busy)) > 0 {
			continue
		}
		l.inform(q)
		if q.asleep { // while no one sleeps puts need not notify
			q.asleep = false
			l.unpark(q.bucket)
		}
	}
}

// withoutBucket are the queues whose wake locks are not known: all, at the beginning of a session.
func (l *loop) withoutBucket() (queues []*queue) {
	for _, q := range l.queues {
		if q.bucket == nil {
			queues = append(queues, q)
		}
	}
	return queues
}

// settleIn gives queues their wake locks.
func (l *loop) settleIn(queues []*queue, numbers []int32) {
	buckets := map[int32]*bucket{}
	for _, q := range l.queues {
		if q.bucket != nil {
			buckets[q.bucket.number] = q.bucket
		}
	}
	for i, q := range queues {
		b := buckets[numbers[i]]
		if b == nil {
			b = &bucket{number: numbers[i]}
			buckets[b.number] = b
		}
		b.queues = append(b.queues, q)
		q.reset(b)
	}
}

// getUp gives up all wake locks, for others to take.
func (l *loop) getUp() {
	for _, q := range l.queues {
		if q.bucket == nil { // no session has been opened yet
			continue
		}
		q.asleep = false
		l.unpark(q.bucket)
	}
}
