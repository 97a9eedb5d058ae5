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
// there takes longer than a job should wait. Then what stands before the position is looked at in pieces.
type position struct {
	after    int64         // 0: the next claim is from the head
	returned int64         // the least id that was handed back since the last claim was asked for; 0: none
	head     time.Time     // when the last answer to a claim from the head came
	headCost time.Duration // how long that took
	looked   time.Time     // when the latest answer came
	cost     time.Duration // how long that took

	back      int64 // where the next piece begins
	width     int64 // of a piece, in ids
	piece     time.Time
	pieceCost time.Duration
}

const (
	headShare  = 10                    // claims from the head wait that many times their own cost
	urgentLook = 20 * time.Millisecond // between looks of a queue whose buffer is full
	longHead   = 10 * time.Millisecond // a look from there that takes longer is broken up
	wholeLook  = time.Minute           // between looks from there all the same: for suspects, and to see whether it is still long
	pieceTime  = 4 * time.Millisecond  // for a piece
	firstWidth = 1 << 14
	begin      = math.MinInt64 // before all ids
)

func (p *position) long() bool { return p.headCost > longHead }

// next says where to claim from, and in a piece up to where. whole is for a claim on whose word the queue is to sleep.
func (p *position) next(now time.Time, whole bool) (after, upto int64) {
	if p.returned > 0 {
		p.after = min(p.after, p.returned-1)
		p.returned = 0
	}
	switch {
	case whole || p.after == 0 || now.Sub(p.head) > wholeLook:
		return 0, 0
	case !p.long():
		if now.Sub(p.head) > headShare*p.headCost {
			return 0, 0
		}
	case now.Sub(p.piece) > headShare*p.pieceCost:
		if p.width == 0 || p.back >= p.after {
			p.back, p.width = begin, max(p.width, firstWidth)
		}
		return p.back, min(p.after, max(p.back, 0)+p.width)
	}
	return p.after, 0
}

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
	switch {
	case a.claim.Upto != 0:
		p.piece, p.pieceCost = a.at, p.cost
		if p.back = a.claim.Upto; full {
			p.back = last
		}
		switch {
		case p.cost > 2*pieceTime:
			p.width = max(p.width/2, firstWidth/16)
		case p.cost < pieceTime/2:
			p.width *= 2
		}
		return
	case a.claim.After == 0:
		p.head, p.headCost = a.at, p.cost
	}
	if full || p.long() {
		p.after = max(p.after, last)
	} else {
		p.after = 0 // the next one has to be from the head
	}
}
