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
	for name, head := range map[string]time.Duration{
		"the head is short": time.Millisecond,
		"the head is long":  2 * longHead,
	} {
		t.Run(name, func(t *testing.T) {
			var p position
			p.advance(answered(0, head, 1, 2, 3, 100), true)
			p.head, p.piece = time.Now().Add(time.Hour), time.Now().Add(time.Hour) // no look before the position is due
			if after, _ := p.next(time.Now(), false); after != 100 {
				t.Fatalf("got a claim after %d, want 100: where the last one ended", after)
			}
			p.rewind(50)
			p.rewind(40)
			p.rewind(60)
			if after, upto := p.next(time.Now(), false); after != 39 || upto != 0 {
				t.Errorf("got a claim after %d up to %d, want all after 39, before the first that was handed back", after, upto)
			}
			p.advance(answered(39, time.Millisecond, 40, 41), true)
			if after, _ := p.next(time.Now(), false); after != 41 {
				t.Errorf("got a claim after %d, want 41: a rewind is for once", after)
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
	if after, _ := p.next(time.Now(), false); after != 1 {
		t.Errorf("got a claim after %d, want 1, before job 2, which was handed back", after)
	}
}
