package store_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestGetWorkAndPutAreOneTransaction(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `create table meals (kind text)`)
	apples := jobs.Queue("apples")
	id := put(t, apples, "Cox")
	work := func() interface{ Commit(context.Context) error } {
		tx := begin(t, pool)
		job := get(t, apples.With(tx))
		if job == nil || job.ID != id {
			t.Fatalf("got %v, want job %d", job, id)
		}
		exec(t, tx, `insert into meals values ($1)`, string(job.Data))
		put(t, jobs.With(tx).Queue("pears"), 1)
		return tx
	}
	check(t, work().(interface{ Rollback(context.Context) error }).Rollback(t.Context()))
	if n := one[int](t, pool, `select (select count(*) from meals) + (select count(*) from queue where q_name = 'pears')`); n != 0 {
		t.Fatalf("%d rows came out of a transaction that was rolled back", n)
	}
	check(t, work().Commit(t.Context()))
	if n := one[int](t, pool, `select count(*) from meals`); n != 1 {
		t.Errorf("got %d meals, want 1", n)
	}
	if job := get(t, apples); job != nil {
		t.Errorf("got %v again after the commit", job)
	}
	if job := get(t, jobs.Queue("pears")); job == nil {
		t.Error("what was put in the transaction is not there")
	}
}

func TestASavepointRolledBackTakesItsPutAndItsNotification(t *testing.T) {
	pool, jobs := open(t)
	listening := connect(t, pool)
	_, err := listening.Exec(t.Context(), `listen `+jobs.Channel())
	check(t, err)
	exec(t, listening, `select pq_dispatch.park(bucket) from generate_series(0, 63) bucket`)

	tx := begin(t, pool)
	outer := put(t, jobs.Queue("outer").With(tx), 1)
	savepoint := begin(t, tx)
	put(t, jobs.Queue("inner").With(savepoint), 2)
	innermost := begin(t, savepoint)
	put(t, jobs.Queue("innermost").With(innermost), 3)
	check(t, innermost.Commit(t.Context()))
	check(t, savepoint.Rollback(t.Context()))
	kept := begin(t, tx)
	put(t, jobs.Queue("kept").With(kept), 4)
	check(t, kept.Commit(t.Context()))
	again := begin(t, tx)
	if job := get(t, jobs.Queue("outer").With(again)); job == nil || job.ID != outer {
		t.Fatalf("got %v, want job %d", job, outer)
	}
	check(t, again.Rollback(t.Context()))
	check(t, tx.Commit(t.Context()))

	if got := column[string](t, pool, `select q_name from queue order by q_name`); !slices.Equal(got, []string{"kept", "outer"}) {
		t.Errorf("got jobs in %v, want kept and outer", got)
	}
	exec(t, pool, `select pg_notify($1, 'end')`, jobs.Channel())
	var heard []string
	for {
		n, err := listening.WaitForNotification(t.Context())
		check(t, err)
		if n.Payload == "end" {
			break
		}
		heard = append(heard, n.Payload)
	}
	if !slices.Equal(heard, []string{"0 outer", "0 kept"}) {
		t.Errorf("heard %q, want outer and kept", heard)
	}
}

func TestAJobGotInATransactionIsHiddenUntilItsEnd(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	session := openSession(t, jobs)
	tx := begin(t, pool)
	if job := get(t, apples.With(tx)); job == nil || job.ID != id {
		t.Fatalf("got %v, want job %d", job, id)
	}
	if job := get(t, apples); job != nil {
		t.Fatalf("got %v, which is in a transaction", job)
	}
	if claims := claim(t, session, apples, 1); len(claims.Jobs)+len(claims.Gone) > 0 {
		t.Fatalf("claimed %v, which is in a transaction", claims)
	}
	check(t, tx.Rollback(t.Context()))
	claims := claim(t, session, apples, 1)
	wantClaims(t, claims, id)
	if job := get(t, apples); job != nil {
		t.Fatalf("got %v, which is claimed", job)
	}
	release(t, session, claims)
	wantIDs(t, "get", drain(t, apples), id)
}

func TestACrashInATransactionReturnsTheJob(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, 1)
	conn := connect(t, pool)
	tx := begin(t, conn)
	if job := get(t, apples.With(tx)); job == nil {
		t.Fatal("got no job")
	}
	terminate(t, pool, conn.PgConn().PID())
	wantIDs(t, "get after the crash", drain(t, apples), id)
}

// terminate ends a backend and returns when it has ended.
func terminate(t testing.TB, pool *pgxpool.Pool, pid uint32) {
	t.Helper()
	if !one[bool](t, pool, `select pg_terminate_backend($1, 10000)`, pid) {
		t.Fatalf("backend %d has not ended", pid)
	}
}

func TestAGetThatTimesOutLeavesTheTransactionUsable(t *testing.T) {
	pool, jobs := open(t)
	tx := begin(t, pool)
	apples := jobs.Queue("apples").With(tx)
	if job, err := apples.Get(t.Context(), 50*time.Millisecond); job != nil || err != nil {
		t.Fatalf("got %v, %v, want neither", job, err)
	}
	id := put(t, apples, 1)
	check(t, tx.Commit(t.Context()))
	wantIDs(t, "get", drain(t, jobs.Queue("apples")), id)
}

func TestSimultaneousGetsNeverReturnAJobTwice(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	const n = 2000
	numbers := make([]int, n)
	want, err := store.PutMany(t.Context(), apples, slices.Values(numbers))
	check(t, err)
	var mu sync.Mutex
	var got []int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for job, err := range apples.Jobs(t.Context(), 0) {
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, job.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// A Get may have seen the last jobs locked by others and given up; those others have them.
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %d jobs, want each of %d once", len(got), len(want))
	}
}
