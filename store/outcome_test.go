package store_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// A12. What a lost claim leaves behind must not overwrite what came after it.
func TestAnOutcomeOfAnotherAttemptChangesNothing(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	exec(t, pool, `update queue set attempt = 3`)
	before := one[string](t, pool, `select queue::text from queue`)
	for _, attempt := range []int{1, 2, 4, 0, -1} {
		stale := store.Run{ID: id, Attempt: attempt}
		for _, back := range [][]store.Return{nil, {{Run: stale, Reason: "x", Counts: true}}, {{Run: stale, SetAside: true}}} {
			var done []store.Run
			if back == nil {
				done = []store.Run{stale}
			}
			if n, err := jobs.Settle(t.Context(), done, back); n != 0 || err != nil {
				t.Errorf("attempt %d: got %d accepted, %v, want none", attempt, n, err)
			}
		}
		wantError(t, jobs.CompleteTx(t.Context(), pool, stale), store.ErrGone)
	}
	if after := one[string](t, pool, `select queue::text from queue`); after != before {
		t.Errorf("got %s, want %s", after, before)
	}
	settle(t, jobs, []store.Run{{ID: id, Attempt: 3}})
	wantCount(t, pool, 0)
}

// After a failover to a standby that lagged behind, jobs get the ids, and the places, of those that were lost.
func TestAnOutcomeOfALostJobChangesNothingOfTheOneThatGotItsID(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	lost := put(t, apples, "lost")
	old, young := openSession(t, jobs), openSession(t, jobs)
	before := claim(t, old, apples, 1).Jobs[0].Run()
	exec(t, pool, `truncate queue restart identity`)
	kill(t, pool, old)
	id, next := put(t, apples, "another"), put(t, apples, "yet another")
	if id != lost {
		t.Fatalf("got the id %d, want %d again", id, lost)
	}
	for what, accepted := range map[string]func() (int, error){
		"done":   func() (int, error) { return jobs.Settle(t.Context(), []store.Run{before}, nil) },
		"failed": func() (int, error) { return jobs.Settle(t.Context(), nil, []store.Return{{Run: before, Counts: true}}) },
		"set aside": func() (int, error) {
			return jobs.Settle(t.Context(), nil, []store.Return{{Run: before, SetAside: true}})
		},
		"not uncompleted": func() (int, error) {
			ids, err := jobs.Uncompleted(t.Context(), []store.Run{before})
			return len(ids), err
		},
	} {
		if n, err := accepted(); n != 0 || err != nil {
			t.Errorf("%s: got %d and %v, want it not to be accepted", what, n, err)
		}
	}
	wantError(t, jobs.CompleteTx(t.Context(), pool, before), store.ErrGone)

	// Nor when it is written together with outcomes of younger jobs.
	claims := claim(t, young, apples, 2)
	wantClaims(t, claims, id, next)
	if n, err := jobs.Settle(t.Context(), []store.Run{before, claims.Jobs[1].Run()}, nil); n != 1 || err != nil {
		t.Errorf("got %d accepted and %v, want one", n, err)
	}
	if left := column[int64](t, pool, `select id from queue`); !slices.Equal(left, []int64{id}) {
		t.Errorf("got the jobs %d left, want %d", left, id)
	}
	settle(t, jobs, []store.Run{claims.Jobs[0].Run()})
}

func TestSettleDeletesReturnsAndSetsAside(t *testing.T) {
	pool, jobs := open(t)
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), count(6))
	check(t, err)
	exec(t, pool, `update queue set attempt = 2, last_error = 'before' where id >= $1`, ids[1])
	run := func(i int) store.Run { return store.Run{ID: ids[i], Attempt: min(i+1, 2)} }
	settle(t, jobs, []store.Run{run(0), run(1)},
		store.Return{Run: run(2), Reason: "failed", Delay: time.Hour, Counts: true},
		store.Return{Run: run(3), Delay: -time.Second},
		store.Return{Run: run(4), Reason: "out of attempts", SetAside: true, Counts: true},
		store.Return{Run: run(5), Reason: strings.Repeat("é", 1<<16) + "\x00\xff", Delay: 250 * time.Millisecond},
	)
	for i, want := range []string{
		2: `attempt = 3 and last_error = 'failed' and schedule_at - now() between '50m' and '1h' and dequeued_at is null and not set_aside`,
		3: `attempt = 2 and last_error = 'before' and schedule_at < now() and dequeued_at is null`,
		4: `attempt = 2 and last_error = 'out of attempts' and dequeued_at <= now() and set_aside`,
		5: `attempt = 2 and octet_length(last_error) between 8000 and 8200 and schedule_at - enqueued_at < '1m'`,
	} {
		if want != "" && !one[bool](t, pool, `select `+want+` from queue where id = $1`, ids[i]) {
			t.Errorf("job %d: got %s, want %s", i, one[string](t, pool, `select (queue.*)::text from queue where id = $1`, ids[i])[:100], want)
		}
	}
	wantCount(t, pool, 4)
	if n, err := jobs.Settle(t.Context(), nil, nil); n != 0 || err != nil {
		t.Errorf("nothing to settle: got %d, %v", n, err)
	}
	// A job set aside is out of reach of every outcome.
	if n, err := jobs.Settle(t.Context(), []store.Run{run(4)}, []store.Return{{Run: run(4)}}); n != 0 || err != nil {
		t.Errorf("settled a job that is set aside: got %d, %v", n, err)
	}
}

func TestSettleTakesAnyDelayAndReason(t *testing.T) {
	pool, jobs := open(t)
	id := put(t, jobs.Queue("apples"), 1)
	for _, delay := range []time.Duration{0, 1, -1, time.Nanosecond * 999, math.MaxInt64, math.MinInt64} {
		settle(t, jobs, nil, store.Return{Run: store.Run{ID: id, Attempt: 1}, Delay: delay, Reason: "\xff" + strings.Repeat("\x00", 10)})
		if got := one[string](t, pool, `select last_error from queue`); !utf8.ValidString(got) || got != "\uFFFD" {
			t.Errorf("got the reason %q", got)
		}
	}
}

func TestCompletionInTheHandlersTransaction(t *testing.T) {
	pool, jobs := open(t)
	ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), count(3))
	check(t, err)
	runs := []store.Run{{ID: ids[0], Attempt: 1}, {ID: ids[1], Attempt: 1}, {ID: ids[2], Attempt: 1}}
	committed, rolledBack, undecided := begin(t, pool), begin(t, pool), begin(t, pool)
	check(t, jobs.CompleteTx(t.Context(), committed, runs[0]))
	check(t, committed.Commit(t.Context()))
	check(t, jobs.CompleteTx(t.Context(), rolledBack, runs[1]))
	check(t, rolledBack.Rollback(t.Context()))
	check(t, jobs.CompleteTx(t.Context(), undecided, runs[2]))
	left, err := jobs.Uncompleted(t.Context(), runs)
	check(t, err)
	wantIDs(t, "uncompleted", left, ids[1])
	wantError(t, jobs.CompleteTx(t.Context(), begin(t, pool), runs[0]), store.ErrGone)
	left, err = jobs.Uncompleted(t.Context(), []store.Run{{ID: ids[1], Attempt: 2}})
	check(t, err)
	wantIDs(t, "uncompleted, of another attempt", left)
}

// kill ends a session as a crash of its process would, and waits until its locks are free.
func kill(t testing.TB, pool *pgxpool.Pool, session *store.Session) {
	t.Helper()
	terminate(t, pool, pidOf(t, pool, session))
}

func pidOf(t testing.TB, pool *pgxpool.Pool, session *store.Session) uint32 {
	t.Helper()
	return one[uint32](t, pool, `select pid::int8 from pg_locks where locktype = 'advisory' and classid = $1 and objid = $2`,
		uint32(sql.BeaconClass), uint32(session.ID()))
}

func TestBuryCountsTheAttemptsOfTheDead(t *testing.T) {
	pool, jobs := open(t)
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	again := put(t, apples, "runs again")
	last := put(t, apples, "its last attempt", store.MaxAttempts(1))
	finished := put(t, apples, "finished in time")
	failed := put(t, apples, "failed in time")
	exhausted := put(t, pears, "out of the default attempts")
	exec(t, pool, `update queue set attempt = 3 where id = $1`, exhausted)
	untouched := put(t, pears, "not claimed", store.ScheduleAt("1h"))

	victim, survivor := openSession(t, jobs), openSession(t, jobs)
	wantClaims(t, claim(t, victim, apples, 10), again, last, finished, failed)
	wantClaims(t, claim(t, victim, pears, 10), exhausted)
	settle(t, jobs, []store.Run{{ID: finished, Attempt: 1}}, store.Return{Run: store.Run{ID: failed, Attempt: 1}, Counts: true, Reason: "failed"})

	sweep := func() []int32 {
		survey, err := jobs.Sweep(t.Context(), survivor.ID(), []*store.Queue{apples})
		check(t, err)
		return survey.Dead
	}
	if dead, _, err := jobs.Bury(t.Context(), victim.ID(), 3); dead || err != nil || len(sweep()) > 0 {
		t.Fatalf("buried alive: %v, %v", dead, err)
	}
	kill(t, pool, victim)
	if dead := sweep(); !slices.Equal(dead, []int32{victim.ID()}) {
		t.Fatalf("the sweep found the dead %v, want %d", dead, victim.ID())
	}

	listener := connect(t, pool)
	_, err := listener.Exec(t.Context(), `listen `+jobs.Channel())
	check(t, err)
	// Interrupted before its end, it has done nothing.
	tx := begin(t, pool)
	if dead, _, err := jobs.With(tx).Bury(t.Context(), victim.ID(), 3); !dead || err != nil {
		t.Fatalf("bury: got %v, %v", dead, err)
	}
	check(t, tx.Rollback(t.Context()))
	for range 2 { // the second time there is nothing left to do
		if dead, _, err := jobs.Bury(t.Context(), victim.ID(), 3); !dead || err != nil {
			t.Fatalf("bury: got %v, %v", dead, err)
		}
		for id, want := range map[int64]string{
			again:     `attempt = 2 and dequeued_at is null and last_error like '%died%'`,
			last:      `attempt = 1 and set_aside and last_error like '%died%'`,
			failed:    `attempt = 2 and not set_aside and last_error = 'failed'`,
			exhausted: `attempt = 3 and set_aside`,
			untouched: `attempt = 1 and not set_aside and last_error is null`,
		} {
			if !one[bool](t, pool, `select `+want+` from queue where id = $1`, id) {
				t.Errorf("job %d: got %s, want %s", id, one[string](t, pool, `select (queue.*)::text from queue where id = $1`, id), want)
			}
		}
		if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n > 0 || len(sweep()) > 0 {
			t.Errorf("%d rows are left in the ledger", n)
		}
	}
	var heard []string
	for range 2 {
		n, err := listener.WaitForNotification(t.Context())
		check(t, err)
		heard = append(heard, n.Payload)
	}
	slices.Sort(heard)
	if !slices.Equal(heard, []string{"0 apples", "0 pears"}) {
		t.Errorf("heard %q, want both queues woken", heard)
	}
	wantClaims(t, claim(t, survivor, apples, 10), again, failed)
}

func TestBuryLeavesAJobThatAnotherHasClaimedSince(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	taken, free := put(t, apples, 1), put(t, apples, 2)
	victim, heir := openSession(t, jobs), openSession(t, jobs)
	wantClaims(t, claim(t, victim, apples, 2), taken, free)
	kill(t, pool, victim)
	inherited := claim(t, heir, apples, 1)
	wantClaims(t, inherited, taken)
	attempts := func(want ...int) {
		t.Helper()
		if got := column[int](t, pool, `select attempt from queue order by id`); !slices.Equal(got, want) {
			t.Fatalf("got the attempts %v, want %v", got, want)
		}
	}
	for range 2 { // again: nothing is counted twice
		if dead, _, err := jobs.Bury(t.Context(), victim.ID(), 5); !dead || err != nil {
			t.Fatalf("bury: got %v, %v", dead, err)
		}
		attempts(1, 2)
	}
	settle(t, jobs, []store.Run{{ID: taken, Attempt: 1}}) // the heir's outcome is accepted
	release(t, heir, inherited)
	_, _, err := jobs.Bury(t.Context(), victim.ID(), 5)
	check(t, err)
	attempts(2)
	if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n > 0 {
		t.Errorf("%d rows are left in the ledger", n)
	}
}

func TestForgetClearsTheLedgerWithoutCounting(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	broken, other := openSession(t, jobs), openSession(t, jobs)
	claim(t, broken, apples, 1)
	kill(t, pool, broken)
	next := openSession(t, jobs)
	check(t, next.Forget(t.Context(), broken.ID()))
	survey, err := jobs.Sweep(t.Context(), other.ID(), []*store.Queue{apples})
	if len(survey.Dead) > 0 || err != nil {
		t.Errorf("the sweep found the dead %v, %v, want none", survey.Dead, err)
	}
	got := claim(t, next, apples, 1)
	wantClaims(t, got, id)
	if got.Jobs[0].Attempt != 1 {
		t.Errorf("got attempt %d, want 1", got.Jobs[0].Attempt)
	}
}
