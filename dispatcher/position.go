package dispatcher

import (
	"cmp"
	"math"
	"time"
)

// position is how far the claims of a queue have come. From the head they step over all that is in hand
// and over what is done but not vacuumed, so a busy queue is claimed from where the last claim ended. What
// stands before that, committed late or handed back by others, is found from the head: at most a tenth of the time
// goes into that, and no queue falls asleep without it.
//
// When the head has become long, as it does while some transaction keeps vacuum from its work, one look from
// there takes longer than a job should wait. Then what stands before the position is looked at in pieces, on several walks:
// the first goes over what the position has passed in the last moment, where most of what is committed late will be, and
// each further one over what it has passed before that, eight times as long ago. As the parts are longer, their rounds are rarer:
// what is committed late by some time is found after about that time again. Each walk takes a tenth of the time at most, and
// a fortieth when it finds nothing and is not far behind.
type position struct {
	after    int64         // 0: the next claim is from the head
	returned int64         // the least id that was handed back since the last claim was asked for; 0: none
	look     look          // of the claim that was asked for last
	walker   int           // of the walks, if it was behind
	head     time.Time     // when the last answer to a claim from the head came
	headCost time.Duration // how long a look from there takes
	looked   time.Time     // when the latest answer came that was not behind
	cost     time.Duration // how long that took
	more     bool          // it has found all that it was to find: there may be more

	// Of a long head:
	walks            [walkers]walk
	width            int64 // of a piece, in ids
	narrow, narrower int64 // the least that was fitting in this round of the last walk, and in the one before; 0: none was
}

// look is where a claim looks.
type look int

const (
	fromHead look = iota
	ahead         // from the position
	behind        // on a walk
)

// walk goes over a part of a long head, round after round, piece by piece. The part ends where the one of the walk before
// begins, or at the position.
type walk struct {
	at          time.Time     // of the latest piece
	cost        time.Duration // of that
	vain        int           // pieces without a job, in a row
	trail, mark int64         // where its part begins, and will when the mark is an age of the walk old and a round has ended
	marked      time.Time
	from, to    int64         // what is left of the round; nothing: the next one begins
	began       time.Time     // when it did
	round, took time.Duration // cost of the round so far, and of the one before, but for the exchanges; 0: there was none
}

// due tells whether the next piece is: the rarer, the longer there has been nothing, but not much, and not where the round
// takes so long that the position runs away from it.
func (w *walk) due(now time.Time, age time.Duration) bool {
	wait := headShare * w.cost
	if w.from >= w.to || now.Sub(w.began) < hurry*age {
		wait <<= min(w.vain, mostVain)
	}
	return now.Sub(w.at) > wait
}

const (
	headShare  = 10                    // claims from the head, and pieces of it, wait that many times their own cost
	mostVain   = 2                     // and pieces, found empty, up to four times as long,
	hurry      = 4                     // unless the round has taken so many ages of the walk
	urgentLook = 20 * time.Millisecond // between looks of a queue whose buffer is full
	longHead   = 5 * time.Millisecond  // a look from there that takes longer is broken up

	// Between looks from a long head all the same, which suspects wait for: rarely enough that one job in a thousand waits
	// for such a look to end.
	wholeLook  = time.Minute
	wholeShare = 1000

	pieceTime  = 4 * time.Millisecond // for a piece, or twice as long as a look ahead takes, where the server is busy
	exchange   = time.Millisecond     // of which so much at most is the exchange itself, whatever there is to be looked at
	widest     = 16                   // times the narrowest piece lately: where ids are empty, what follows may not be
	firstWidth = 1 << 14
	leastWidth = 1 << 10
	overlap    = 256 // ids
	begin      = math.MinInt64

	walkers  = 4
	firstAge = 25 * time.Millisecond // of the first walk; the last has none, and goes over all the rest
)

// age is how long ago the position has passed what a walk begins at, at least, and about twice that at most where rounds
// are shorter.
func age(walker int) time.Duration { return firstAge << (3 * walker) }

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
	p.look, p.walker = p.choose(now, whole)
	switch p.look {
	case fromHead:
		return 0, 0
	case behind:
		w := &p.walks[p.walker]
		if w.from >= w.to {
			p.moveOn(now)
			if w.from, w.to = p.part(p.walker); w.from >= w.to { // nothing is left in it
				p.look = ahead
				return p.after, 0
			}
			w.began = now
		}
		if p.width == 0 {
			p.width = firstWidth
		}
		if from := max(w.from, 0); w.to-from > p.width {
			return w.from, from + p.width
		}
		return w.from, w.to
	}
	return p.after, 0
}

// back is how many ids before its position the claim begins. Those who put at the same time draw their ids in one order and
// commit in another, so a claim ahead of a long head begins a little before, within the part of the first walk.
func (p *position) back() int64 {
	if p.look != ahead || !p.long() {
		return 0
	}
	from, to := p.part(0)
	if from < to-overlap { // from may be the least number there is
		return overlap
	}
	return to - from
}

func (p *position) choose(now time.Time, whole bool) (where look, walker int) {
	switch since := now.Sub(p.head); {
	case whole || p.after == 0:
		return fromHead, 0
	case !p.long():
		if since > headShare*p.headCost {
			return fromHead, 0
		}
		return ahead, 0
	case since > max(wholeLook, wholeShare*p.headCost):
		return fromHead, 0
	case p.look == behind && p.stale(now): // pieces tell nothing of what is urgent
		return ahead, 0
	}
	where = ahead
	for i := range p.walks {
		w := &p.walks[i]
		if from, to := p.part(i); w.due(now, age(i)) && (w.from < w.to || from < to) && (where == ahead || w.at.Before(p.walks[walker].at)) {
			where, walker = behind, i
		}
	}
	return where, walker
}

// part is what a walk goes over; nothing if from is to. Where the position has not been anywhere that long ago, that is all.
// (To a claim, 0 is no id: it stands for the head, and for no bound.)
func (p *position) part(walker int) (from, to int64) {
	from, to = begin, p.after
	if walker < walkers-1 {
		from = cmp.Or(p.walks[walker].trail, begin)
	}
	if walker > 0 {
		to = min(to, cmp.Or(p.walks[walker-1].trail, begin))
	}
	return min(from, to), to
}

// moveOn moves on where the part of the walk begins, between two rounds: it has been over all that it leaves to the next one.
func (p *position) moveOn(now time.Time) {
	w := &p.walks[p.walker]
	if p.walker < walkers-1 && now.Sub(w.marked) > age(p.walker) {
		_, to := p.part(p.walker)
		w.trail, w.mark, w.marked = w.mark, to, now
	}
}

// stale tells whether it is time to look for urgent jobs, though there is no room for more, or more to be found behind.
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
	if p.look == behind {
		p.walked(a, last, full)
		return
	}
	p.looked, p.cost, p.more = a.at, a.at.Sub(a.asked), full
	short := !p.long()
	if p.look == fromHead {
		p.head, p.headCost = a.at, p.cost
		if !full {
			for i := range p.walks {
				w := &p.walks[i]
				w.from, w.to, w.round, w.took = 0, 0, 0, 0
			}
		}
	}
	if full || p.long() {
		p.after = max(p.after, last)
	} else {
		p.after = 0 // the next one has to be from the head
	}
	if short && p.long() { // as far as it has just been looked at, it is for the last walk
		seen := p.after
		if full {
			seen = min(seen, last)
		}
		for i := range p.walks[:walkers-1] {
			w := &p.walks[i]
			w.trail, w.mark, w.marked = seen, seen, a.at
		}
	}
}

// walked notes what a piece has found. When all parts of the head have been gone over, what that took is what it costs.
func (p *position) walked(a answer, last int64, full bool) {
	w := &p.walks[p.walker]
	w.at, w.cost = a.at, a.at.Sub(a.asked)
	w.round += max(1, w.cost-min(p.cost, exchange))
	if w.vain++; len(a.claims.Jobs) > 0 {
		w.vain = 0
	}
	if full {
		w.from, w.cost = last, 0 // look there again at once
		return
	}
	w.from = a.claim.Upto
	p.adapt(a.claim.Upto-max(a.claim.After, 0), w.cost)
	if w.from < w.to {
		return
	}
	w.took, w.round = w.round, 0
	if p.walker < walkers-1 {
		return
	}
	p.narrow, p.narrower = 0, p.narrow
	all := p.cost
	for i := range p.walks {
		if from, to := p.part(i); from < to {
			if p.walks[i].took == 0 {
				return
			}
			all += p.walks[i].took
		}
	}
	p.headCost = all
}

// adapt chooses the width of the next pieces by what one took that has looked at so many ids. One that was cut short
// by the end of its round says something only if it took too long.
func (p *position) adapt(walked int64, took time.Duration) {
	fit := max(pieceTime, 2*p.cost)
	if walked < p.width && took <= fit {
		return
	}
	fitting := int64(float64(walked) * float64(fit) / float64(max(took, time.Microsecond)))
	p.narrow = min(cmp.Or(p.narrow, fitting), fitting)
	most := widest * min(p.narrow, cmp.Or(p.narrower, p.narrow))
	p.width = max(min(fitting, 2*p.width, most), leastWidth)
}
