package dispatcher

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var wheelSeed = flag.Uint64("wheel.seed", 0, "seed of the wheel's model test; 0: a new one each time")

// wheelTimed is what the tests put into a wheel. One with children adds them when it fires.
type wheelTimed struct {
	id       int
	children []time.Duration
}

// wheelFired is what a test saw: the time an entry was entered for, and which it was.
type wheelFired struct {
	at time.Duration
	id int
}

// wheelModel is the model of a wheel: all entries in a slice, sorted by time, equal times by age.
type wheelModel struct{ entries []modelEntry }

type modelEntry struct {
	at time.Duration
	v  wheelTimed
}

func (l *wheelModel) add(at time.Duration, v wheelTimed) {
	i, _ := slices.BinarySearchFunc(l.entries, at, func(e modelEntry, at time.Duration) int {
		if e.at <= at {
			return -1
		}
		return 1
	})
	l.entries = slices.Insert(l.entries, i, modelEntry{at, v})
}

func (l *wheelModel) advance(now time.Duration, fire func(at time.Duration, v wheelTimed)) {
	for len(l.entries) > 0 && l.entries[0].at <= now {
		e := l.entries[0]
		l.entries = slices.Delete(l.entries, 0, 1)
		fire(e.at, e.v)
	}
}

func (l *wheelModel) next() (time.Duration, bool) {
	if len(l.entries) == 0 {
		return 0, false
	}
	return l.entries[0].at, true
}

func (l *wheelModel) len() int { return len(l.entries) }

// wheelPair drives a wheel and its model in step and compares what they do.
type wheelPair struct {
	wheel     *wheel[wheelTimed]
	model     *wheelModel
	id        int
	got, want []wheelFired
}

func newWheelPair(tick time.Duration) *wheelPair {
	return &wheelPair{wheel: newWheel[wheelTimed](tick), model: &wheelModel{}}
}

func (p *wheelPair) add(at time.Duration, children ...time.Duration) {
	p.id++
	v := wheelTimed{p.id, children}
	p.wheel.add(at, v)
	p.model.add(at, v)
}

func (p *wheelPair) advance(now time.Duration) error {
	p.got, p.want = p.got[:0], p.want[:0]
	latest := time.Duration(math.MinInt64)
	p.wheel.advance(now, func(at time.Duration, v wheelTimed) {
		p.got = append(p.got, wheelFired{at, v.id})
		latest = max(latest, at)
		for i, child := range v.children {
			p.wheel.add(child, wheelTimed{id: -v.id*10 - i})
		}
	})
	p.model.advance(now, func(at time.Duration, v wheelTimed) {
		p.want = append(p.want, wheelFired{at, v.id})
		for i, child := range v.children {
			p.model.add(child, wheelTimed{id: -v.id*10 - i})
		}
	})
	if latest > now {
		return fmt.Errorf("advance(%d): got an entry for %d, want none before its time", now, latest)
	}
	for i := range max(len(p.got), len(p.want)) {
		if i >= len(p.got) || i >= len(p.want) || p.got[i] != p.want[i] {
			return fmt.Errorf("advance(%d): from number %d got %v, want %v", now, i, p.got[min(i, len(p.got)):], p.want[min(i, len(p.want)):])
		}
	}
	return nil
}

func (p *wheelPair) check() error {
	if got, want := p.wheel.len(), p.model.len(); got != want {
		return fmt.Errorf("len: got %d, want %d", got, want)
	}
	got, gotOK := p.wheel.next()
	want, wantOK := p.model.next()
	if got != want || gotOK != wantOK {
		return fmt.Errorf("next: got %d, %t, want %d, %t", got, gotOK, want, wantOK)
	}
	return nil
}

// wheelBoundaries are the times at which a slot of some level begins, and one tick and one nanosecond
// around them, up to the end of time.Duration.
func wheelBoundaries(tick time.Duration) []time.Duration {
	times := []time.Duration{math.MinInt64, -1, 0, math.MaxInt64 - 1, math.MaxInt64}
	for level := range wheelLevels {
		for _, slot := range []time.Duration{1, 2, 31, 62, 63} {
			width := slot << (level * wheelBits)
			if width>>(level*wheelBits) != slot || width > math.MaxInt64/tick-1 {
				continue
			}
			start := width * tick
			times = append(times, start-tick, start-1, start, start+1, start+tick-1, start+tick)
		}
	}
	slices.Sort(times)
	return slices.Compact(times)
}

// saturatedSum is a + b, held at the end of time.Duration instead of wrapping. b is not negative.
func saturatedSum(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func TestWheelDoesAMillionRandomOperationsLikeASortedList(t *testing.T) {
	seed := cmp.Or(*wheelSeed, rand.Uint64())
	t.Logf("repeat with -wheel.seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	ticks := []time.Duration{time.Millisecond, time.Millisecond, 1, 7, time.Second, time.Hour}
	spans := func() time.Duration { // from the same nanosecond to 292 years, each size as likely as the next
		return time.Duration(random.Int64() >> random.IntN(63))
	}
	const operations = 1_000_000
	done, firedTotal := 0, 0
	for done < operations {
		// A short life for a wheel, for one that leaps goes to the end of time soon.
		tick := ticks[random.IntN(len(ticks))]
		edges := wheelBoundaries(tick)
		p := newWheelPair(tick)
		now := time.Duration(0)
		someTime := func() time.Duration {
			edge := edges[random.IntN(len(edges))]
			switch random.IntN(8) {
			case 0:
				return edge
			case 1: // a boundary, as seen from now
				return saturatedSum(now, max(edge, 0))
			case 2: // the boundary after now
				return saturatedSum(now/tick*tick, tick<<(random.IntN(4)*wheelBits))
			case 3:
				return now - time.Duration(random.Int64N(int64(100*tick)))
			case 4: // ties
				return saturatedSum(now/tick*tick, time.Duration(random.IntN(5))*tick)
			case 5:
				return saturatedSum(now, spans())
			default: // the usual: within seconds
				return saturatedSum(now, time.Duration(random.Int64N(int64(5000*tick))))
			}
		}
		grow := 1 + random.IntN(9) // of 10 operations are adds, until there are many
		for range 20 + random.IntN(4000) {
			done++
			if random.IntN(10) < grow && p.model.len() < 1500 {
				var children []time.Duration
				for range max(0, random.IntN(8)-5) {
					children = append(children, someTime())
				}
				p.add(someTime(), children...)
			} else {
				next, ok := p.model.next()
				var to time.Duration
				switch kind := random.IntN(20); {
				case ok && kind < 5:
					to = next
				case ok && kind < 7 && next > math.MinInt64:
					to = next - 1
				case kind == 7:
					to = someTime()
				case kind == 8: // a suspended laptop
					to = saturatedSum(now, spans()>>20)
				case kind == 9: // a clock that goes back
					to = now - time.Duration(random.Int64N(int64(1000*tick)))
				default:
					to = saturatedSum(now, time.Duration(random.Int64N(int64(70*tick))))
				}
				if err := p.advance(to); err != nil {
					t.Fatalf("operation %d, tick %v: %v", done, tick, err)
				}
				firedTotal += len(p.got)
				now = max(now, to)
			}
			if err := p.check(); err != nil {
				t.Fatalf("operation %d, tick %v, now %d: %v", done, tick, now, err)
			}
		}
		if err := cmp.Or(p.advance(math.MaxInt64), p.check()); err != nil {
			t.Fatalf("operation %d, tick %v, at the end: %v", done, tick, err)
		}
		firedTotal += len(p.got)
		if p.wheel.len() != 0 || p.wheel.used != [wheelLevels]uint64{} {
			t.Fatalf("operation %d: got %d entries and occupied slots %b at the end of time, want none", done, p.wheel.len(), p.wheel.used)
		}
	}
	t.Logf("%d operations, %d entries fired", done, firedTotal)
	if firedTotal < operations/10 {
		t.Errorf("got %d entries fired in %d operations, want more: the test tests too little", firedTotal, done)
	}
}

func TestWheelBehavesLikeASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tick := rapid.SampledFrom([]time.Duration{1, 1000, time.Millisecond, time.Minute}).Draw(t, "tick")
		times := rapid.OneOf(
			rapid.SampledFrom(wheelBoundaries(tick)),
			rapid.Map(rapid.Int64Range(-3, 5000), func(n int64) time.Duration { return time.Duration(n) * tick / 3 }),
			rapid.Map(rapid.Int64(), func(n int64) time.Duration { return time.Duration(n) }),
		)
		p := newWheelPair(tick)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if err := p.check(); err != nil {
					t.Fatal(err)
				}
			},
			"add": func(t *rapid.T) {
				p.add(times.Draw(t, "at"), rapid.SliceOfN(times, 0, 3).Draw(t, "children")...)
			},
			"advance": func(t *rapid.T) {
				if err := p.advance(times.Draw(t, "now")); err != nil {
					t.Fatal(err)
				}
			},
			"advance to next": func(t *rapid.T) {
				next, ok := p.model.next()
				if !ok {
					t.Skip("empty")
				}
				if err := p.advance(next); err != nil {
					t.Fatal(err)
				}
				if len(p.got) == 0 {
					t.Fatalf("advance(%d), the time that next gave: got nothing, want at least one entry", next)
				}
			},
		})
	})
}

// From each boundary to each later one, and one nanosecond before it.
func TestWheelFiresOnTheNanosecondAtEveryBoundary(t *testing.T) {
	const tick = time.Millisecond
	edges := wheelBoundaries(tick)
	for _, from := range edges {
		for _, at := range edges {
			p := newWheelPair(tick)
			p.advance(from)
			p.add(at)
			steps := []time.Duration{from, at, math.MaxInt64}
			if at > math.MinInt64 {
				steps = slices.Insert(steps, 1, at-1)
			}
			for _, now := range steps {
				if err := cmp.Or(p.advance(now), p.check()); err != nil {
					t.Fatalf("from %d, entry for %d: %v", from, at, err)
				}
			}
		}
	}
}

func TestWheelKeepsOrderThroughAllLevels(t *testing.T) {
	w := newWheel[int](time.Millisecond)
	const same = 123*time.Hour + 45*time.Millisecond + 6
	var want []wheelFired
	for id := range 100 {
		w.add(same, id)
		want = append(want, wheelFired{same, id})
		// Step nearer, so that entries of the same time enter on different levels.
		w.advance(same-time.Hour>>(id/4), func(at time.Duration, v int) {
			t.Errorf("got entry %d before its time", v)
		})
	}
	var got []wheelFired
	w.advance(same, func(at time.Duration, v int) { got = append(got, wheelFired{at, v}) })
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWheelFiresWhatFireAddsInTheSameAdvance(t *testing.T) {
	w := newWheel[string](time.Millisecond)
	w.add(10*time.Millisecond, "first")
	w.add(90*time.Millisecond, "last")
	var got []string
	fire := func(at time.Duration, v string) {
		got = append(got, fmt.Sprint(v, " ", at))
		if v == "first" {
			w.add(5*time.Millisecond, "past")
			w.add(10*time.Millisecond, "same time")
			w.add(10*time.Millisecond+1, "same tick")
			w.add(70*time.Millisecond, "next level")
			w.add(100*time.Millisecond, "now")
			w.add(100*time.Millisecond+1, "later")
		}
	}
	w.advance(100*time.Millisecond, fire)
	want := []string{"first 10ms", "past 5ms", "same time 10ms", "same tick 10.000001ms", "next level 70ms", "last 90ms", "now 100ms"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if at, ok := w.next(); at != 100*time.Millisecond+1 || !ok || w.len() != 1 {
		t.Errorf("next: got %v, %t of %d entries, want 100.000001ms, true of 1", at, ok, w.len())
	}
}

// A timer that is set again each time it fires, caught up with after a day's suspend.
func TestWheelCatchesUpWithAChainOfTimers(t *testing.T) {
	w := newWheel[int](time.Millisecond)
	w.add(time.Second, 1)
	count := 0
	w.advance(24*time.Hour, func(at time.Duration, v int) {
		count++
		if want := time.Duration(count) * time.Second; at != want || v != count {
			t.Fatalf("got entry %d at %v, want %d at %v", v, at, count, want)
		}
		w.add(at+time.Second, v+1)
	})
	if want := 24 * 60 * 60; count != want {
		t.Errorf("got %d timers in a day, want %d", count, want)
	}
}

// Were the cost one of ticks, this test would take 292 years' worth of milliseconds a hundred times.
func TestWheelJumpCostsEntriesNotTicks(t *testing.T) {
	for range 100 {
		w := newWheel[int](time.Nanosecond)
		for id := range 1000 {
			w.add(math.MaxInt64/1000*time.Duration(id), id)
		}
		count := 0
		w.advance(math.MaxInt64, func(time.Duration, int) { count++ })
		if count != 1000 {
			t.Fatalf("got %d entries, want 1000", count)
		}
	}
}

func TestWheelSurvivesAFireThatPanics(t *testing.T) {
	w := newWheel[int](time.Millisecond)
	for id := range 3 {
		w.add(time.Duration(id)*time.Hour, id)
	}
	var got []int
	advance := func() {
		defer func() { recover() }()
		w.advance(3*time.Hour, func(_ time.Duration, v int) {
			got = append(got, v)
			if v == 1 {
				panic("boom")
			}
		})
	}
	advance()
	if at, ok := w.next(); at != 2*time.Hour || !ok || w.len() != 1 {
		t.Errorf("after the panic: got next %v, %t of %d entries, want 2h, true of 1", at, ok, w.len())
	}
	advance()
	if want := []int{0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNewWheelPanicsWithoutATick(t *testing.T) {
	for _, tick := range []time.Duration{0, -1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("newWheel(%d): got no panic, want one", tick)
				}
			}()
			newWheel[int](tick)
		}()
	}
}

func TestWheelAllocatesNothingInSteadyState(t *testing.T) {
	w := newWheel[int](time.Millisecond)
	for id := range 200 {
		w.add(time.Duration(id)*time.Millisecond, id)
	}
	again := func(at time.Duration, v int) { w.add(at+200*time.Millisecond, v) }
	step := func() {
		now, _ := w.next()
		w.advance(now, again)
	}
	for range 1 << 18 { // once through enough slots of the lower levels
		step()
	}
	if got := testing.AllocsPerRun(1<<13, step); got != 0 {
		t.Errorf("got %v allocations an advance, want 0", got)
	}
}

func TestWheelLetsGoOfWhatABurstTook(t *testing.T) {
	w := newWheel[int](time.Millisecond)
	for id := range 100 * wheelKeep {
		w.add(time.Hour, id)
	}
	w.advance(time.Hour, func(time.Duration, int) {})
	kept := cap(w.due)
	for level := range w.slots {
		for s := range w.slots[level] {
			kept = max(kept, cap(w.slots[level][s].entries))
		}
	}
	if kept > wheelKeep {
		t.Errorf("got room for %d entries kept in one place, want at most %d", kept, wheelKeep)
	}
}

func TestWheelKeepsNoFiredValueAlive(t *testing.T) {
	w := newWheel[*int](time.Millisecond)
	for id := range 100 {
		w.add(time.Hour, new(id))
		w.add(2*time.Hour, new(id))
	}
	w.advance(time.Hour, func(time.Duration, *int) {})
	w.advance(2*time.Hour, func(time.Duration, *int) {})
	rooms := [][]wheelEntry[*int]{w.due}
	for level := range w.slots {
		for s := range w.slots[level] {
			rooms = append(rooms, w.slots[level][s].entries)
		}
	}
	for _, room := range rooms {
		for _, e := range room[:cap(room)] {
			if e.value != nil {
				t.Fatalf("got the value %d of a fired entry, want none kept", *e.value)
			}
		}
	}
}

// One entry within five minutes is added to a wheel of 64k of them.
func BenchmarkWheelAdd(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	horizons := make([]time.Duration, 1<<16)
	for i := range horizons {
		horizons[i] = time.Duration(random.Int64N(int64(5 * time.Minute)))
	}
	w := newWheel[int64](time.Millisecond)
	now := time.Duration(0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.add(now+horizons[i%len(horizons)], int64(i))
		if w.len() == len(horizons) {
			b.StopTimer()
			now += 5 * time.Minute
			w.advance(now, func(time.Duration, int64) {})
			b.StartTimer()
		}
	}
}

// The way of one entry, of so many standing ones, through the wheel: next, advance, fire, add.
func BenchmarkWheelAdvance(b *testing.B) {
	for _, standing := range []int{1, 1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("standing=%d", standing), func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			w := newWheel[int](time.Millisecond)
			for id := range standing {
				w.add(time.Duration(random.Int64N(int64(5*time.Minute))), id)
			}
			again := func(at time.Duration, id int) {
				w.add(at+time.Duration(random.Int64N(int64(10*time.Minute))), id)
			}
			b.ReportAllocs()
			for b.Loop() {
				now, _ := w.next()
				w.advance(now, again)
			}
		})
	}
}
