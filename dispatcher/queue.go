package dispatcher

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/telemetry"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// queue is what the loop knows of one queue. But for the fields that are fixed when Run starts, all
// of it belongs to the loop's goroutine.
type queue struct {
	name      string
	how       atomic.Pointer[manner]
	telemetry *telemetry.Queue

	leaving        bool // it is not handled any more, and forgotten when it has nothing in hand
	line           line // its part of the slots, under their lock
	hand           hand
	wanted         bool          // there may be a due job that is not claimed
	witnessesFirst bool          // a suspect has had its turn
	suspect        time.Time     // since when one has waited for witnesses; zero: none has
	halted         bool          // paused since the last claim was asked for: what that gives goes back
	armed          time.Duration // when the wheel will fire for it, at the latest, or never
	untold         bool          // a timer of ours fired for it, and since then neither was it drained nor were the others woken
	called         time.Duration // when they were last
	rate           rate
	place          position
	rest
}

// manner is how a queue's jobs are handled. It is not changed, but replaced by another.
type manner struct {
	source   *store.Queue
	spelling string           // as registered, with the codec's suffix
	routes   map[string]route // by task
	options  QueueOptions
}

// route is where the jobs of a task go.
type route struct {
	handler Handler
	retry   retry.Policy // nil: the queue's
}

func (m *manner) route(task string) (r route, known bool) {
	if r, known = m.routes[task]; !known {
		r, known = m.routes[anyTask]
	}
	return r, known
}

func (q *queue) configure(o QueueOptions) {
	q.how.Load().options = o
	q.telemetry = telemetry.NewQueue(q.name)
	q.hand = newHand()
	q.armed = never
	q.called = -callAgain
}

// claim is a job in the hands of this dispatcher.
type claim struct {
	job       Job
	queue     *queue
	session   *sessionScope // under which it was claimed
	ctx       jobContext
	batch     int64
	claimedAt time.Time     // on the local clock
	age       time.Duration // since it was due, at that time
	outcome   outcome       // set by its worker, before it is finished
	running   bool          // under the lock of the slots
}

// room is how many jobs of the queue to claim now: those that free slots wait for, and a little more,
// so that the slots stay busy while the next claim is under way.
func (q *queue) room(free, waiting, busy int) int {
	return free - waiting + q.prefetch(time.Now(), busy+free)
}

// prefetch is the number of jobs to hold in reserve: those that are handled in prefetchTime, or while the
// next claims are under way. A job held here is one that an idle process could run, or that a more urgent one
// does not overtake, so there are none if a claim takes next to no time beside a handler: as many as there are of those
// handle jobs at the queue's rate, once there are jobs for all.
func (q *queue) prefetch(now time.Time, handlers int) int {
	most := q.how.Load().options.Prefetch
	if most < 0 || float64(handlers) > q.rate.perSecond*worthwhile*q.place.cost.Seconds() {
		return 0
	}
	return min(q.rate.in(max(prefetchTime, 2*q.place.cost), now), cmp.Or(most, maxPrefetch), maxPrefetch)
}

// buffer holds claims in the order in which jobs run. They come nearly in that order, so to keep them sorted
// costs less than a heap.
type buffer []*claim

func (b *buffer) add(claims []*claim) {
	last := max(0, len(*b)-1)
	*b = append(*b, claims...)
	if !slices.IsSortedFunc((*b)[last:], before) {
		slices.SortFunc(*b, before)
	}
}

func (b *buffer) next() *claim {
	c := (*b)[0]
	(*b)[0] = nil
	*b = (*b)[1:]
	return c
}

// before orders claims by the earliest expected_at, those without one last, then by id.
func before(a, b *claim) int {
	x, y := a.job.Job, b.job.Job
	if !x.ExpectedAt.Equal(y.ExpectedAt) {
		switch {
		case x.ExpectedAt.IsZero():
			return 1
		case y.ExpectedAt.IsZero():
			return -1
		}
		return x.ExpectedAt.Compare(y.ExpectedAt)
	}
	return cmp.Compare(x.ID, y.ID)
}

// rate follows how fast a queue's jobs are handled.
type rate struct {
	perSecond float64
	done      int // since the last measurement
	since     time.Time
}

const (
	prefetchTime = 20 * time.Millisecond // of work to hold in reserve
	reserveTime  = 5 * prefetchTime      // between looks whether it is too much
	worthwhile   = 20                    // for handlers that take less than so many claims
	maxPrefetch  = 2000
	rateWindow   = 5 * time.Millisecond // the shortest time that a rate is measured over
	rateHolds    = time.Second          // after a pause, what was before says nothing
)

// measure folds what was done since the last measurement into the rate.
func (r *rate) measure(now time.Time, done int) {
	r.done += done
	elapsed := now.Sub(r.since)
	if elapsed < rateWindow {
		return
	}
	if elapsed < rateHolds {
		r.perSecond = (r.perSecond + float64(r.done)/elapsed.Seconds()) / 2
	} else {
		r.perSecond = float64(r.done) / elapsed.Seconds()
	}
	r.done, r.since = 0, now
}

// in is the number of jobs that are handled in a time.
func (r *rate) in(t time.Duration, now time.Time) int {
	if now.Sub(r.since) > rateHolds {
		return 0
	}
	return int(r.perSecond * t.Seconds())
}
