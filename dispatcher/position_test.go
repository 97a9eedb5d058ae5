package dispatcher

import (
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// answered is an answer to a claim from a position that found jobs.
func answered(after int64, took time.Duration, ids ...int64) answer {
	at := time.Now()
	a := answer{at: at}
	a.asked = at.Add(-took)
	a.claim.After = after
	for _, id := range ids {
		a.claims.Jobs = append(a.claims.Jobs, &store.Job{ID: id})
	}
	return a
}

func TestAClaimBeginsNoLaterThanAtWhatWasHandedBack(t *testing.T) {
	for name, test := range map[string]struct {
		head       time.Duration
		want, next int64
	}{
		"the head is short": {time.Millisecond, 0, 41},
		"the head is long":  {2 * longHead, 39, 41},
	} {
		t.Run(name, func(t *testing.T) {
			var p position
			p.advance(answered(0, test.head, 1, 2, 3, 100), true)
			later := time.Now().Add(time.Hour) // no look before the position is due
			p.head, p.near.at, p.far.at = later, later, later
			if after, _ := p.next(time.Now(), false); after != 100 {
				t.Fatalf("got a claim after %d, want 100: where the last one ended", after)
			}
			p.rewind(50)
			p.rewind(40)
			p.rewind(60)
			if after, upto := p.next(time.Now(), false); after != test.want || upto != 0 {
				t.Errorf("got a claim after %d up to %d, want all after %d, before the first that was handed back", after, upto, test.want)
			}
			p.advance(answered(test.want, time.Millisecond, 40, 41), true)
			p.head, p.near.at, p.far.at = later, later, later
			if after, _ := p.next(time.Now(), false); after != test.next {
				t.Errorf("got a claim after %d, want %d: a rewind is for once", after, test.next)
			}
		})
	}
}

func TestWhatIsHandedBackBesideAClaimIsNotPassedByItsAnswer(t *testing.T) {
	var p position
	p.advance(answered(0, time.Millisecond, 1, 2), true)
	p.head = time.Now().Add(time.Hour)
	p.next(time.Now(), false)
	p.rewind(2) // while the answer is under way
	p.advance(answered(2, time.Millisecond, 3, 4, 5), true)
	if after, _ := p.next(time.Now(), false); after > 1 {
		t.Errorf("got a claim after %d, want one before job 2, which was handed back", after)
	}
}

// A round of pieces over a long head comes by every id before the position once, however many pieces that takes, and
// tells in the end what the head costs.
func TestPiecesOfALongHeadCoverItAll(t *testing.T) {
	const most = 1_000_000
	now := time.Now()
	p := position{after: most, head: now, headCost: 2 * longHead, marked: now.Add(time.Hour)}
	seen, rounds := int64(0), 0
	for looks := 0; rounds < 3; looks++ {
		if looks > 10_000 {
			t.Fatalf("no round has ended after %d looks: %+v", looks, p)
		}
		now = now.Add(time.Second / 2)
		p.head = now // no look at all of it
		after, upto := p.next(now, false)
		if p.look == fromHead {
			t.Fatalf("got a look from the head, which is long: %+v", p)
		}
		var a answer
		a.claim.After, a.claim.Upto = after, upto
		a.asked, a.at = now, now.Add(time.Millisecond)
		if p.look == farBehind {
			from := max(after, 0)
			if from != seen || upto <= from {
				t.Fatalf("got a piece from %d to %d, want one from %d", from, upto, seen)
			}
			// A microsecond for each id.
			seen, a.at = upto, now.Add(time.Duration(upto-from)*time.Microsecond)
		}
		p.advance(a, false)
		if seen == most {
			seen, rounds = 0, rounds+1
			if p.headCost < time.Second || p.headCost > 3*time.Second {
				t.Errorf("the round says that the head costs %v, want about 1s", p.headCost)
			}
		}
	}
	if want := pieceTime.Microseconds(); p.width < want/2 || p.width > 2*want {
		t.Errorf("pieces have become %d ids wide, want about %d, which take %v", p.width, want, pieceTime)
	}
}

// What is committed a little late stands just behind the position, and is looked for there much more often than a
// round takes: the more so while there is something.
func TestJustBehindTheHeadIsLookedAtOften(t *testing.T) {
	late := []*store.Job{{ID: 999_500}}
	if near := looksJustBehind(t, late); near < 2000/(headShare+2) {
		t.Errorf("it was looked at %d times in 2 seconds, with a job each time; want every %d ms", near, headShare+1)
	}
	if near := looksJustBehind(t, nil); near < 2000/(headShare<<mostVain+2) || near > 2000/(headShare<<mostVain)+5 {
		t.Errorf("it was looked at %d times in 2 seconds, in vain; want every %d ms", near, headShare<<mostVain+1)
	}
}

// looksJustBehind tells how often that is, in 2 seconds with looks of a millisecond.
func looksJustBehind(t *testing.T, found []*store.Job) (near int) {
	now := time.Now()
	p := position{after: 1_000_000, head: now, headCost: time.Second, trail: 999_000, width: 4000, marked: now.Add(time.Hour)}
	p.far.at = now.Add(time.Hour) // no look there, which might tell that the head is not long any more
	for range 1000 {
		now = now.Add(time.Millisecond)
		after, upto := p.next(now, false)
		var a answer
		a.claim.After, a.claim.Upto = after, upto
		a.asked, a.at = now, now.Add(time.Millisecond)
		if now = a.at; p.look == justBehind {
			if near++; after != 999_000 || upto != p.after {
				t.Fatalf("got a look from %d to %d, want the ids since a second ago", after, upto)
			}
			a.claims.Jobs = found
		}
		p.advance(a, false)
	}
	return near
}
