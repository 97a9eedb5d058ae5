package dispatcher

import (
	"math"
	"time"
)

// position is how far the claims of a queue have come. From the head they step over all that is in hand
// and over what is done but not vacuumed, so a busy queue is claimed from where the last claim ended. What
// stands before that, committed late or handed back by others, is found from the head: at most headShare of the time
// goes into that, and no queue falls asleep without it.
//
// When the head has become long, as it does while some transaction keeps vacuum from its work, one look from
// there takes longer than a job should wait. Then what stands before the position is looked at in pieces: again
// and again the last of it, where most of what is committed late will be, and between these one after the other of
// the rest.
type position struct {
	after    int64         // 0: the next claim is from the head
	returned int64         // the least id that was handed back since the last claim was asked for; 0: none
	look     look          // of the claim that was asked for last
	head     time.Time     // when the last answer to a claim from the head came
	headCost time.Duration // how long a look from there takes
	looked   time.Time     // when the latest answer came
	cost     time.Duration // how long that took

	// Of a long head:
	near, far   piece
	trail, mark int64 // where the position was, one or two trailTimes ago, and one at most
	marked      time.Time
	width       int64         // of a piece, in ids
	back        int64         // where the next far piece begins; 0: at the beginning of a round
	round       time.Duration // cost of its far pieces so far
}

// look is where a claim looks.
type look int

const (
	fromHead look = iota
	ahead         // from the position
	justBehind
	farBehind
)

// piece is the latest look at a part of a long head.
type piece struct {
	at   time.Time
	cost time.Duration
	vain int // looks of its kind without a job, in a row
}

// due tells whether the next one is: the rarer, the longer there has been nothing, but not much.
func (p piece) due(now time.Time) bool {
	return now.Sub(p.at) > headShare<<min(p.vain, mostVain)*p.cost
}

// followed is the piece after it, with the answer to its claim.
func (p piece) followed(a answer) piece {
	next := piece{at: a.at, cost: a.at.Sub(a.asked)}
	if len(a.claims.Jobs) == 0 {
		next.vain = p.vain + 1
	}
	return next
}

const (
	headShare  = 10                    // claims from the head wait that many times their own cost
	mostVain   = 2                     // and pieces of a long one, found empty, up to four times as long
	urgentLook = 20 * time.Millisecond // between looks of a queue whose buffer is full
	longHead   = 5 * time.Millisecond  // a look from there that takes longer is broken up

	// Between looks from a long head all the same, which suspects wait for: rarely enough that fewer than one job
	// in a hundred waits for such a look to end.
	wholeLook  = time.Minute
	wholeShare = 200

	pieceTime  = 4 * time.Millisecond // for a piece
	firstWidth = 1 << 14
	leastWidth = 1 << 10
	trailTime  = time.Second // most puts commit within
	begin      = math.MinInt64
)

func (p *position) long() bool { return p.headCost > longHead }

// next says where to claim from, and in a piece up to where. whole is for a claim on whose word the queue is to sleep.
func (p *position) next(now time.Time, whole bool) (after, upto int64) {
	if p.returned > 0 {
		if p.long() {
			p.after = min(p.after, p.returned-1)
		} else { // cheaper, and as good: claims from a position try again each lock that others hold
			p.after = 0
		}
		p.returned = 0
	}
	p.look = p.choose(now, whole)
	switch p.look {
	case fromHead:
		return 0, 0
	case justBehind:
		return p.justBehind(), p.after
	case farBehind:
		return p.back, p.farUpto()
	}
	return p.after, 0
}

func (p *position) choose(now time.Time, whole bool) look {
	switch since := now.Sub(p.head); {
	case whole || p.after == 0:
		return fromHead
	case !p.long():
		if since > headShare*p.headCost {
			return fromHead
		}
	case since > max(wholeLook, wholeShare*p.headCost):
		return fromHead
	case p.near.due(now) && p.justBehind() < p.after && !(p.far.due(now) && p.far.at.Before(p.near.at)):
		return justBehind
	case p.far.due(now):
		if p.width == 0 {
			p.width = firstWidth
		}
		if p.back == 0 {
			p.back = begin
		}
		return farBehind
	}
	return ahead
}

// justBehind is where the last part of what stands before the position begins.
func (p *position) justBehind() int64 { return max(p.trail, p.after-max(p.width, leastWidth)) }

func (p *position) farUpto() int64 { return min(p.after, max(p.back, 0)+p.width) }

// stale tells whether it is time to look for urgent jobs, though there is no room for more.
func (p *position) stale(now time.Time) bool {
	return now.Sub(p.looked) > max(urgentLook, headShare*p.cost)
}

// lull tells whether nothing has been found for so long that a look from the head, before sleep, is worth it.
func (p *position) lull(since time.Time, now time.Time) bool {
	return !p.long() || now.Sub(since) > headShare*p.headCost
}

// rewind makes the next claim begin no later than at a job that was handed back, so that it runs in its order.
func (p *position) rewind(id int64) {
	if p.returned == 0 || id < p.returned {
		p.returned = id
	}
}

// advance notes what a claim has found, and whether there may be more where it looked.
func (p *position) advance(a answer, full bool) {
	last := a.claim.After
	for _, job := range a.claims.Jobs {
		if job.ScheduleAt.IsZero() && job.ExpectedAt.IsZero() {
			last = max(last, job.ID)
		}
	}
	p.looked, p.cost = a.at, a.at.Sub(a.asked)
	switch p.look {
	case justBehind:
		if p.near = p.near.followed(a); full {
			p.near.cost = 0 // look there again at once
		}
		return
	case farBehind:
		p.far = p.far.followed(a)
		p.round += p.cost
		if p.back = a.claim.Upto; full {
			p.back, p.far.cost = last, 0
		} else {
			p.adapt(a.claim.Upto - max(a.claim.After, 0))
		}
		if p.back >= p.after { // all of it has been seen
			p.headCost, p.round, p.back = p.round, 0, 0
		}
		return
	case fromHead:
		p.head, p.headCost = a.at, p.cost
		p.back, p.round = 0, 0
	}
	if full || p.long() {
		p.after = max(p.after, last)
	} else {
		p.after = 0 // the next one has to be from the head
	}
	if a.at.Sub(p.marked) > trailTime {
		p.trail, p.mark, p.marked = p.mark, p.after, a.at
	}
}

// adapt chooses the width of the next pieces by what one took that has looked at so many ids. The last piece of a
// round is cut short, and says nothing in favour of wider ones.
func (p *position) adapt(walked int64) {
	fitting := int64(float64(walked) * float64(pieceTime) / float64(max(p.cost, time.Microsecond)))
	if walked == p.width || fitting < p.width {
		p.width = max(min(fitting, 2*p.width), leastWidth)
	}
}
