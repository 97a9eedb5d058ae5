package dispatcher

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

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

// noLookBack has none that begins before the position until then.
func (p *position) noLookBack(until time.Time) {
	p.head = until
	for i := range p.walks {
		p.walks[i].at = until
	}
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
			p.noLookBack(later)
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
			p.noLookBack(later)
			if after, _ := p.next(time.Now(), false); after != test.next {
				t.Errorf("got a claim after %d, want %d: a rewind is for once", after, test.next)
			}
		})
	}
}

// Claims ahead of a long head begin a little before the position, where those who put at the same time commit late, but
// never where the first walk does not go any more.
func TestAClaimAheadOfALongHeadBeginsALittleBeforeThePosition(t *testing.T) {
	const at = 10_000
	for _, test := range []struct {
		head        time.Duration
		trail, want int64
	}{
		{longHead / 2, 0, 0},
		{2 * longHead, 0, overlap},
		{2 * longHead, at - overlap - 1, overlap},
		{2 * longHead, at - overlap + 1, overlap - 1},
		{2 * longHead, at, 0},
	} {
		now := time.Now()
		p := position{after: at, headCost: test.head, look: ahead}
		p.walks[0].trail = test.trail
		p.noLookBack(now.Add(time.Hour))
		after, upto := p.next(now, false)
		if back := p.back(); after != at || upto != 0 || back != test.want {
			t.Errorf("%+v: got a claim after %d up to %d, from %d before", test, after, upto, back)
		}
		p.look = behind
		if back := p.back(); back != 0 {
			t.Errorf("%+v: got a piece from %d before", test, back)
		}
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
	p := position{after: most, head: now, headCost: 2 * longHead}
	for i, trail := range []int64{990_000, 900_000, 500_000, 0} {
		p.walks[i].trail, p.walks[i].marked = trail, now.Add(24*time.Hour)
	}
	parts := [walkers][2]int64{{990_000, most}, {900_000, 990_000}, {500_000, 900_000}, {0, 500_000}}
	var seen [walkers]int64 // up to where
	rounds := 0
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
		if p.look == behind {
			from, want := max(after, 0), max(seen[p.walker], parts[p.walker][0])
			if from != want || upto <= from || upto > parts[p.walker][1] {
				t.Fatalf("walk %d: got a piece from %d to %d, want one from %d within %v", p.walker, from, upto, want, parts[p.walker])
			}
			// A microsecond for each id, beside the exchange.
			a.at = a.at.Add(time.Duration(upto-from) * time.Microsecond)
			if seen[p.walker] = upto; upto == parts[p.walker][1] {
				seen[p.walker] = 0
			}
		}
		p.advance(a, false)
		if p.look == behind && p.walker == walkers-1 && seen[p.walker] == 0 {
			rounds++
			if p.headCost < 900*time.Millisecond || p.headCost > 1100*time.Millisecond {
				t.Errorf("the round says that the head costs %v, want about 1s", p.headCost)
			}
		}
	}
	if want := pieceTime.Microseconds(); p.width < want/2 || p.width > 2*want {
		t.Errorf("pieces have become %d ids wide, want about %d, which take %v", p.width, want, pieceTime)
	}
}

// Whatever comes behind the position is looked for soon after, if it came soon after the position: about as long as that again.
func TestWhatIsCommittedLateIsFoundAboutAsLateAgain(t *testing.T) {
	for _, table := range []struct {
		name     string
		first    int64         // id; below there is nothing any more
		perMS    int64         // ids
		exchange time.Duration // that a look takes at least
		perID    time.Duration // and for each id
	}{
		{"many jobs", 1, 1000, 100 * time.Microsecond, 10 * time.Nanosecond},
		{"few jobs, of a sequence that has come far", 100_000_000, 2, 300 * time.Microsecond, 200 * time.Nanosecond},
	} {
		for _, late := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second} {
			t.Run(fmt.Sprintf("%s, %v late", table.name, late), func(t *testing.T) {
				start := time.Now()
				now := start
				id := func() int64 { return table.first + 120_000 + int64(now.Sub(start)/time.Millisecond)*table.perMS }
				p := position{headCost: 20 * longHead, after: id(), look: fromHead}
				p.advance(answered(0, 20*longHead, id()), true)
				var committed time.Time // of the job at missing
				for missing := int64(0); ; {
					p.head, p.headCost = now, 20*longHead // no look at all of it
					after, upto := p.next(now, false)
					a := answer{at: now.Add(table.exchange)}
					a.asked, a.claim.After, a.claim.Upto = now, after, upto
					if p.look == behind {
						a.at = a.at.Add(time.Duration(max(0, upto-max(after, table.first))) * table.perID)
						if missing > 0 && after < missing && missing <= upto && !now.Before(committed) {
							if found := now.Sub(committed); found > 50*time.Millisecond+10*late {
								t.Errorf("found after %v", found)
							}
							return
						}
					} else {
						a.claims.Jobs = []*store.Job{{ID: id()}}
						if missing == 0 && now.Sub(start) > 20*time.Second {
							missing, committed = id()-1, now.Add(late)
						}
					}
					p.advance(a, p.look == ahead)
					if now = a.at; now.Sub(start) > 5*time.Minute {
						t.Fatal("not found")
					}
				}
			})
		}
	}
}

// What is committed a little late stands just behind the position, and is looked for there all the more often while there is
// something.
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
	p := position{after: 1_000_000, head: now, headCost: time.Second, width: 4000}
	for i := range p.walks {
		p.walks[i].at, p.walks[i].marked = now.Add(time.Hour), now.Add(time.Hour)
	}
	p.walks[0].at, p.walks[0].trail = time.Time{}, 999_000
	for range 1000 {
		now = now.Add(time.Millisecond)
		after, upto := p.next(now, false)
		var a answer
		a.claim.After, a.claim.Upto = after, upto
		a.asked, a.at = now, now.Add(time.Millisecond)
		if now = a.at; p.look == behind {
			if near++; after != 999_000 || upto != p.after {
				t.Fatalf("got a look from %d to %d, want the ids of just before", after, upto)
			}
			a.claims.Jobs = found
		}
		p.advance(a, false)
	}
	return near
}

// What a walk does not find says nothing of what stands ahead: a queue that is full of jobs does not rest after it.
func TestAVainLookBehindIsNoReasonToRest(t *testing.T) {
	const cost = 3 * time.Millisecond
	for _, test := range []struct {
		name   string
		full   bool          // the last look ahead was
		looked time.Duration // ago
		wanted bool
	}{
		{"there is more ahead", true, cost, true},
		{"there was nothing ahead just now", false, 0, false},
		{"nor was there a while ago", false, cost + 1, true},
	} {
		now := time.Now()
		l := &loop{wheel: newWheel[*queue](wheelTick), epoch: now, horizon: minHorizon}
		q := &queue{armed: never}
		q.reset(&bucket{queues: []*queue{q}})
		q.place = position{after: 100, headCost: 2 * longHead, look: ahead}
		jobs := answered(100, cost, 101)
		jobs.at, jobs.asked = now.Add(-test.looked), now.Add(-test.looked-cost)
		q.place.advance(jobs, test.full)

		q.place.look = behind
		q.place.advance(answered(50, time.Millisecond), false)
		l.repose(q, "", 0, looked{full: q.place.more}, now)
		if q.wanted != test.wanted {
			t.Errorf("%s: wanted at once is %v, want %v", test.name, q.wanted, test.wanted)
		}
		if most := cost + time.Since(now); !q.wanted && q.armed > most {
			t.Errorf("%s: it is wanted after %v, want that after %v at most", test.name, q.armed, most)
		}
	}
}

// Whatever a walk leaves to the next one it has been over, however slow it is; and none begins at what has long been looked at
// when the head is long again.
func TestAWalkLeavesNothingBehindUnseen(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		took := func(what string, most time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(1, int64(most)).Draw(rt, what))
		}
		now := time.Now()
		p := position{after: 1_000_000, look: fromHead}
		start := p.after
		var over [walkers - 1]int64 // up to where each has been
		long := func() {
			p.look = fromHead
			a := answered(0, 2*longHead, p.after)
			a.at, a.asked = now, now.Add(-2*longHead)
			p.advance(a, false)
			for i := range over {
				over[i] = p.after
				if from, to := p.part(i); from != to {
					rt.Fatalf("walk %d: its part is %d to %d, though all has just been looked at", i, from, to)
				}
			}
		}
		long()
		for range 2000 {
			p.head, p.headCost = now, 20*longHead
			after, upto := p.next(now, false)
			a := answered(after, 0)
			a.claim.Upto, a.asked, a.at = upto, now, now.Add(took("look", 40*time.Millisecond))
			if p.look == behind {
				w := p.walks[p.walker]
				if p.walker < len(over) && after > over[p.walker] {
					rt.Fatalf("walk %d goes on at %d, and was up to %d", p.walker, after, over[p.walker])
				}
				p.advance(a, false)
				if p.walker < len(over) {
					over[p.walker] = max(over[p.walker], min(upto, w.to))
				}
			} else {
				a.claims.Jobs = []*store.Job{{ID: p.after + rapid.Int64Range(1, 20_000).Draw(rt, "jobs")}}
				p.advance(a, true)
			}
			now = a.at
			for i := range over {
				if trail := p.walks[i].trail; trail > over[i] {
					rt.Fatalf("walk %d begins at %d, and was up to %d", i, trail, over[i])
				}
			}
		}
		if p.after == start {
			rt.Fatal("the position has not moved")
		}
		p.headCost, p.after = 0, p.after+1_000_000
		now = now.Add(time.Hour)
		long()
	})
}
