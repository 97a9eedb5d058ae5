package dispatcher

import (
	"context"
	"slices"
	"sync"
)

// slots are where handlers run, with what waits for one and what has run. It is the one thing that the
// loop shares with its workers, under a lock: a worker that has finished a job takes the next one
// itself. To be given it by the loop would cost two switches between goroutines for each job, which took
// a third of a dispatcher's time.
type slots struct {
	workers sync.WaitGroup
	work    chan *claim   // to idle workers
	news    chan struct{} // of capacity 1: something for the loop to see to

	mu       sync.Mutex
	size     int      // slots of the process
	free     int      // of them; negative while more are at work than there are to be now
	ready    []*claim // have a slot each, and are to be handed to workers
	lines    []*line
	turn     int // of the line that the next job is taken from
	idle     int // workers
	finished []*claim
	call     bool // the loop waits for the next one that is finished
}

// line is one queue's part of the slots.
type line struct {
	size    int    // slots of the queue
	free    int    // of them, as above
	waiting buffer // claimed, not started
	bytes   int64  // of data that waits
	done    int    // finished since the rate was measured last
}

func newSlots(queues []*queue, concurrency int) *slots {
	s := &slots{work: make(chan *claim, concurrency), news: make(chan struct{}, 1), size: concurrency, free: concurrency}
	for _, q := range queues {
		s.enter(q)
	}
	return s
}

// enter adds a queue's line.
func (s *slots) enter(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := q.how.Load().options.Concurrency
	q.line = line{size: n, free: n}
	s.lines = append(s.lines, &q.line)
}

// leave takes it away. Nothing waits in it, and nothing of it is at work.
func (s *slots) leave(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = slices.DeleteFunc(s.lines, func(l *line) bool { return l == &q.line })
}

// resize changes the number of slots of the process.
func (s *slots) resize(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += by
	s.free += by
	s.fill()
}

// resizeLine sets the number of slots of a queue.
func (s *slots) resizeLine(q *queue, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.line.free += size - q.line.size
	q.line.size = size
	s.fill()
}

// add puts claims into their queue's line, and gives those a slot for which there is one: begin starts them.
func (s *slots) add(q *queue, claims []*claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.line.waiting.add(claims)
	for _, c := range claims {
		q.line.bytes += int64(c.job.Size())
	}
	s.fill()
}

// fill gives free slots to what waits. The lock is held.
func (s *slots) fill() {
	for c := s.next(); c != nil; c = s.next() {
		s.ready = append(s.ready, c)
	}
}

// waits tells whether there is something for begin to do.
func (s *slots) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready) > 0
}

// begin hands what has a slot to workers.
func (s *slots) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.ready {
		if s.idle > 0 {
			s.idle--
			s.work <- c // one is there to take it
		} else {
			s.workers.Go(func() { s.run(c) })
		}
	}
	clear(s.ready)
	s.ready = s.ready[:0]
}

// next takes the job that is to be started now, if there is one: from each line in its turn, so that a
// queue with many jobs leaves the others their share of the slots.
func (s *slots) next() *claim {
	if s.free <= 0 {
		return nil
	}
	for i := range s.lines {
		n := (s.turn + i) % len(s.lines)
		if l := s.lines[n]; l.free > 0 && len(l.waiting) > 0 {
			s.turn = (n + 1) % len(s.lines)
			s.free--
			l.free--
			c := l.waiting.next()
			c.running = true
			l.bytes -= int64(c.job.Size())
			return c
		}
	}
	return nil
}

// run is a worker: it runs handlers, one after another. A goroutine that stays keeps the stack that it
// has grown.
func (s *slots) run(c *claim) {
	for c != nil {
		for c != nil {
			c = s.handle(c)
		}
		c = <-s.work
	}
}

// handle runs a job and returns the next one, if there is any. A handler that ends its goroutine takes
// the worker with it, and another one goes on.
func (s *slots) handle(c *claim) (next *claim) {
	returned := false
	defer func() {
		next = s.exchange(c, returned)
		if !returned && next != nil {
			s.workers.Go(func() { s.run(next) })
		}
	}()
	c.run()
	returned = true
	return
}

// exchange hands in a finished job for the next one.
func (s *slots) exchange(c *claim, stays bool) (next *claim) {
	s.mu.Lock()
	s.free++
	c.queue.line.free++
	c.queue.line.done++
	c.running = false
	s.finished = append(s.finished, c)
	next = s.next()
	if next == nil && stays {
		s.idle++
	}
	signal := s.call || next == nil
	s.call = false
	s.mu.Unlock()
	if signal {
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
	return next
}

// collect returns what has finished since the last time. If that is nothing, the next one is news.
func (s *slots) collect() []*claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	finished := s.finished
	s.finished = nil
	s.call = len(finished) == 0
	return finished
}

// spare tells how many slots a queue could fill now, how many claimed jobs wait for them, and how many of
// its handlers are at work.
func (s *slots) spare(q *queue) (free, waiting, busy int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, min(q.line.free, s.free)), len(q.line.waiting), q.line.size - q.line.free
}

// bytes is how much data waits in all lines.
func (s *slots) bytes() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		n += l.bytes
	}
	return n
}

// worked returns how many of a queue's jobs have finished since the last time.
func (s *slots) worked(q *queue) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := q.line.done
	q.line.done = 0
	return done
}

// withdraw takes all but the first keep of a queue's waiting jobs out of its line.
func (s *slots) withdraw(q *queue, keep int) []*claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &q.line
	if len(l.waiting) <= keep {
		return nil
	}
	rest := slices.Clone(l.waiting[keep:])
	clear(l.waiting[keep:])
	l.waiting = l.waiting[:keep]
	for _, c := range rest {
		l.bytes -= int64(c.job.Size())
	}
	return rest
}

// skip hands in a cancelled job that waits, as if it had run: handed back, it would not be cancelled any more.
func (s *slots) skip(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &c.queue.line
	i := slices.Index(l.waiting, c)
	if i < 0 {
		return
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.bytes -= int64(c.job.Size())
	c.outcome = c.judge(&c.ctx, context.Cause(&c.ctx))
	s.finished = append(s.finished, c)
}

// running are the jobs of a queue whose handlers are at work.
func (s *slots) running(q *queue) (claims []*claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range q.hand.claims {
		if c.running {
			claims = append(claims, c)
		}
	}
	return claims
}

// empty tells whether no handler is at work and nothing has finished that is not collected.
func (s *slots) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free == s.size && len(s.finished) == 0
}

// atWork is how many handlers are.
func (s *slots) atWork() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size - s.free
}
