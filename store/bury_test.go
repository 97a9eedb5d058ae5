// Whom a burial blames.

package store_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// wantRows compares "attempt deaths" of all jobs, in the order of their ids; a job that is set aside has an x.
func wantRows(t *testing.T, db store.DB, when string, want ...string) {
	t.Helper()
	got := column[string](t, db, `select attempt || ' ' || deaths || case when set_aside then ' x' else '' end from queue order by id`)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got the attempts and deaths %q, want %q", when, got, want)
	}
}

func bury(t *testing.T, jobs *store.Store, session *store.Session, wantLeft int) {
	t.Helper()
	dead, left, err := jobs.Bury(t.Context(), session.ID(), 3)
	if check(t, err); !dead || left != wantLeft {
		t.Fatalf("bury: dead %v, and %d are left, want true and %d", dead, left, wantLeft)
	}
}

func TestThoseAreBlamedInWhoseRunsTheMostProcessesHaveDied(t *testing.T) {
	for _, test := range []struct {
		name         string
		before, want []string // attempt, deaths, max_attempts
	}{
		{"all, at the first death", []string{"1, 0, null", "2, 0, null"}, []string{"2 1", "3 1"}},
		{"those of the last death", []string{"2, 1, null", "1, 0, null", "5, 1, 9"}, []string{"3 2", "1 1", "6 2"}},
		{"the suspect alone", []string{"1, 0, null", "3, 2, 9", "1, 0, 1"}, []string{"1 1", "4 3", "1 1"}}, // with no attempt left
		{"the default of attempts", []string{"2, 1, null", "3, 1, null"}, []string{"3 2", "3 2 x"}},
		{"a death of which no attempt was counted", []string{"1, 1, 3", "1, 1, 2"}, []string{"3 2", "1 2 x"}},
		{"two of which none was counted", []string{"1, 2, 9", "2, 2, 2"}, []string{"3 2", "2 2 x"}},
		{"its own attempts", []string{"3, 0, 4", "4, 0, 4", "1, 0, 1"}, []string{"4 1", "4 1 x", "1 1 x"}},
		{"more attempts than it may have", []string{"9, 0, 4"}, []string{"9 1 x"}},
		{"no end of deaths", []string{"1001, 1000, 5000"}, []string{"1002 1000"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool, jobs := open(t)
			apples := jobs.Queue("apples")
			for _, values := range test.before {
				exec(t, pool, `insert into queue (q_name, data, attempt, deaths, max_attempts) values ('apples', '1', `+values+`)`)
			}
			put(t, apples, "not claimed", store.ScheduleAt("1h"))
			victim := openSession(t, jobs)
			for range test.before { // each a batch
				_, err := victim.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 1, Witnesses: true, Suspects: true, Held: jobLocks(t, pool)})
				check(t, err)
			}
			if n := len(jobLocks(t, pool)); n != len(test.before) {
				t.Fatalf("claimed %d jobs, want %d", n, len(test.before))
			}
			kill(t, pool, victim)
			for range 2 { // again: it is done
				bury(t, jobs, victim, 0)
				wantRows(t, pool, "buried", append(test.want, "1 0")...)
			}
		})
	}
}

// A server takes back the locks of an ended session one after another, and another dispatcher may have claimed some
// already, so that a burial may take several calls. They must blame whom one would have blamed.
func TestABurialInSeveralCallsBlamesTheSame(t *testing.T) {
	for late := range 4 {
		t.Run(fmt.Sprint("the lock that is free last is that of job ", late), func(t *testing.T) {
			pool, jobs := open(t)
			apples := jobs.Queue("apples")
			ids, err := store.PutMany(t.Context(), apples, count(4))
			check(t, err)
			exec(t, pool, `update queue set deaths = 2, attempt = 3, max_attempts = 9 where id = $1`, ids[1])
			victim := openSession(t, jobs)
			all, err := victim.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 4, Witnesses: true, Suspects: true})
			check(t, err)
			wantClaims(t, all, ids...)
			kill(t, pool, victim)
			other := connect(t, pool)
			exec(t, other, `select pg_advisory_lock(pq_dispatch.lock_class(), pq_dispatch.lock_key($1))`, ids[late])
			bury(t, jobs, victim, 1)
			bury(t, jobs, victim, 1)
			rows := []string{"1 1", "4 3", "1 1", "1 1"}
			if late == 1 {
				wantRows(t, pool, "while it is locked", "1 1", "3 2", "1 1", "1 1")
			} else {
				wantRows(t, pool, "while another is locked", rows...)
			}
			ear := connect(t, pool)
			exec(t, ear, `listen `+jobs.Channel())
			exec(t, other, `select pg_advisory_unlock_all()`)
			bury(t, jobs, victim, 0)
			wantRows(t, pool, "at the end", rows...)
			if !heard(t, ear, jobs) {
				t.Error("the job whose lock was free last was not announced")
			}
			if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n > 0 {
				t.Errorf("%d rows are left in the ledger", n)
			}
		})
	}
}

// A job that is claimed, and fails, between the burial's reading of it and its lock is not what the dead one had.
func TestABurialCountsNoAttemptThatAnotherHasEnded(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(2))
	check(t, err)
	victim, heir := openSession(t, jobs), openSession(t, jobs)
	wantClaims(t, claim(t, victim, apples, 2), ids...)
	kill(t, pool, victim)
	inherited := claim(t, heir, apples, 2)
	wantClaims(t, inherited, ids...)
	// The burial stands still before its first lock, as long as this one is held: by a function in the way.
	exec(t, pool, `
		alter function pq_dispatch.lock_key(bigint) rename to real_key;
		create function pq_dispatch.lock_key(id bigint) returns integer language plpgsql volatile as $$
		begin
		  if current_setting('test.gate', true) = 'on' then
		    perform set_config('test.gate', 'off', false);
		    perform pg_advisory_lock(4711);
		    perform pg_advisory_unlock(4711);
		  end if;
		  return pq_dispatch.real_key(id);
		end $$`)
	config := pool.Config().ConnConfig
	config.RuntimeParams["test.gate"] = "on"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	gate := begin(t, pool)
	exec(t, gate, `select pg_advisory_xact_lock($1)`, gateKey)
	done := make(chan error)
	go func() {
		_, err := conn.Exec(t.Context(), `select pq_dispatch.bury($1, 3)`, victim.ID())
		done <- err
	}()
	eventually(t, pool, `select exists (select from pg_locks where locktype = 'advisory' and not granted)`)
	settle(t, jobs, nil, store.Return{Run: store.Run{ID: ids[0], Attempt: 1}, Counts: true}, store.Return{Run: store.Run{ID: ids[1], Attempt: 1}, Counts: true})
	release(t, heir, inherited)
	check(t, gate.Rollback(t.Context()))
	check(t, <-done)
	wantRows(t, pool, "buried", "2 0", "2 0")
}

// Who has claimed a job since is not disturbed, and when it ends well, nothing is left of the death.
func TestAJobThatAnotherHoldsWhenADispatcherDiesGoesOn(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	ids, err := store.PutMany(t.Context(), apples, count(2))
	check(t, err)
	victim, heir := openSession(t, jobs), openSession(t, jobs)
	wantClaims(t, claim(t, victim, apples, 2), ids...)
	_, err = victim.Claim(t.Context(), store.ClaimRequest{Release: ids[1:]})
	check(t, err)
	theirs := claim(t, heir, apples, 1)
	wantClaims(t, theirs, ids[1])
	kill(t, pool, victim)
	bury(t, jobs, victim, 1)
	wantRows(t, pool, "while it runs", "2 1", "1 1")
	settle(t, jobs, nil, store.Return{Run: theirs.Jobs[0].Run(), Counts: true})
	release(t, heir, theirs)
	bury(t, jobs, victim, 0)
	wantRows(t, pool, "at the end", "2 1", "2 0")
}

// A job that kills one process after another, before the first is buried, is counted until it is suspect, in whatever
// order they are buried, and blamed for each: else those who ran beside it would have died more often.
func TestDeathsThatFollowOneAnotherAreBlamedOnTheSame(t *testing.T) {
	for name, order := range map[string][]int{"the first first": {0, 1, 2}, "the last first": {2, 1, 0}, "the one between first": {1, 0, 2}} {
		for _, early := range []bool{false, true} { // the first is buried while the second has the job
			t.Run(fmt.Sprintf("%s, and early %v", name, early), func(t *testing.T) {
				pool, jobs := open(t)
				apples := jobs.Queue("apples")
				exec(t, pool, `insert into queue (q_name, data, max_attempts) values ('apples', '1', 9)`)
				var victims []*store.Session
				for range 3 {
					beside := put(t, apples, "beside it", store.MaxAttempts(9))
					victim := openSession(t, jobs)
					got, err := victim.Claim(t.Context(), store.ClaimRequest{Queue: apples, Want: 2, Witnesses: true, Suspects: true})
					check(t, err)
					if early && len(victims) == 2 { // of its death it is known, and of the next one not yet
						wantClaims(t, got, beside)
					} else {
						wantClaims(t, got, 1, beside)
					}
					exec(t, pool, `update queue set schedule_at = 'infinity' where id = $1`, beside) // runs with nobody else
					if early && len(victims) == 1 {
						bury(t, jobs, victims[0], 1)
					}
					kill(t, pool, victim)
					victims = append(victims, victim)
				}
				for _, i := range order {
					bury(t, jobs, victims[i], 0)
				}
				if got := one[string](t, pool, `select attempt || ' ' || deaths from queue where id = 1`); got != "3 2" {
					t.Errorf("got the attempt and deaths %q, want %q", got, "3 2")
				}
				if n := one[int](t, pool, `select max(deaths) from queue where id > 1`); n > 1 {
					t.Errorf("got %d deaths of a job that ran in one of the processes", n)
				}
			})
		}
	}
}

func TestADeathIsNotCountedForAJobThatWasPutOffBefore(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	off, stays := put(t, apples, 1), put(t, apples, 2)
	session := openSession(t, jobs)
	c := claim(t, session, apples, 2)
	wantClaims(t, c, off, stays)
	if n, err := jobs.Settle(t.Context(), nil, []store.Return{{Run: c.Jobs[0].Run(), Delay: time.Hour}}); err != nil || n != 1 {
		t.Fatalf("put off: got %d and %v, want 1", n, err)
	}
	_, err := session.Claim(t.Context(), store.ClaimRequest{Release: []int64{off}})
	check(t, err)
	kill(t, pool, session)
	bury(t, jobs, session, 0)
	for id, want := range map[int64]int{off: 1, stays: 2} {
		found, err := jobs.Find(t.Context(), id)
		if check(t, err); found.Attempt != want {
			t.Errorf("job %d: got attempt %d, want %d", id, found.Attempt, want)
		}
	}
}
