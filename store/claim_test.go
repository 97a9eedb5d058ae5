// What a claim does that stands still between its two readings, stops at a limit, leaps, finds suspects, a
// pause, a full lock table, or ids of any size.

package store_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// gateKey is the lock at which a session stands still that was opened by openGated.
const gateKey = 4711

// openGated opens a lock session that stands still in its next claim, after it has locked the jobs and before it
// reads them again, for as long as the gate's lock is held: in a trigger on the ledger, written in between.
func openGated(t *testing.T, pool *pgxpool.Pool) *store.Session {
	t.Helper()
	exec(t, pool, `
		create or replace function stand_still() returns trigger language plpgsql as $$
		begin
		  if current_setting('test.gate', true) = 'on' then
		    perform set_config('test.gate', 'off', false);
		    perform pg_advisory_xact_lock(4711);
		  end if;
		  return new;
		end $$;
		create or replace trigger stand_still before insert on pq_dispatch.ledger for each row execute function stand_still()`)
	config := pool.Config().ConnConfig
	config.RuntimeParams["test.gate"] = "on"
	return openSession(t, store.New(pool, store.Options{Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, config) }}))
}

// between carries out a request of a gated session, and calls do between its two readings.
func between(t *testing.T, pool *pgxpool.Pool, session *store.Session, r store.ClaimRequest, do func()) store.Claims {
	t.Helper()
	gate := begin(t, pool)
	exec(t, gate, `select pg_advisory_xact_lock($1)`, gateKey)
	done := make(chan store.Claims, 1)
	go func() {
		defer close(done)
		claims, err := session.Claim(t.Context(), r)
		if err != nil {
			t.Error(err)
		}
		done <- claims
	}()
	eventually(t, pool, `select exists (select from pg_locks where locktype = 'advisory' and not granted)`)
	do()
	check(t, gate.Rollback(t.Context()))
	return <-done
}

// What others do to a row while its lock is taken: jobs that are finished or changed must not be given, and all
// that was locked must be told.
func TestAClaimGivesOnlyWhatStandsUnchangedSinceItWasLocked(t *testing.T) {
	for name, test := range map[string]struct {
		do   string // to the second of three jobs
		gone bool   // it is not given
		back bool   // but by the next claim
	}{
		"nothing":                      {do: `select $1::bigint`},
		"deleted":                      {do: `delete from queue where id = $1`, gone: true},
		"dequeued, as by pq":           {do: `update queue set dequeued_at = now() where id = $1`, gone: true},
		"moved to another queue":       {do: `update queue set q_name = 'pears' where id = $1`, gone: true},
		"put off":                      {do: `update queue set schedule_at = now() + '1h' where id = $1`, gone: true},
		"made due by another index":    {do: `update queue set schedule_at = now() - '1h'::interval where id = $1`, gone: true, back: true},
		"given a priority":             {do: `update queue set expected_at = now() where id = $1`, gone: true, back: true},
		"failed":                       {do: `update queue set attempt = attempt + 1 where id = $1`, gone: true, back: true},
		"given another text, in place": {do: `update queue set metadata = '{}' where id = $1`, gone: true, back: true}, // HOT: no index knows
		"given another id":             {do: `update queue set id = id + 1000 where id = $1`, gone: true},
		"updated without effect":       {do: `update queue set id = id where id = $1`, gone: true, back: true},
	} {
		for _, after := range []int64{0, 1} {
			t.Run(fmt.Sprintf("%s, after %d", name, after), func(t *testing.T) {
				pool, jobs := open(t)
				apples := jobs.Queue("apples")
				put(t, apples, 0)
				ids := []int64{put(t, apples, 1), put(t, apples, 2), put(t, apples, 3)}
				exec(t, pool, `delete from queue where id < $1`, ids[0])
				slow := openGated(t, pool)
				got := between(t, pool, slow, store.ClaimRequest{Queue: apples, Want: 10, After: after}, func() {
					exec(t, pool, test.do, ids[1])
				})
				want, gone := ids, []int64(nil)
				if test.gone {
					want, gone = []int64{ids[0], ids[2]}, ids[1:2]
				}
				wantIDs(t, "claim", slices.Sorted(slices.Values(idsOf(got.Jobs))), want...)
				wantIDs(t, "gone", got.Gone, gone...)
				wantIDs(t, "locks", jobLocks(t, pool), ids...)
				_, err := slow.Claim(t.Context(), store.ClaimRequest{Release: got.Gone})
				check(t, err)
				if test.back {
					again, err := slow.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10, Held: idsOf(got.Jobs)})
					check(t, err)
					wantClaims(t, again, ids[1])
					release(t, slow, again)
				}
				got.Gone = nil
				release(t, slow, got)
				wantIDs(t, "locks after the release", jobLocks(t, pool))
				if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n > 0 {
					t.Errorf("%d rows are left in the ledger", n)
				}
			})
		}
	}
}

// A place in the table that is free may go to another row at once.
func TestACompletionDeletesNoOtherJobThatHasTakenTheRowsPlace(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	const n = 10
	ids, err := store.PutMany(t.Context(), apples, count(n))
	check(t, err)
	claims := claim(t, session, apples, n)
	wantClaims(t, claims, ids...)
	runs := make(map[int64]store.Run, n)
	for _, job := range claims.Jobs {
		runs[job.ID] = job.Run()
	}
	places := func() map[string]int64 {
		t.Helper()
		m := map[string]int64{}
		for _, line := range column[string](t, pool, `select ctid::text || ' ' || id from queue`) {
			var id int64
			place, rest, _ := strings.Cut(line, " ")
			_, err := fmt.Sscan(rest, &id)
			check(t, err)
			m[place] = id
		}
		return m
	}
	before := places()
	exec(t, pool, `delete from queue where id <= $1`, ids[3])                     // their places become free
	exec(t, pool, `update queue set metadata = '{}' where id = $1`, ids[4])       // moves
	exec(t, pool, `update queue set attempt = attempt + 1 where id = $1`, ids[5]) // failed, by someone else
	exec(t, pool, `vacuum queue`)
	others, err := store.PutMany(t.Context(), apples, count(8))
	check(t, err)
	// Two jobs of the batch change places, too: a row and its id may both be known, but not to each other.
	exec(t, pool, `update queue set id = case id when $1 then $2 else $1 end + 1000000 where id in ($1, $2)`, ids[6], ids[7])
	exec(t, pool, `update queue set id = id - 1000000 where id > 1000000`)
	taken := 0
	for place, id := range places() {
		if was, known := before[place]; known && was != id {
			taken++
		}
	}
	if taken == 0 {
		t.Fatal("no place was taken by another row: the test has shown nothing")
	}
	var done []store.Run
	for _, id := range ids {
		done = append(done, runs[id])
	}
	accepted, err := jobs.Settle(t.Context(), done, nil)
	check(t, err)
	if want := 5; accepted != want { // 4, and 6 to 9
		t.Errorf("%d outcomes were accepted, want %d", accepted, want)
	}
	wantIDs(t, "left", column[int64](t, pool, `select id from queue order by id`), append([]int64{ids[5]}, others...)...)
	release(t, session, claims)
}

// noise is a job's data of so many bytes, which no compression makes smaller.
func noise(t testing.TB, pool *pgxpool.Pool, bytes int) string {
	t.Helper()
	return one[string](t, pool, `select string_agg(substr(md5(random()::text), 1, 32), '') from generate_series(1, $1)`, (bytes+31)/32)[:bytes]
}

func TestAClaimStopsAtItsBytesAndHoldsNoMore(t *testing.T) {
	pool, jobs := open(t)
	session := openSession(t, jobs)
	sizes := []int{1000, 1, 1, 30_000, 1, 5000, 1, 1, 1, 100_000, 1, 1}
	for _, test := range []struct {
		name       string
		from, most int64 // from: 0, the head; else behind the first
		jobs       int   // of those that can be had
		more       bool
	}{
		{"one byte is one job", 0, 1, 1, true},
		{"one byte is one job, after the first", 1, 1, 1, true},
		{"the one that goes beyond is among them, from the head", 0, 20_000, 4, true},
		{"only what fits, after the first", 1, 20_000, 2, true},
		{"large ones in between, after the first", 1, 60_000, 8, true},
		{"all fit", 0, 1 << 20, len(sizes), false},
		{"all fit, after the first", 1, 1 << 20, len(sizes) - 1, false},
		{"not said", 0, 0, len(sizes), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			apples := jobs.Queue(test.name)
			var ids []int64
			for _, size := range sizes {
				ids = append(ids, put(t, apples, noise(t, pool, size)))
			}
			after := test.from * ids[0]
			want := ids[test.from:][:test.jobs]
			claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 100, Bytes: test.most, After: after})
			check(t, err)
			wantClaims(t, claims, want...)
			if claims.More != test.more {
				t.Errorf("there are more: got %v, want %v", claims.More, test.more)
			}
			wantIDs(t, "locks", jobLocks(t, pool), want...)
			if got := one[int](t, pool, `select cardinality(ids) from pq_dispatch.ledger`); got != len(want) {
				t.Errorf("got %d jobs in the ledger, want %d", got, len(want))
			}
			release(t, session, claims)
			wantIDs(t, "locks after the release", jobLocks(t, pool))
		})
	}
}

// A claim may begin before its position, where others hold jobs: that is no reason to leap over what comes after it.
func TestAClaimThatBeginsBeforeItsPositionLeapsOverNothingAfterIt(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(600))
	check(t, err)
	first, second := openSession(t, jobs), openSession(t, jobs)
	others := claim(t, first, apples, 300)
	wantClaims(t, others, ids[:300]...)
	var held []int64
	for _, test := range []struct{ after, back, want int }{
		{299, 256, 300},
		{299, 1, 301},
		{310, 5, 306},
		{400, 50, 351},
		{400, 0, 401},
	} {
		claims, err := second.Claim(t.Context(), store.ClaimRequest{
			Queue: apples, Want: 1, After: ids[test.after], Back: int64(test.back), Held: held,
		})
		check(t, err)
		wantClaims(t, claims, ids[test.want])
		held = append(held, ids[test.want])
	}
	// Where a step begins before the position and ends behind it, and what it tries is all taken, or one is not.
	third := openSession(t, jobs)
	for _, from := range []int{402, 502} {
		theirs, err := first.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 15, After: ids[from], Held: idsOf(others.Jobs)})
		check(t, err)
		wantIDs(t, "theirs", slices.Sorted(slices.Values(idsOf(theirs.Jobs))), ids[from+1:from+16]...)
		if from == 502 {
			_, err := first.Claim(t.Context(), store.ClaimRequest{Release: ids[from+6 : from+7]})
			check(t, err)
		}
		claims, err := third.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 8, After: ids[from+8], Back: 4})
		check(t, err)
		want := ids[from+16 : from+24]
		if from == 502 {
			want = append([]int64{ids[from+6]}, want[:7]...)
		}
		wantIDs(t, "claim", slices.Sorted(slices.Values(idsOf(claims.Jobs))), want...)
	}
}

// Whatever leaps and limits leave behind, claims from the head find.
func TestClaimsFromAPositionAndFromTheHeadFindAllTogether(t *testing.T) {
	pool, jobs := open(t)
	const n = 6000
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(n))
	check(t, err)
	first, second := openSession(t, jobs), openSession(t, jobs)
	others := claim(t, first, apples, 3000)
	wantClaims(t, others, ids[:3000]...)
	// It steps over what the other one has, and not row by row.
	claims, err := second.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 500, After: ids[0]})
	check(t, err)
	if len(claims.Jobs) != 500 || len(claims.Gone) > 0 {
		t.Fatalf("claimed %d jobs, and %v were gone, want 500", len(claims.Jobs), claims.Gone)
	}
	got := idsOf(claims.Jobs)
	slices.Sort(got)
	if got[0] <= ids[2999] || got[len(got)-1]-got[0] != 499 {
		t.Errorf("claimed the jobs %d to %d, want 500 in a row beyond %d", got[0], got[len(got)-1], ids[2999])
	}
	rest := claim(t, second, apples, n, got...)
	if all := append(append(idsOf(rest.Jobs), got...), ids[:3000]...); true {
		slices.Sort(all)
		wantIDs(t, "all that was claimed", all, ids...)
	}
	wantIDs(t, "locks", jobLocks(t, pool), ids...)
	for session, claims := range map[*store.Session][]store.Claims{first: {others}, second: {claims, rest}} {
		for _, c := range claims {
			release(t, session, c)
		}
	}
	wantIDs(t, "locks at the end", jobLocks(t, pool))
	// Behind the last there is nothing, and it says so.
	if c, err := second.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1, After: ids[n-1]}); err != nil || len(c.Jobs) > 0 || c.More {
		t.Errorf("behind the last: got %+v, %v, want nothing", c, err)
	}
}

func TestSuspectsAreClaimedOneAtATimeFromTheHeadAndBesideNoWitness(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	ids, err := store.PutMany(t.Context(), apples, count(6))
	check(t, err)
	exec(t, pool, `update queue set deaths = 2 where id = any ($1)`, []int64{ids[0], ids[3], ids[4]})
	exec(t, pool, `update queue set deaths = 1 where id = $1`, ids[1])
	ask := func(witnesses, suspects bool, after int64) store.Claims {
		t.Helper()
		c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10, Witnesses: witnesses, Suspects: suspects, After: after})
		check(t, err)
		return c
	}
	for _, test := range []struct {
		witnesses, suspects bool
		after               int64
		want                []int64
		waits               bool
	}{
		{false, false, 0, []int64{ids[2], ids[5]}, true},
		{true, false, 0, []int64{ids[1], ids[2], ids[5]}, true},
		{false, true, 0, []int64{ids[0], ids[2], ids[5]}, true}, // another one
		{true, true, 0, []int64{ids[0], ids[2], ids[5]}, true},  // the first in order, and so no witness
		{true, true, ids[0], []int64{ids[1], ids[2], ids[5]}, false},
		{true, false, ids[0], []int64{ids[1], ids[2], ids[5]}, false},
		{false, true, ids[0], []int64{ids[2], ids[5]}, false},
	} {
		c := ask(test.witnesses, test.suspects, test.after)
		wantClaims(t, c, test.want...)
		wantIDs(t, "locks", jobLocks(t, pool), test.want...)
		if c.Suspect != test.waits {
			t.Errorf("%+v: a suspect waits: got %v", test, c.Suspect)
		}
		for _, job := range c.Jobs {
			if want := job.ID == ids[0]; job.Suspect() != want {
				t.Errorf("job %d with %d deaths: suspect %v, want %v", job.ID, job.Deaths, job.Suspect(), want)
			}
		}
		release(t, session, c)
	}
	// Another process takes the witness when the first suspect is in hand, and then no suspect.
	mine := ask(true, true, 0)
	other := openSession(t, jobs)
	theirs, err := other.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10, Witnesses: true, Suspects: true})
	check(t, err)
	wantClaims(t, theirs, ids[1])
	release(t, other, theirs)
	// Where there is none, it takes the next suspect.
	settle(t, jobs, []store.Run{theirs.Jobs[0].Run()})
	theirs, err = other.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10, Witnesses: true, Suspects: true})
	check(t, err)
	wantClaims(t, theirs, ids[3])
	// And one is no suspect any more when a run of it has come to an end.
	settle(t, jobs, nil, store.Return{Run: store.Run{ID: ids[3], Attempt: 1}, Counts: true})
	if deaths := one[int](t, pool, `select deaths from queue where id = $1`, ids[3]); deaths != 0 {
		t.Errorf("got %d deaths after a run that failed, want 0", deaths)
	}
	release(t, session, mine)
	release(t, other, theirs)
}

// Else it would be taken for one that fewer processes have died of than those that ran beside it.
func TestAWitnessIsNotClaimedBeforeTheNextDeathIsCounted(t *testing.T) {
	for _, test := range []struct {
		name   string
		deaths int
		after  int64
		want   bool
	}{
		{"a first death", 0, 0, true}, // waits for nothing
		{"a witness, from the head", 1, 0, false},
		{"a witness, from a position", 1, -1, false},
		{"a suspect", 2, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool, jobs := open(t)
			apples := jobs.Queue("apples")
			id := put(t, apples, 1)
			exec(t, pool, `update queue set deaths = $1`, test.deaths)
			victim, heir := openSession(t, jobs), openSession(t, jobs)
			wantClaims(t, claim(t, victim, apples, 1), id)
			kill(t, pool, victim)
			early, err := heir.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1, Witnesses: true, Suspects: true, After: test.after})
			check(t, err)
			if test.want {
				wantClaims(t, early, id)
				return
			}
			wantClaims(t, early)
			bury(t, jobs, victim, 0)
			wantClaims(t, claim(t, heir, apples, 1), id)
		})
	}
}

// Ids that no sequence makes, but anyone may insert.
func TestJobsOfAnyIDAreClaimedOnceAndCompleted(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	session := openSession(t, jobs)
	ids := []int64{math.MinInt64, -1 << 32, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<33 + 5, math.MaxInt64}
	exec(t, pool, `insert into queue (id, q_name, data) select id, 'apples', '1' from unnest($1::bigint[]) id`, ids)
	got := claim(t, session, apples, 100)
	wantClaims(t, got, ids...)
	if got.More {
		t.Error("there are said to be more")
	}
	again := claim(t, session, apples, 100, ids...)
	wantClaims(t, again)
	keys := map[int64]bool{} // some share one
	for _, id := range ids {
		keys[id&math.MaxUint32] = true
	}
	wantIDs(t, "locks", jobLocks(t, pool), slices.Sorted(maps.Keys(keys))...)
	var runs []store.Run
	for _, job := range got.Jobs {
		runs = append(runs, job.Run())
	}
	settle(t, jobs, runs)
	release(t, session, got)
	wantIDs(t, "locks at the end", jobLocks(t, pool))
	wantCount(t, pool, 0)

	// Leaps go as far as the last, and no further, while others have all of them.
	exec(t, pool, `insert into queue (id, q_name, data) select $1::bigint - i, 'apples', '1' from generate_series(0, 199) i`, int64(math.MaxInt64))
	other := openSession(t, jobs)
	all := claim(t, other, apples, 200)
	c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 10, After: math.MaxInt64 - 150})
	check(t, err)
	wantClaims(t, c)
	release(t, other, all)
}

// What is over is unlocked after the claim, which must not wait for it, and not be told of it.
func TestAClaimAlsoGivesUpWhatIsOver(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(6))
	check(t, err)
	session := openSession(t, jobs)
	first := claim(t, session, apples, 3)
	if accepted, err := jobs.Settle(t.Context(), []store.Run{first.Jobs[0].Run(), first.Jobs[1].Run()}, nil); accepted != 2 || err != nil {
		t.Fatalf("got %d, %v", accepted, err)
	}
	second, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 2, Held: ids[2:3], Over: ids[:2]})
	check(t, err)
	wantClaims(t, second, ids[3:5]...)
	wantIDs(t, "locks", jobLocks(t, pool), ids[2:5]...)
	third, err := session.Claim(t.Context(), store.ClaimRequest{ // one that turned out not to be: it is claimed again, and given up once
		Queue: apples, Want: 2, Held: ids[3:5], Over: ids[2:3], Ended: []int64{first.Batch},
	})
	check(t, err)
	wantClaims(t, third, ids[2], ids[5])
	wantIDs(t, "locks", jobLocks(t, pool), ids[2:6]...)
	release(t, session, second)
	release(t, session, third)
	wantIDs(t, "locks at the end", jobLocks(t, pool))
}

// A6, for a claim that tries many locks in one statement.
func TestAClaimFromAPositionKeepsNothingWhenTheLockTableIsFull(t *testing.T) {
	pool, jobs := openServer(t, map[string]string{
		"max_locks_per_transaction": "10", "max_connections": "10", "max_worker_processes": "2",
		"autovacuum_max_workers": "1", "max_wal_senders": "0", "wal_level": "minimal",
	})
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(20_000))
	check(t, err)
	session := openSession(t, jobs)
	before, behind := claim(t, session, apples, 5), store.Claims{}
	for _, start := range []int{4, 5000} {
		request := store.ClaimRequest{Queue: apples, Want: len(ids), After: ids[start]}
		if start == 4 { // some in hand are ahead of the position, too
			behind, err = session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 3, After: ids[9]})
			check(t, err)
			wantClaims(t, behind, ids[10:13]...)
			request.Held = idsOf(behind.Jobs)
		}
		_, err = session.Claim(t.Context(), request)
		wantError(t, err, store.ErrLockTable)
		want := append(slices.Clone(ids[:5]), ids[10:13]...)
		wantIDs(t, fmt.Sprintf("locks after a claim behind the %dth", start+1), jobLocks(t, pool), want...)
	}
	put(t, jobs.Queue("pears"), "others go on")
	release(t, session, behind)
	release(t, session, before)
	wantIDs(t, "locks at the end", jobLocks(t, pool))
}

func TestAPausedQueueGivesNothingAndTellsWhenItEnds(t *testing.T) {
	pool, jobs := open(t)
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	session := openSession(t, jobs)
	id := put(t, apples, 1)
	put(t, apples, 2, store.ScheduleAt("1m")) // sooner than the end of the pause
	pear := put(t, pears, 1)
	outlook := func() store.Outlook {
		t.Helper()
		s, err := jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples})
		check(t, err)
		return s.Outlooks[0]
	}
	if o := outlook(); !o.Due || o.NextDue > time.Minute {
		t.Errorf("before the pause: got %+v, want a job due, and one within a minute", o)
	}
	for _, test := range []struct {
		pause       store.PauseOptions
		least, most time.Duration
	}{
		{store.PauseOptions{For: time.Hour}, 59 * time.Minute, time.Hour},
		{store.PauseOptions{}, -1, -1}, // without end
	} {
		_, err := apples.Pause(t.Context(), test.pause)
		check(t, err)
		for _, after := range []int64{0, id - 1} {
			c, err := session.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1, After: after, Park: true})
			check(t, err)
			if wantClaims(t, c); c.NextDue < test.least || c.NextDue > test.most {
				t.Errorf("%+v: a claim after %d says %v until there is more, want %v to %v", test.pause, after, c.NextDue, test.least, test.most)
			}
		}
		if o := outlook(); o.Due || o.NextDue < test.least || o.NextDue > test.most {
			t.Errorf("%+v: the sweep says %+v, want nothing due, and %v to %v", test.pause, o, test.least, test.most)
		}
		if job := get(t, apples); job != nil {
			t.Errorf("%+v: got %v", test.pause, job)
		}
	}
	c := claim(t, session, pears, 1)
	wantClaims(t, c, pear)
	release(t, session, c)
	exec(t, pool, `update pq_dispatch.pauses set until = now()`)
	if o := outlook(); !o.Due || o.NextDue > time.Minute {
		t.Errorf("after the pause: got %+v, want a job due, and one within a minute", o)
	}
	c = claim(t, session, apples, 1)
	wantClaims(t, c, id)
	release(t, session, c)
}

// model is what has to be true of jobs while sessions claim and complete them and others change them.
type model struct {
	due      map[int64]bool // in the table, and due
	attempts map[int64]int  // of the jobs in the table
	holders  map[int64]int  // which session holds it
	finished map[int64]bool // completed: never to be seen again
}

// TestNoJobIsEverHeldTwiceOrLost has three sessions claim, complete, fail, hand back and die, in any way, while
// jobs are put, deleted and updated by others.
func TestNoJobIsEverHeldTwiceOrLost(t *testing.T) {
	pool, jobs := open(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		apples := jobs.Queue(fmt.Sprint("apples ", round))
		const sessions = 3
		type hand struct {
			job   *store.Job
			batch int64
		}
		var open [sessions]*store.Session
		held := [sessions]map[int64]hand{}
		left := [sessions]map[int64]int{} // of each batch, how many
		position := [sessions]int64{}
		m := model{map[int64]bool{}, map[int64]int{}, map[int64]int{}, map[int64]bool{}}
		for i := range open {
			session, err := jobs.OpenSession(t.Context())
			check(t, err)
			open[i], held[i], left[i] = session, map[int64]hand{}, map[int64]int{}
		}
		defer func() {
			for _, session := range open {
				session.Close(t.Context())
			}
		}()
		var dead []int32
		look := func() { // at whom a burial has blamed, which is another test's business
			for id := range m.attempts {
				m.attempts[id] = one[int](t, pool, `select attempt from queue where id = $1`, id)
			}
		}
		ids := func(i int) []int64 { return slices.Sorted(maps.Keys(held[i])) }
		claimed := func(i int, r store.ClaimRequest) store.Claims {
			r.Queue = apples
			for id, h := range held[i] {
				if r.After == 0 || id > r.After || !h.job.ScheduleAt.IsZero() || !h.job.ExpectedAt.IsZero() {
					r.Held = append(r.Held, id)
				}
			}
			c, err := open[i].Claim(t.Context(), r)
			check(t, err)
			if len(c.Gone) > 0 {
				rt.Fatalf("gone without anyone between: %v", c.Gone)
			}
			if len(c.Jobs) > 0 {
				left[i][c.Batch] = len(c.Jobs)
			}
			var again store.ClaimRequest
			for _, job := range c.Jobs {
				if _, ours := held[i][job.ID]; ours && r.After > 0 && !job.ExpectedAt.IsZero() {
					// Someone has given it a priority since, so that a claim from a position came upon it: our own
					// lock was granted a second time.
					again.Release = append(again.Release, job.ID)
					if left[i][c.Batch]--; left[i][c.Batch] == 0 {
						again.Ended = []int64{c.Batch}
					}
					continue
				}
				if holder, twice := m.holders[job.ID]; twice {
					rt.Fatalf("session %d was given job %d, which session %d has", i, job.ID, holder)
				}
				if m.finished[job.ID] || !m.due[job.ID] || job.Attempt != m.attempts[job.ID] {
					rt.Fatalf("session %d was given %v: finished %v, due %v, at attempt %d", i, job, m.finished[job.ID], m.due[job.ID], m.attempts[job.ID])
				}
				m.holders[job.ID] = i
				held[i][job.ID] = hand{job, c.Batch}
				if job.ScheduleAt.IsZero() && job.ExpectedAt.IsZero() {
					position[i] = max(position[i], job.ID)
				}
			}
			_, err = open[i].Claim(t.Context(), again)
			check(t, err)
			return c
		}
		// drop gives up claims, and asks for more in the same breath.
		drop := func(i int, drop []int64, r store.ClaimRequest) {
			for _, id := range drop {
				batch := held[i][id].batch
				delete(held[i], id)
				delete(m.holders, id)
				if left[i][batch]--; left[i][batch] == 0 {
					r.Ended = append(r.Ended, batch)
				}
			}
			if rapid.Bool().Draw(rt, "as over") {
				r.Over = drop
			} else {
				r.Release = drop
			}
			claimed(i, r)
		}
		some := func(of []int64) []int64 {
			if len(of) == 0 {
				return nil
			}
			n := rapid.IntRange(1, len(of)).Draw(rt, "how many")
			return slices.Clone(rapid.Permutation(of).Draw(rt, "which")[:n])
		}
		request := func(i int) store.ClaimRequest {
			r := store.ClaimRequest{
				Want:      rapid.SampledFrom([]int{0, 1, 3, 100}).Draw(rt, "want"),
				Witnesses: rapid.Bool().Draw(rt, "witnesses"),
				Suspects:  rapid.Bool().Draw(rt, "suspects"),
				Bytes:     rapid.SampledFrom([]int64{0, 1, 200}).Draw(rt, "bytes"),
			}
			if rapid.Bool().Draw(rt, "from its position") {
				r.After = position[i]
			}
			return r
		}
		session := func() int { return rapid.IntRange(0, sessions-1).Draw(rt, "session") }
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(*rapid.T) {
				n := rapid.IntRange(1, 80).Draw(rt, "jobs")
				kind := rapid.SampledFrom([]string{"null, null", "now() - '1h'::interval, null", "null, now()", "now() + '1h'::interval, null"}).Draw(rt, "kind")
				for _, id := range column[int64](t, pool, `insert into queue (q_name, data, schedule_at, expected_at)
					select $1, to_jsonb(i), `+kind+` from generate_series(1, $2) i returning id`, apples.Name(), n) {
					m.due[id], m.attempts[id] = !strings.Contains(kind, "+"), 1
				}
			},
			"claim": func(*rapid.T) { i := session(); claimed(i, request(i)) },
			"complete": func(*rapid.T) {
				i := session()
				done := some(ids(i))
				var runs []store.Run
				want := 0
				for _, id := range done {
					run := held[i][id].job.Run()
					runs = append(runs, run)
					if attempt, exists := m.attempts[id]; exists && attempt == run.Attempt {
						want++
						m.finished[id] = true
						delete(m.attempts, id)
						delete(m.due, id)
					}
				}
				accepted, err := jobs.Settle(t.Context(), runs, nil)
				if check(t, err); accepted != want {
					rt.Fatalf("%d completions of %d were accepted, want %d", accepted, len(runs), want)
				}
				drop(i, done, request(i))
			},
			"fail": func(*rapid.T) {
				i := session()
				done := some(ids(i))
				var back []store.Return
				for _, id := range done {
					run := held[i][id].job.Run()
					back = append(back, store.Return{Run: run, Reason: "failed", Counts: true})
					if attempt, exists := m.attempts[id]; exists && attempt == run.Attempt {
						m.attempts[id]++
						m.due[id] = true
					}
				}
				_, err := jobs.Settle(t.Context(), nil, back)
				check(t, err)
				drop(i, done, request(i))
			},
			"hand back": func(*rapid.T) { i := session(); drop(i, some(ids(i)), request(i)) },
			"die": func(*rapid.T) {
				i := session()
				pid := pidOf(t, pool, open[i])
				open[i].Close(t.Context())
				// The server takes its locks back one after another.
				eventually(t, pool, `select not exists (select from pg_locks where locktype = 'advisory' and pid = $1::int8)`, pid)
				buried, _, err := jobs.Bury(t.Context(), open[i].ID(), 1000)
				if check(t, err); !buried {
					rt.Fatal("a session that has ended could not be buried")
				}
				for id := range held[i] {
					delete(m.holders, id)
				}
				dead = append(dead, open[i].ID())
				look()
				session, err := jobs.OpenSession(t.Context())
				check(t, err)
				open[i], held[i], left[i], position[i] = session, map[int64]hand{}, map[int64]int{}, 0
			},
			"someone deletes": func(*rapid.T) {
				for _, id := range some(slices.Sorted(maps.Keys(m.attempts))) {
					exec(t, pool, `delete from queue where id = $1`, id)
					delete(m.attempts, id)
					delete(m.due, id)
					m.finished[id] = true
				}
			},
			"someone updates": func(*rapid.T) {
				set := rapid.SampledFrom([]string{"metadata = '{}'", "expected_at = now()", "deaths = 2", "deaths = 0"}).Draw(rt, "set")
				exec(t, pool, `update queue set `+set+` where id = any ($1)`, some(slices.Sorted(maps.Keys(m.attempts))))
			},
			"vacuum": func(*rapid.T) { exec(t, pool, `vacuum queue`) },
			"": func(*rapid.T) {
				locked := slices.DeleteFunc(jobLocks(t, pool), func(id int64) bool { _, ok := m.holders[id]; return ok })
				if len(locked) > 0 || len(jobLocks(t, pool)) != len(m.holders) {
					rt.Fatalf("got %d locks, of which %v are nobody's, want those of %d jobs", len(jobLocks(t, pool)), locked, len(m.holders))
				}
			},
		})
		// In the end one of them finishes all that is due.
		for i := range open {
			drop(i, ids(i), store.ClaimRequest{})
		}
		exec(t, pool, `update queue set schedule_at = null where q_name = $1`, apples.Name())
		for _, id := range dead { // what others had locked then, they have not any more
			if _, left, err := jobs.Bury(t.Context(), id, 1000); left > 0 || err != nil {
				rt.Fatalf("buried again: %d are left, %v", left, err)
			}
		}
		look()
		for id := range m.attempts {
			m.due[id] = true
		}
		for remaining := len(m.attempts); remaining > 0; remaining = len(m.attempts) {
			c := claimed(0, store.ClaimRequest{Want: 1000, Witnesses: true, Suspects: true})
			if len(c.Jobs) == 0 {
				rt.Fatalf("%d jobs are left that no claim finds", remaining)
			}
			var runs []store.Run
			for _, job := range c.Jobs {
				runs = append(runs, job.Run())
				m.finished[job.ID] = true
				delete(m.attempts, job.ID)
			}
			settle(t, jobs, runs)
			drop(0, ids(0), store.ClaimRequest{})
		}
		if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n > 0 {
			rt.Fatalf("%d rows are left in the ledger", n)
		}
		exec(t, pool, `delete from queue`)
	})
}
