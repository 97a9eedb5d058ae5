package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// yard is slots at work, without a loop or a database. The test's goroutine stands in for the loop.
type yard struct {
	*slots
	queues []*queue
	nextID int64

	lock    sync.Mutex
	running map[*queue]int
	most    map[*queue]int // at once, of each queue; under nil, of all
	order   []int64        // in which handlers were started
}

// newYard has queues whose handlers each run h, or if that is nil a virtual second.
func newYard(concurrency int, h HandlerFunc, queues ...int) *yard {
	y := &yard{running: map[*queue]int{}, most: map[*queue]int{}}
	for i, size := range queues {
		q := &queue{name: fmt.Sprint("queue ", i)}
		run := HandlerFunc(func(ctx context.Context, job *Job) error {
			y.enter(q, job.ID)
			defer y.leave(q)
			if h != nil {
				return h(ctx, job)
			}
			timer := time.NewTimer(time.Second)
			<-timer.C
			return nil
		})
		q.how.Store(&manner{routes: map[string]route{anyTask: {handler: run}}})
		q.configure(QueueOptions{Concurrency: size, MaxAttempts: 3})
		y.queues = append(y.queues, q)
	}
	y.slots = newSlots(y.queues, concurrency)
	return y
}

func (y *yard) enter(q *queue, id int64) {
	y.lock.Lock()
	defer y.lock.Unlock()
	y.order = append(y.order, id)
	for _, of := range []*queue{q, nil} {
		y.running[of]++
		y.most[of] = max(y.most[of], y.running[of])
	}
}

func (y *yard) leave(q *queue) {
	y.lock.Lock()
	defer y.lock.Unlock()
	y.running[q]--
	y.running[nil]--
}

// add has the workers begin, as the loop does. What it sees in between is what will be so.
func (y *yard) add(q *queue, claims []*claim) {
	y.slots.add(q, claims)
	for _, of := range y.queues {
		if free, waiting, _ := y.spare(of); free > 0 && waiting > 0 {
			panic("a free slot is kept from a job that waits")
		}
	}
	y.begin()
}

// claims makes n of a queue.
func (y *yard) claims(q *queue, n int) (made []*claim) {
	for range n {
		y.nextID++
		c := &claim{queue: q, job: Job{Job: &store.Job{ID: y.nextID, Data: []byte("12345"), Attempt: 1}}}
		c.ctx.Context = context.Background()
		q.hand.add(c)
		made = append(made, c)
	}
	return made
}

// finish collects until n have finished, and sleeps in between until there is news, as the loop does.
func (y *yard) finish(n int) (finished []*claim) {
	for len(finished) < n {
		batch := y.collect()
		if len(batch) == 0 {
			<-y.news
		}
		finished = append(finished, batch...)
	}
	return finished
}

// end ends the workers, with what waits for them.
func (y *yard) end() {
	for _, q := range y.queues {
		y.withdraw(q, 0)
	}
	close(y.work)
	y.workers.Wait()
}

func TestSlotsNeverRunMoreThanTheyAreToAndLoseNoJob(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(*testing.T) {
			defer func() { failure = recover() }() // for rapid, which is outside
			checkSlots(rt)
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func checkSlots(rt *rapid.T) {
	size := rapid.IntRange(1, 6)
	total := size.Draw(rt, "slots")
	y := newYard(total, nil, size.Draw(rt, "of the first"), size.Draw(rt, "of the second"), size.Draw(rt, "of the third"))
	limit := map[*queue]int{nil: total}
	for _, q := range y.queues {
		limit[q] = q.line.size
	}
	defer y.end()
	out := map[*claim]bool{} // put in, and not come back
	back := func(claims []*claim) {
		for _, c := range claims {
			if !out[c] {
				rt.Fatalf("job %d came back twice, or from nowhere", c.job.ID)
			}
			delete(out, c)
			delete(c.queue.hand.claims, c.job.ID)
		}
	}
	queue := func() *queue { return rapid.SampledFrom(y.queues).Draw(rt, "queue") }
	// bound is how many may run at once until the next check: after a change to fewer, those that do.
	bound := maps.Clone(limit)
	check := func() {
		y.begin() // as the loop does at each turn
		synctest.Wait()
		y.lock.Lock()
		defer y.lock.Unlock()
		for q, n := range y.most {
			if n > bound[q] {
				rt.Fatalf("%d ran at once, want at most %d", n, bound[q])
			}
			bound[q] = max(limit[q], y.running[q])
			y.most[q] = y.running[q]
		}
		sum := 0
		for _, q := range y.queues {
			free, waiting, busy := y.spare(q)
			if busy != y.running[q] {
				rt.Fatalf("%d handlers of %s are at work, and the slots say %d", y.running[q], q.name, busy)
			}
			if free > 0 && waiting > 0 {
				rt.Fatalf("%d slots are free for %s, and %d jobs wait", free, q.name, waiting)
			}
			sum += waiting
		}
		if y.atWork() != y.running[nil] {
			rt.Fatalf("%d handlers are at work, and the slots say %d", y.running[nil], y.atWork())
		}
		if n := y.bytes(); n != int64(5*sum) {
			rt.Fatalf("%d bytes wait, want those of %d jobs", n, sum)
		}
	}
	rt.Repeat(map[string]func(*rapid.T){
		"add": func(*rapid.T) {
			q := queue()
			claims := y.claims(q, rapid.IntRange(1, 10).Draw(rt, "jobs"))
			for _, c := range claims {
				out[c] = true
			}
			y.add(q, claims)
		},
		"pass time": func(*rapid.T) { <-time.After(time.Second) },
		"collect":   func(*rapid.T) { back(y.collect()) },
		"withdraw":  func(*rapid.T) { back(y.withdraw(queue(), rapid.IntRange(0, 5).Draw(rt, "keep"))) },
		"skip": func(*rapid.T) {
			q := queue()
			for _, c := range q.hand.claims {
				if !c.running {
					c.ctx.get().cancel(ErrCancelled)
					y.skip(c)
					break
				}
			}
		},
		"resize": func(*rapid.T) {
			n := size.Draw(rt, "slots")
			bound[nil] = max(bound[nil], n)
			y.resize(n - limit[nil])
			limit[nil] = n
		},
		"resize a queue": func(*rapid.T) {
			q, n := queue(), size.Draw(rt, "slots")
			bound[q] = max(bound[q], n)
			y.resizeLine(q, n)
			limit[q] = n
		},
		"": func(*rapid.T) { check() },
	})
	back(y.finish(len(out)))
	if !y.empty() || len(out) > 0 {
		rt.Fatalf("at the end %d jobs are out, and %d at work", len(out), y.atWork())
	}
}

// The loop sleeps while all goes on by itself. It must be woken when a slot would stay empty, and for the first job that
// finishes after it has looked.
func TestTheLoopHearsOfWhatItHasToSeeTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(1, nil, 1)
		q := y.queues[0]
		told := func() bool {
			synctest.Wait()
			select {
			case <-y.news:
				return true
			default:
				return false
			}
		}
		want := func(when string, want bool) {
			t.Helper()
			if got := told(); got != want {
				t.Errorf("%s: told %v, want %v", when, got, want)
			}
		}
		y.add(q, y.claims(q, 4))
		want("while the first runs", false)
		<-time.After(1100 * time.Millisecond)
		want("one has finished, three wait, and the loop has not looked", false)
		if n := len(y.collect()); n != 1 {
			t.Errorf("collected %d, want 1", n)
		}
		<-time.After(time.Second)
		want("another has finished, and it was not in vain that the loop looked", false)
		y.collect()
		y.collect() // in vain
		<-time.After(time.Second)
		want("the next one, after a look in vain", true)
		<-time.After(time.Second)
		want("the slot is empty", true)
		if n := len(y.collect()); n != 2 {
			t.Errorf("collected %d, want 2", n)
		}
		y.end()
	})
}

func TestAHandlerThatEndsItsGoroutineCostsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(2, func(_ context.Context, job *Job) error {
			<-time.After(time.Second)
			switch job.ID % 3 {
			case 0:
				runtime.Goexit()
			case 1:
				panic("no")
			}
			return nil
		}, 2)
		q := y.queues[0]
		kinds := map[string]int{}
		for _, n := range []int{30, 1, 1, 1} { // one after the other, and each by itself
			y.add(q, y.claims(q, n))
			for _, c := range y.finish(n) {
				kinds[c.outcome.kind]++
			}
		}
		y.most = map[*queue]int{}
		y.add(q, y.claims(q, 2)) // the last one has taken its worker with it
		y.finish(2)
		if n := y.most[nil]; n != 2 {
			t.Errorf("%d jobs of two ran at once, want both", n)
		}
		if kinds[done] != 11 || kinds[retried] != 22 {
			t.Errorf("got the outcomes %v, want 11 done and 22 to be retried", kinds)
		}
		if !y.empty() {
			t.Errorf("%d are at work at the end", y.atWork())
		}
		y.end()
	})
}

func TestSlotsTakeTheFirstOfEachLineInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(1, nil, 1, 1)
		many, few := y.queues[0], y.queues[1]
		y.add(many, y.claims(many, 1)) // takes the slot
		later := y.claims(many, 6)
		later[3].job.ExpectedAt = time.Now().Add(time.Hour)
		later[5].job.ExpectedAt = time.Now()
		y.add(many, slices.Concat(later[4:], later[:4]))
		y.add(few, y.claims(few, 2))
		y.finish(9)
		// 1 to 7 are of many, of which 7 and 5 come first; 8 and 9 of few.
		if want := []int64{1, 8, 7, 9, 5, 2, 3, 4, 6}; !slices.Equal(y.order, want) {
			t.Errorf("got the order %v, want %v", y.order, want)
		}
		y.end()
	})
}

func TestWithdrawTakesTheLastAndKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(1, nil, 1)
		q := y.queues[0]
		claims := y.claims(q, 10)
		y.add(q, slices.Concat(claims[:1], claims[5:], claims[1:5]))
		rest := y.withdraw(q, 3)
		var ids []int64
		for _, c := range rest {
			ids = append(ids, c.job.ID)
		}
		slices.SortFunc(ids, cmp.Compare)
		if want := []int64{5, 6, 7, 8, 9, 10}; !slices.Equal(ids, want) {
			t.Errorf("withdrew %v, want %v", ids, want)
		}
		if y.withdraw(q, 3) != nil {
			t.Error("withdrew more than there are")
		}
		y.finish(4)
		if want := []int64{1, 2, 3, 4}; !slices.Equal(y.order, want) {
			t.Errorf("got the order %v, want %v", y.order, want)
		}
		y.end()
	})
}

// A reserve is claimed for handlers that will be at work as for those that are: when they have run dry, it was too small.
func TestTheRoomOfAQueueIsItsFreeSlotsAndAReserve(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name                string
		perSecond           float64
		since               time.Duration
		prefetch            int
		free, waiting, busy int
		want                int
	}{
		{"nothing is known", 0, 0, 0, 10, 0, 0, 10},
		{"fast handlers at work", 10_000, 0, 0, 0, 50, 10, 150},
		{"fast handlers run dry", 10_000, 0, 0, 10, 0, 0, 210},
		{"long ago", 10_000, 2 * time.Second, 0, 10, 0, 0, 10},
		{"slow handlers", 100, 0, 0, 0, 0, 10, 0},
		{"slow handlers, one of them at work", 100, 0, 0, 9, 0, 1, 9},
		{"no reserve wanted", 10_000, 0, -1, 10, 0, 0, 10},
		{"a small one", 10_000, 0, 5, 10, 0, 0, 15},
		{"the largest", 1e9, 0, 0, 10, 0, 0, 10 + maxPrefetch},
	} {
		q := &queue{rate: rate{perSecond: test.perSecond, since: now.Add(-test.since)}, place: position{cost: time.Millisecond}}
		q.how.Store(&manner{options: QueueOptions{Prefetch: test.prefetch}})
		if got := q.room(test.free, test.waiting, test.busy); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

// Between its answer and its start, a job's slot is not free for another queue's.
func TestAJobHasItsSlotBeforeItBegins(t *testing.T) {
	q, other := &queue{name: "a", hand: newHand()}, &queue{name: "b", hand: newHand()}
	for _, q := range []*queue{q, other} {
		q.how.Store(&manner{options: QueueOptions{Concurrency: 2}})
	}
	s := newSlots([]*queue{q, other}, 2)
	claims := []*claim{}
	for id := range int64(3) {
		claims = append(claims, &claim{queue: q, job: Job{Job: &store.Job{ID: id, Data: []byte("12345")}}})
	}
	s.add(q, claims)
	if free, waiting, busy := s.spare(q); free != 0 || waiting != 1 || busy != 2 {
		t.Errorf("got %d free, %d waiting, %d at work, want 0, 1, 2", free, waiting, busy)
	}
	if free, _, _ := s.spare(other); free != 0 {
		t.Errorf("the other queue has %d slots, want none", free)
	}
	if n := s.bytes(); n != int64(claims[0].job.Size()) {
		t.Errorf("%d bytes wait, want those of one job", n)
	}
}

// What a claim may come upon of what is in hand must be told it, or it runs twice at once.
func TestAClaimIsToldOfWhatIsInHandWhereItLooks(t *testing.T) {
	h := newHand()
	for id, times := range map[int64]store.Job{
		-7: {}, 3: {}, 4: {ExpectedAt: time.Now()}, 5: {ScheduleAt: time.Now()}, 9: {}, 11: {ExpectedAt: time.Now()},
	} {
		times.ID = id
		h.add(&claim{job: Job{Job: &times}})
	}
	h.moved(-7)
	for after, want := range map[int64][]int64{
		0:             {-7, 3, 4, 5, 9, 11},
		3:             {-7, 4, 5, 9, 11},
		9:             {-7, 4, 5, 11},
		11:            {-7, 4, 5, 11},
		20:            {-7, 4, 5, 11},
		math.MinInt64: {-7, 3, 4, 5, 9, 11},
	} {
		if got := slices.Sorted(slices.Values(h.after(after))); !slices.Equal(got, want) {
			t.Errorf("after %d: got %v, want %v", after, got, want)
		}
	}
}
