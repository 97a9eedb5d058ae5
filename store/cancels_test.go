// What operators ask of those who run a job, when nobody hears it.

package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestASweepTellsWhatItsDispatcherWasAskedToCancel(t *testing.T) {
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
	wantClaims(t, mine, 2) // the other one waited again, and is cancelled
	wants("claimed anew, while the batch of before stands", session)
	exec(t, pool, `update pq_dispatch.cancels set asked_at = asked_at - interval '1 hour'`)
	outcomeOf(t, jobs, store.Cancel(), 2)
	if n := one[int](t, pool, `select count(*)::int from pq_dispatch.cancels`); n != 1 {
		t.Errorf("got %d entries, want one: what is over is deleted", n)
	}
	release(t, session, mine)
	release(t, other, theirs)
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

// The claim has the job's lock, and is not done yet.
func TestACancelThatFallsIntoAClaimIsAskedOfIt(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	session := openSession(t, jobs)
	tx, err := pool.Begin(t.Context())
	check(t, err)
	_, err = tx.Exec(t.Context(), `lock table pq_dispatch.ledger in share mode`) // it comes there after the lock
	check(t, err)
	claimed := make(chan store.Claims, 1)
	go func() {
		c, _ := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1})
		claimed <- c
	}()
	eventually(t, pool, `select exists (
		select from pg_locks
		where locktype = 'relation' and not granted and database = (select oid from pg_database where datname = current_database()))`)
	if got := outcomeOf(t, jobs, store.Cancel(), id); got != "asked" {
		t.Errorf("got %q, want it asked for", got)
	}
	check(t, tx.Commit(t.Context()))
	wantClaims(t, <-claimed, id)
	survey, err := jobs.Sweep(t.Context(), session.ID(), nil)
	check(t, err)
	if !slices.Equal(survey.Cancelled, []int64{id}) {
		t.Errorf("got %d to cancel, want %d", survey.Cancelled, id)
	}
}

// The batch of a job that came back stands in the ledger, for another, until its dispatcher dies.
func TestABurialDoesNotCancelWhatWasRetriedSince(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id, _ := put(t, apples, 1), put(t, apples, 2)
	first, second := openSession(t, jobs), openSession(t, jobs)
	wantClaims(t, claim(t, first, apples, 1+1), id, id+1)
	_, err := first.Claim(t.Context(), store.ClaimRequest{Release: []int64{id}})
	check(t, err)
	theirs := claim(t, second, apples, 1)
	wantClaims(t, theirs, id)
	if got := outcomeOf(t, jobs, store.Cancel(), id); got != "asked" {
		t.Errorf("got %q, want it asked for", got)
	}
	settle(t, jobs, nil, store.Return{Run: theirs.Jobs[0].Run(), SetAside: true, Reason: "cancelled"})
	release(t, second, theirs)
	if got := outcomeOf(t, jobs, store.Retry(false), id); got != "retried" {
		t.Errorf("got %q, want it retried", got)
	}
	kill(t, pool, first)
	bury(t, jobs, first, 0)
	if one[bool](t, pool, `select set_aside from queue where id = $1`, id) {
		t.Error("it was cancelled a second time")
	}
}

// To cancel, and then to retry, is to ask for another run. The retry comes while its dispatcher gives the job up.
func TestARetryIsNotTakenBackByTheReleaseOfACancelledJob(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	session := openSession(t, jobs)
	claims := claim(t, session, apples, 1)
	wantClaims(t, claims, id)
	if got := outcomeOf(t, jobs, store.Cancel(), id); got != store.Asked {
		t.Errorf("got %q, want it asked for", got)
	}
	settle(t, jobs, nil, store.Return{Run: claims.Jobs[0].Run(), SetAside: true, Reason: "cancelled"})

	gate, err := pool.Begin(t.Context())
	check(t, err)
	exec(t, gate, `lock table pq_dispatch.cancels in access exclusive mode`)
	const waiting = `select count(*) = $1 from pg_locks
		where locktype = 'relation' and not granted and database = (select oid from pg_database where datname = current_database())`
	released, retried := make(chan error, 1), make(chan string, 1)
	go func() {
		_, err := session.Claim(t.Context(), store.ClaimRequest{Release: []int64{id}})
		released <- err
	}()
	eventually(t, pool, waiting, 1)
	operator, err := pool.Begin(t.Context())
	check(t, err)
	go func() {
		var outcome string
		_ = operator.QueryRow(t.Context(), `select outcome from pq_dispatch.retry(array[$1::bigint])`, id).Scan(&outcome)
		retried <- outcome
	}()
	eventually(t, pool, waiting, 2)
	check(t, gate.Commit(t.Context()))
	outcome := <-retried
	if outcome == "retried" { // then the release may be waiting for its end
		time.Sleep(100 * time.Millisecond)
	}
	check(t, operator.Commit(t.Context()))
	check(t, <-released)
	if outcome != "retried" { // it may have found the job running, or let go in between
		outcome = string(outcomeOf(t, jobs, store.Retry(false), id))
	}
	if outcome != "retried" {
		t.Errorf("got %q, want it retried", outcome)
	}
	if n := one[int](t, pool, `select count(*)::int from pq_dispatch.cancels`); n != 0 {
		t.Error("the next run is to be cancelled")
	}
	wantClaims(t, claim(t, session, apples, 1), id)
}
