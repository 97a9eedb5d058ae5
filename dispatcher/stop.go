// How the loop ends.

package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrStuck is matched by the error of Run when handlers went on after their contexts had ended.
var ErrStuck = errors.New("handlers ignored the end of their context")

func (l *loop) cancelHandlers(cause error) {
	if l.session != nil {
		l.session.cancel(cause)
	}
}

// stop begins the graceful end: claim no more, and give back at once what has not been started.
func (l *loop) stop() {
	l.stopping = true
	l.getUp()
	for _, q := range l.queues {
		l.handBack(q, 0)
	}
}

// handBack gives back all but the first keep of the queue's jobs that have not been started, and tells
// whether there were any.
func (l *loop) handBack(q *queue, keep int) bool {
	rest := l.slots.withdraw(q, keep)
	l.giveBack(q, rest)
	return len(rest) > 0
}

// giveBack ends claims whose jobs are to be run later, or elsewhere.
func (l *loop) giveBack(q *queue, claims []*claim) {
	for _, c := range claims {
		l.drop(c)
		l.returning[q] = true
		q.place.rewind(c.job.ID)
	}
}

// wakeOthers tells the other processes of jobs that were handed back, now that they are unlocked.
func (l *loop) wakeOthers() {
	for q := range l.returning {
		l.call(q)
	}
	clear(l.returning)
}

// call wakes the other processes that handle the queue.
func (l *loop) call(q *queue) {
	l.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.inner), farewell)
		defer cancel()
		if err := q.how.Load().source.Wake(ctx); err != nil {
			l.d.log.Warn("cannot wake others; their sweep finds the jobs", "queue", q.name, "error", err)
		}
	})
}

// atRest tells whether nothing is left to be done: a stopping dispatcher may go.
func (l *loop) atRest() bool {
	return l.slots.empty() && !l.settling && l.alone == 0 &&
		(l.session == nil || l.forsaken || !l.asking && len(l.release)+len(l.over)+len(l.ended)+len(l.unparked) == 0)
}

// abandon gives up on what did not end in time.
func (l *loop) abandon() error {
	if l.slots.atWork() == 0 {
		return errors.New("dispatcher: stopped before the database had taken all outcomes; their jobs will run again")
	}
	var names []string
	for _, q := range l.queues {
		for _, c := range l.slots.running(q) {
			names = append(names, fmt.Sprintf("job %d of %s", c.job.ID, q.name))
		}
	}
	slices.Sort(names)
	return fmt.Errorf("dispatcher: %w: %s", ErrStuck, strings.Join(names, ", "))
}
