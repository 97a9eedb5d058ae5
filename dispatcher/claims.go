// The loop's side of the lock session: what it asks of it, and what it makes of the answers.

package dispatcher

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// waitingBytes is how much data is claimed ahead at most, as the table holds it: compressed.
const waitingBytes = 32 << 20

// ask sends the next request to the lock session: what there is to give back, together with a claim for the
// next queue that wants one.
func (l *loop) ask() {
	if l.session == nil || l.asking || l.paused {
		return
	}
	if unknown := l.withoutBucket(); len(unknown) > 0 {
		l.send(ask{settle: unknown})
		return
	}
	l.saturate()
	request := ask{claim: store.ClaimRequest{Release: l.release, Over: l.over, Ended: l.ended, Unpark: l.unparked}}
	if q, want := l.choose(); q != nil {
		q.wanted, q.halted = false, false
		request.queue = q
		request.claim.Queue = q.how.Load().source
		request.claim.Bytes = max(1, waitingBytes-l.slots.bytes())
		request.claim.Want = want
		request.asked = time.Now()
		request.claim.Park = q.parks(request.asked)
		request.claim.Witnesses, request.claim.Suspects = l.admits(q, request.asked)
		turn := request.claim.Suspects && !q.suspect.IsZero() // of one that only a look from the head finds
		request.claim.After, request.claim.Upto = q.place.next(request.asked, request.claim.Park || turn)
		request.claim.Back = q.place.back()
		request.claim.Held = q.hand.after(request.claim.After - request.claim.Back)
	}
	if request.queue == nil || l.locks-len(l.release)+request.claim.Want > l.session.allowance.budget {
		// No claim waits for the unlocks, or it needs the room.
		request.claim.Release, request.claim.Over = slices.Concat(l.release, l.over), nil
	}
	if request.queue == nil && len(l.release)+len(l.over)+len(l.ended)+len(l.unparked) == 0 {
		return
	}
	l.locks -= len(l.release) + len(l.over)
	l.release, l.over, l.ended, l.unparked = nil, nil, nil, nil
	l.send(request)
}

func (l *loop) send(request ask) {
	l.asking = true
	l.keeper.asks <- request // there is room: no other is under way
}

// choose finds the next queue that may have work and has room for it, and how much.
func (l *loop) choose() (*queue, int) {
	if l.stopping || l.burying || !l.session.surveyed {
		return nil, 0
	}
	spare := l.spare()
	now := time.Now()
	for i := range l.queues {
		n := (l.turn + i) % len(l.queues)
		q := l.queues[n]
		if !q.wanted || q.leaving {
			continue
		}
		free, waiting, busy := l.slots.spare(q)
		room := q.room(free, waiting, busy)
		if room <= 0 && waiting > 0 && q.place.stale(now) {
			room = 1 // what is more urgent than all that waits must not wait for it
		}
		if want := min(room, spare, maxClaim); want > 0 {
			l.turn = (n + 1) % len(l.queues)
			return q, want
		}
	}
	return nil, 0
}

// hear takes the answer to an ask.
func (l *loop) hear(a answer) {
	l.asking = false
	switch {
	case errors.Is(a.err, store.ErrLockTable):
		l.shrink(a)
		return
	case a.err != nil:
		return // the session is broken, which the keeper says next
	}
	switch {
	case a.settle != nil:
		l.settleIn(a.settle, a.buckets)
	case a.queue != nil:
		l.session.allowance.grant()
		l.take(a)
		for _, id := range l.early {
			l.cancel(id, a.at)
		}
		l.shed()
	}
	l.early = nil
	if len(a.claim.Release) > 0 && len(l.release) == 0 {
		l.wakeOthers()
	}
}

// take buffers the jobs of a claim.
func (l *loop) take(a answer) {
	q, claims := a.queue, a.claims
	now := a.at
	l.offset, l.offsetOK = claims.Now.Sub(now), true
	q.rate.measure(now, l.slots.worked(q))
	locked := len(claims.Jobs) + len(claims.Gone)
	full := locked >= a.claim.Want || claims.More
	q.place.advance(a, full)
	if a.claim.After == 0 && q.witnessesFirst {
		q.witnessesFirst, q.wanted = false, true
	}
	l.repose(q, claims.Parking, locked, looked{full: full || q.place.more, head: a.claim.After == 0}, now)
	if claims.NextDue >= 0 {
		l.expect(q, claims.NextDue)
	}
	if len(claims.Gone) > 0 { // some of them may only have been changed
		q.wanted = true
	}
	l.locks += locked
	l.release = append(l.release, claims.Gone...)
	if len(claims.Jobs) > 0 {
		l.batches[claims.Batch] = len(claims.Jobs)
	} else if len(claims.Gone) > 0 {
		l.ended = append(l.ended, claims.Batch)
	}
	taken := make([]*claim, 0, len(claims.Jobs))
	for _, job := range claims.Jobs {
		if q.hand.claims[job.ID] != nil {
			// Its row was given a priority, so that the claim came upon it where no held job was expected. Our own
			// lock was granted a second time, and is given back once.
			q.hand.moved(job.ID)
			l.release = append(l.release, job.ID)
			l.strike(claims.Batch)
			continue
		}
		due := job.EnqueuedAt
		if job.ScheduleAt.After(due) {
			due = job.ScheduleAt
		}
		c := &claim{
			job:       Job{Job: job, jobs: l.d.jobs},
			queue:     q,
			session:   l.session,
			batch:     claims.Batch,
			claimedAt: now,
			age:       max(0, claims.Now.Sub(due)),
		}
		c.ctx.Context = l.session.ctx
		q.hand.add(c)
		taken = append(taken, c)
		l.watch(c)
	}
	if a.claim.After == 0 {
		l.suspected(q, claims.Suspect, now)
	}
	if l.stopping || q.leaving || q.halted || a.claim.Queue != q.how.Load().source {
		// It was asked for before the queue was left, or paused, or its jobs were to be read otherwise.
		q.asleep = false
		l.unpark(q.bucket)
		l.giveBack(q, taken)
		return
	}
	l.slots.add(q, taken)
}

// shed hands back what is buffered far beyond what the handlers will take soon: they have become slower,
// or the dispatchers more, since it was claimed. Never beside a claim, which could not find what is given back
// and would bring what comes after it: the next one can, as it gives back first.
func (l *loop) shed() {
	if l.asking {
		return
	}
	now := time.Now()
	for _, q := range l.queues {
		q.rate.measure(now, l.slots.worked(q))
		free, waiting, busy := l.slots.spare(q)
		keep := free + 2*q.prefetch(now, busy+free)
		if over := -l.spare(); over > 0 {
			keep = min(keep, max(0, waiting-over))
		}
		if waiting > keep && l.handBack(q, keep) {
			q.wanted = true
		}
	}
}

// open begins the life of a lock session: everything may have changed.
func (l *loop) open(news opening) {
	ctx, cancel := context.WithCancelCause(l.inner)
	l.session = &sessionScope{id: news.id, ctx: ctx, cancel: cancel}
	l.session.allowance.entitle(news.budget)
	l.sweep = true
	if most := l.d.options.Concurrency; news.budget < most {
		l.d.log.Warn("the server's lock table does not allow so many jobs at once",
			"concurrency", most, "budget", news.budget, "remedy", "raise max_locks_per_transaction")
	}
	for _, q := range l.queues {
		q.place = position{}
		q.rest = rest{}
		q.witnessesFirst, q.suspect = true, time.Time{}
	}
	l.ring.self.Store(news.id)
	l.ring.changed()
	l.background.Go(func() { // the others' rings have a new member
		if err := l.d.jobs.WakeAll(l.inner); err != nil && l.inner.Err() == nil {
			l.d.log.Warn("cannot announce this dispatcher to others; their sweeps stand in", "error", err)
		}
	})
	for _, q := range l.queues {
		q.wanted = true
	}
}

// answers fails if the server does not answer soon.
func answers(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	return conn.Ping(ctx)
}

// lose ends it: all claims are lost. Running handlers are told to stop; their jobs stay in hand, so
// that this process at least does not run them a second time beside them.
func (l *loop) lose(err error) {
	l.d.log.Error("the lock session broke; its claims are lost", "running", l.slots.atWork(), "error", err)
	if l.session != nil {
		l.session.lost.Store(true)
	}
	l.cancelHandlers(ErrSessionLost)
	l.listener.Do(answers) // what broke the one may have broken the other
	for _, q := range l.queues {
		for _, c := range l.slots.withdraw(q, 0) {
			q.hand.drop(c.job.ID)
			l.acquit(c)
		}
	}
	l.session = nil
	l.ring.self.Store(0)
	l.locks, l.release, l.over, l.ended, l.unparked, l.early = 0, nil, nil, nil, nil, nil
	clear(l.batches)
	// An ask that was under way went down with it.
	l.asking = false
	select {
	case <-l.keeper.asks:
	default:
	}
	select {
	case <-l.keeper.answers:
	default:
	}
}
