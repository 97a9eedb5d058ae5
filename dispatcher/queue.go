package dispatcher

import (
	"cmp"
	"container/heap"
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

	leaving bool             // it is not handled any more, and forgotten when it has nothing in hand
	line    line             // its part of the slots, under their lock
	held    map[int64]*claim // claimed, in whatever stage: never to be claimed again meanwhile
	wanted  bool             // there may be a due job that is not claimed
	armed   time.Duration    // when the wheel will fire for it, at the latest, or never
	called  time.Duration    // when the others were last woken for it
	rate    rate
	place   position
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
	q.held = map[int64]*claim{}
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
func (l *loop) room(q *queue) int {
	free, waiting, busy := l.slots.spare(q)
	room := free - waiting
	if busy > 0 { // so slots will come free, at that rate
		room += q.prefetch(time.Now())
	}
	return room
}

// prefetch is the number of jobs to hold in reserve: those that are handled in prefetchTime, or while the
// next claims are under way. Slow handlers have none: a job held here is one that an idle process could run.
func (q *queue) prefetch(now time.Time) int {
	most := q.how.Load().options.Prefetch
	if most < 0 {
		return 0
	}
	return min(q.rate.in(max(prefetchTime, 2*q.place.cost), now), cmp.Or(most, maxPrefetch), maxPrefetch)
}

// heldAfter are the ids of held jobs that a claim from a position may come upon: all, from the head.
func (q *queue) heldAfter(after int64) []int64 {
	var ids []int64
	for id := range q.held {
		if id > after {
			ids = append(ids, id)
		}
	}
	return ids
}

// position is how far the claims of a queue have come. From the head they step over all that is in hand
// and over what is done but not vacuumed, so a busy queue is claimed from where the last claim ended. What
// stands before that, urgent, scheduled, committed late or handed back, is found from the head: at most
// headShare of the time goes into that, and no queue falls asleep without it.
type position struct {
	after    int64         // 0: the next claim is from the head
	head     time.Time     // when the last answer to a claim from the head came
	headCost time.Duration // how long that took
	cost     time.Duration // how long the latest claim took
}

const (
	headShare  = 10                    // claims from the head wait that many times their own cost
	urgentLook = 20 * time.Millisecond // between looks of a queue whose buffer is full
)

// next says where to claim from.
func (p *position) next(now time.Time) int64 {
	if now.Sub(p.head) > headShare*p.headCost {
		return 0
	}
	return p.after
}

// stale tells whether it is time to look for urgent jobs, though there is no room for more.
func (p *position) stale(now time.Time) bool {
	return now.Sub(p.head) > max(urgentLook, headShare*p.headCost)
}

// advance notes what a claim has found. If it was not full and not from the head, the next one has to be.
func (p *position) advance(a answer, full bool) {
	p.cost = a.at.Sub(a.asked)
	if a.claim.After == 0 {
		p.head, p.headCost = a.at, p.cost
	}
	if !full {
		p.after = 0
		return
	}
	for _, job := range a.claims.Jobs {
		if job.ScheduleAt.IsZero() && job.ExpectedAt.IsZero() {
			p.after = max(p.after, job.ID)
		}
	}
}

// buffer is a heap of claims in the order in which jobs run: earliest expected_at first, those
// without one last, then id.
type buffer []*claim

func (b buffer) Len() int      { return len(b) }
func (b buffer) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b *buffer) Push(c any)   { *b = append(*b, c.(*claim)) }
func (b *buffer) Pop() any {
	old := *b
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*b = old[:len(old)-1]
	return last
}

func (b buffer) Less(i, j int) bool {
	x, y := b[i].job.Job, b[j].job.Job
	if !x.ExpectedAt.Equal(y.ExpectedAt) {
		return !x.ExpectedAt.IsZero() && (y.ExpectedAt.IsZero() || x.ExpectedAt.Before(y.ExpectedAt))
	}
	return x.ID < y.ID
}

func (b *buffer) add(c *claim) { heap.Push(b, c) }
func (b *buffer) next() *claim { return heap.Pop(b).(*claim) }

// rate follows how fast a queue's jobs are handled.
type rate struct {
	perSecond float64
	done      int // since the last measurement
	since     time.Time
}

const (
	prefetchTime = 20 * time.Millisecond // of work to hold in reserve
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
