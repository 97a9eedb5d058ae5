// The loop's way of a job from its outcome to the end of its claim.

package dispatcher

// settle has the outcomes written that have come since the last time.
func (l *loop) settle() {
	if l.settling {
		return
	}
	batch := l.slots.collect()
	if len(batch) == 0 {
		return
	}
	for _, c := range batch {
		l.report(c)
	}
	if l.session != nil {
		l.shed()
	}
	l.settling = true
	l.background.Go(func() {
		written, blocked, err := l.d.settle(l.inner, batch, false)
		l.tell(settlement{written: written, blocked: blocked, err: err})
	})
}

// report logs what has not gone well.
func (l *loop) report(c *claim) {
	q := c.queue
	switch c.outcome.kind {
	case setAside:
		l.d.log.Error("job set aside", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "attempt", c.job.Attempt, "error", c.outcome.reason)
	case retried:
		l.d.log.Warn("job failed", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "attempt", c.job.Attempt, "retry_in", c.outcome.back.Delay, "error", c.outcome.reason)
	case handedBack:
		l.d.log.Info("job handed back", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "attempt", c.job.Attempt, "reason", c.outcome.reason)
	case discarded:
		l.d.log.Info("job discarded", "queue", q.name, "job", c.job.ID, "task", c.job.Task, "reason", c.outcome.reason)
	}
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
	c.queue.hand.drop(c.job.ID)
	if c.queue.leaving && len(c.queue.hand.claims) == 0 {
		l.retire()
	}
	l.acquit(c)
	if c.session != l.session {
		// Its lock went with its session. If the job still stands, it was kept from the new one's look.
		c.queue.wanted = true
		return
	}
	switch c.outcome.kind {
	case done, discarded:
		l.over = append(l.over, c.job.ID)
	default:
		l.release = append(l.release, c.job.ID)
	}
	l.strike(c.batch)
}

// strike counts one job of a batch in the ledger as ended.
func (l *loop) strike(batch int64) {
	if l.batches[batch]--; l.batches[batch] == 0 {
		delete(l.batches, batch)
		l.ended = append(l.ended, batch)
	}
}
