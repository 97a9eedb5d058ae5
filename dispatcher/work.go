// The loop's way of a job: from the buffer to a worker, from its outcome to the end of its claim.

package dispatcher

// start hands buffered jobs to the workers, queue by queue in turn, as far as slots are free.
func (l *loop) start() {
	for i := range l.queues {
		q := l.queues[(l.turn+i)%len(l.queues)]
		for len(q.buffer) > 0 && q.free > 0 && l.slots > 0 {
			c := q.buffer.next()
			q.free--
			l.slots--
			l.running[c] = true
			if l.hired < len(l.running) {
				l.hired++
				l.workers.Go(l.worker)
			}
			l.work <- c // there is room for all that may run
		}
	}
}

// worker runs handlers, one after another: a goroutine that stays keeps the stack that it has grown.
// A handler that ends its goroutine takes its worker with it.
func (l *loop) worker() {
	for c := range l.work {
		l.handle(c)
	}
}

func (l *loop) handle(c *claim) {
	returned := false
	defer func() {
		c.quit = !returned
		l.finished <- c // there is room for all that may run, even when the loop has ended
	}()
	c.run(c.session.ctx)
	returned = true
}

// finish takes a run's outcome.
func (l *loop) finish(c *claim) {
	q := c.queue
	delete(l.running, c)
	if c.quit {
		l.hired--
	}
	q.free++
	l.slots++
	q.rate.done++
	l.unsettled = append(l.unsettled, c)
	switch c.outcome.kind {
	case setAside:
		l.d.log.Error("job set aside", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "attempt", c.job.Attempt, "error", c.outcome.reason)
	case retried:
		l.d.log.Warn("job failed", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "attempt", c.job.Attempt, "retry_in", c.outcome.back.Delay, "error", c.outcome.reason)
	case discarded:
		l.d.log.Info("job discarded", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "reason", c.outcome.reason)
	}
}

// settle has the outcomes written that have come since the last time.
func (l *loop) settle() {
	if l.settling || len(l.unsettled) == 0 {
		return
	}
	batch := l.unsettled
	l.unsettled = nil
	l.settling = true
	l.background.Go(func() {
		written, blocked, err := l.d.settle(l.inner, batch, false)
		l.tell(settlement{written: written, blocked: blocked, err: err})
	})
}

// tell sends a settlement to the loop, unless that has ended.
func (l *loop) tell(s settlement) {
	select {
	case l.settled <- s:
	case <-l.inner.Done():
	}
}

// hearSettled takes what came of a batch. What is blocked must not hold up what comes after it.
func (l *loop) hearSettled(s settlement) {
	if s.alone {
		l.alone--
	} else {
		l.settling = false
	}
	if s.err != nil {
		return // the loop is at its end, and the jobs are run again
	}
	l.conclude(s.written)
	l.alone += len(s.blocked)
	for _, c := range s.blocked {
		l.d.log.Warn("someone has locked a job's row; its outcome waits", "queue", c.queue.name, "job", c.job.ID)
		l.background.Go(func() {
			written, _, err := l.d.settle(l.inner, []*claim{c}, true)
			l.tell(settlement{written: written, alone: true, err: err})
		})
	}
}

// conclude gives up the claims of jobs whose outcome is written.
func (l *loop) conclude(batch []*claim) {
	for _, c := range batch {
		switch c.outcome.kind {
		case retried, snoozed:
			l.expect(c.queue, c.outcome.back.Delay)
		case handedBack:
			l.returning[c.queue] = true
		}
		l.drop(c)
	}
}

// drop ends a claim. The lock is released with the next ask; only then may the job be claimed again.
func (l *loop) drop(c *claim) {
	delete(c.queue.held, c.job.ID)
	if c.session != l.session {
		// Its lock went with its session. If the job still stands, it was kept from the new one's look.
		c.queue.wanted = true
		return
	}
	l.release = append(l.release, c.job.ID)
	if l.batches[c.batch]--; l.batches[c.batch] == 0 {
		delete(l.batches, c.batch)
		l.ended = append(l.ended, c.batch)
	}
}
