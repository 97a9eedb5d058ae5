// What operators ask of those who run a job, when nobody hears it.

package store_test

import (
	"slices"
	"testing"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestASweepTellsWhatItsDispatcherWasAskedToCancelAndWhatIsPaused(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	for range 3 {
		put(t, apples, 1)
	}
	session, other := openSession(t, jobs), openSession(t, jobs)
	mine, theirs := claim(t, session, apples, 2), claim(t, other, apples, 1)
	wants := func(when string, asker *store.Session, want ...int64) {
		t.Helper()
		survey, err := jobs.Sweep(t.Context(), asker.ID(), []*store.Queue{apples})
		check(t, err)
		slices.Sort(survey.Cancelled)
		if !slices.Equal(survey.Cancelled, want) {
			t.Errorf("%s: got %v to cancel, want %v", when, survey.Cancelled, want)
		}
	}
	wants("before", session)
	for _, job := range []int64{1, 1, 3} { // the first one twice
		if got := outcomeOf(t, jobs, store.Cancel(), job); got != store.Asked {
			t.Errorf("got %s, want %s", got, store.Asked)
		}
	}
	wants("asked", session, 1)
	wants("asked", other, 3)
	release(t, session, mine)
	mine = claim(t, session, apples, 2)
	wantClaims(t, mine, 1, 2)
	wants("claimed anew, while the batch of before stands", session)
	exec(t, pool, `update pq_dispatch.cancels set asked_at = asked_at - interval '1 hour'`)
	outcomeOf(t, jobs, store.Cancel(), 2)
	if n := one[int](t, pool, `select count(*)::int from pq_dispatch.cancels`); n != 1 {
		t.Errorf("got %d entries, want one: what is over is deleted", n)
	}

	check(t, pause(t, apples))
	survey, err := jobs.Sweep(t.Context(), session.ID(), nil)
	check(t, err)
	if !slices.Equal(survey.Paused, []string{"apples"}) {
		t.Errorf("got %q, want apples to be paused", survey.Paused)
	}
	release(t, session, mine)
	release(t, other, theirs)
}

func pause(t *testing.T, q *store.Queue) error {
	_, err := q.Pause(t.Context(), store.PauseOptions{})
	return err
}

func TestWhatADispatcherWasAskedToCancelBeforeItsDeathIsCancelled(t *testing.T) {
	for _, by := range []string{"its next session", "a peer"} {
		t.Run(by, func(t *testing.T) {
			pool, jobs := open(t)
			apples := jobs.Queue("apples")
			put(t, apples, 1)
			put(t, apples, 2)
			victim := openSession(t, jobs)
			claim(t, victim, apples, 2)
			outcomeOf(t, jobs, store.Cancel(), 1)
			kill(t, pool, victim)
			if by == "a peer" {
				bury(t, jobs, victim, 0)
				wantRows(t, pool, "buried", "2 1 x", "2 1")
				return
			}
			check(t, openSession(t, jobs).Forget(t.Context(), victim.ID()))
			wantRows(t, pool, "forgotten", "1 0 x", "1 0")
		})
	}
}
