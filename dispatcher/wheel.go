package dispatcher

// The timing wheel: which timer is next, however many there are.
//
// It is the hierarchical wheel of Varghese and Lauck ("Hashed and Hierarchical Timing Wheels", SOSP
// 1987): level 0 has a slot for each of the next ticks, level 1 one for each 64 of them, and so on.
// An entry waits on the level of the highest base-64 digit in which its tick differs from the
// current one, in the slot of that digit, and moves down when the wheel reaches the slot. Two things
// are different here, for exactness:
//
//   - Nothing is rounded to the tick. The entries of the current tick are ordered by their exact
//     time in a small heap, out of which they fire. A slot only knows its earliest entry.
//   - There is no capacity to be exceeded. Eleven digits of six bits are more than any time.Duration
//     has, so there is no overflow list with rules of its own; a level costs 2 KiB and no time.
//
// A wheel is a plain value of one goroutine, the dispatcher's loop: it has no goroutine, lock or
// clock. It is told what time it is, as an offset from its epoch (time 0), and may be told anything:
// a far jump costs the entries and occupied slots on the way, not the ticks, and a time before the
// last one moves nothing back.

import (
	"math/bits"
	"time"
)

const (
	wheelBits   = 6 // a level has 1<<6 slots, so that one uint64 shows which are in use
	wheelLevels = (63 + wheelBits - 1) / wheelBits
	// wheelKeep is how many entries' room an emptied slot or heap keeps: enough for no allocation in
	// everyday use, too little for a burst to hold its memory for ever in each slot it went through.
	wheelKeep = 256
)

type wheel[T any] struct {
	tick  time.Duration
	now   uint64 // the current tick; never falls
	added uint64 // number of adds so far, which orders entries of the same time
	count int

	due   wheelHeap[T]                              // entries of ticks up to now
	used  [wheelLevels]uint64                       // bit s: slots[level][s] has entries
	slots [wheelLevels][1 << wheelBits]wheelSlot[T] // entries of ticks after now
}

type wheelSlot[T any] struct {
	entries []wheelEntry[T] // in no order
	first   time.Duration   // the earliest of them
}

type wheelEntry[T any] struct {
	at    time.Duration
	order uint64
	value T
}

func (e *wheelEntry[T]) before(other *wheelEntry[T]) bool {
	return e.at < other.at || e.at == other.at && e.order < other.order
}

// newWheel makes a wheel at time 0. The tick decides only how entries are grouped, never when they
// fire. It panics if tick is not positive.
func newWheel[T any](tick time.Duration) *wheel[T] {
	if tick <= 0 {
		panic("dispatcher: the tick of a wheel must be positive")
	}
	return &wheel[T]{tick: tick}
}

// add enters v for the time at. One that is past already fires at the next advance.
func (w *wheel[T]) add(at time.Duration, v T) {
	w.place(wheelEntry[T]{at: at, order: w.added, value: v})
	w.added++
	w.count++
}

// advance fires every entry with at <= now: never early, the earliest first, those of the same time
// in the order of their adds. Of entries that fire adds itself, those with at <= now take part, so a
// fire that always adds such an entry never ends.
func (w *wheel[T]) advance(now time.Duration, fire func(at time.Duration, v T)) {
	target := w.tickOf(now)
	for {
		for len(w.due) > 0 && w.due[0].at <= now {
			e := w.due.pop()
			w.count--
			fire(e.at, e.value)
		}
		level, s, ok := w.firstSlot()
		if !ok {
			break
		}
		start := w.startOf(level, s)
		if start > target {
			break
		}
		w.now = start
		w.empty(level, s)
	}
	// Every entry left in a slot is later than target and just where target, too, would put it: the
	// slot of its highest differing digit has not been reached. So now may move on, and later adds
	// start on the lowest level they can.
	w.now = max(w.now, target)
	if len(w.due) == 0 && cap(w.due) > wheelKeep {
		w.due = nil
	}
}

// next is the exact time of the earliest entry, ok=false if there is none.
func (w *wheel[T]) next() (at time.Duration, ok bool) {
	if len(w.due) > 0 {
		return w.due[0].at, true
	}
	level, s, ok := w.firstSlot()
	if !ok {
		return 0, false
	}
	return w.slots[level][s].first, true
}

// len is the number of entries that have not fired.
func (w *wheel[T]) len() int { return w.count }

// place puts e where its tick belongs, seen from the current one.
func (w *wheel[T]) place(e wheelEntry[T]) {
	tick := w.tickOf(e.at)
	if tick <= w.now {
		w.due.push(e)
		return
	}
	level := (bits.Len64(tick^w.now) - 1) / wheelBits
	s := tick >> (level * wheelBits) % (1 << wheelBits)
	slot := &w.slots[level][s]
	if len(slot.entries) == 0 || e.at < slot.first {
		slot.first = e.at
	}
	slot.entries = append(slot.entries, e)
	w.used[level] |= 1 << s
}

// empty moves the entries of a slot that begins now down, each to a lower level or to due.
func (w *wheel[T]) empty(level, s int) {
	slot := &w.slots[level][s]
	w.used[level] &^= 1 << s
	for _, e := range slot.entries {
		w.place(e)
	}
	clear(slot.entries) // or the room that is kept would keep the values alive
	slot.entries = slot.entries[:0]
	if cap(slot.entries) > wheelKeep {
		slot.entries = nil
	}
}

// firstSlot is the slot of the earliest entries: those of a lower level, which share more digits
// with now, are all before those of a higher one.
func (w *wheel[T]) firstSlot() (level, s int, ok bool) {
	for level, used := range &w.used {
		if used != 0 {
			return level, bits.TrailingZeros64(used), true
		}
	}
	return 0, 0, false
}

// startOf is the first tick of a slot: the digits of now above its level, then its own, then zeros.
func (w *wheel[T]) startOf(level, s int) uint64 {
	shift := level * wheelBits
	above := w.now >> (shift + wheelBits) << (shift + wheelBits)
	return above | uint64(s)<<shift
}

// tickOf is the tick in which a time lies; all times before the epoch are in tick 0.
func (w *wheel[T]) tickOf(at time.Duration) uint64 { return uint64(max(at, 0) / w.tick) }

// wheelHeap is a binary heap, the earliest entry first. (container/heap would box each entry.)
type wheelHeap[T any] []wheelEntry[T]

func (h *wheelHeap[T]) push(e wheelEntry[T]) {
	*h = append(*h, e)
	s := *h
	i := len(s) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(&s[parent]) {
			break
		}
		s[i] = s[parent]
		i = parent
	}
	s[i] = e
}

func (h *wheelHeap[T]) pop() wheelEntry[T] {
	s := *h
	first, last := s[0], s[len(s)-1]
	s[len(s)-1] = wheelEntry[T]{}
	s = s[:len(s)-1]
	*h = s
	if len(s) == 0 {
		return first
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(s) {
			break
		}
		if right := child + 1; right < len(s) && s[right].before(&s[child]) {
			child = right
		}
		if !s[child].before(&last) {
			break
		}
		s[i] = s[child]
		i = child
	}
	s[i] = last
	return first
}
