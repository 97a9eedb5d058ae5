// What needs a server, or a pooler, of the test's own.

package store_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestOnASmallServer(t *testing.T) {
	pool, jobs := openServer(t, map[string]string{
		"max_locks_per_transaction": "10", "max_connections": "10", "max_prepared_transactions": "2",
		"max_worker_processes": "2", "autovacuum_max_workers": "1", "max_wal_senders": "0", "wal_level": "minimal",
	})

	// A6.
	t.Run("a full lock table fails only the claim", func(t *testing.T) {
		apples := jobs.Queue("apples")
		ids, err := store.PutMany(t.Context(), apples, count(20_000))
		check(t, err)
		greedy, modest := openSession(t, jobs), openSession(t, jobs)
		kept := claim(t, modest, apples, 5)
		own := claim(t, greedy, apples, 5)
		over := claim(t, greedy, apples, 2, idsOf(own.Jobs)...)
		_, err = greedy.Claim(t.Context(), store.ClaimRequest{
			Queue: apples, Want: len(ids), Held: ids[5:12], Over: idsOf(over.Jobs), Ended: []int64{over.Batch},
		})
		wantError(t, err, store.ErrLockTable)
		wantIDs(t, "locks", jobLocks(t, pool), ids[:12]...)
		if n := one[int](t, pool, `select count(*) from pq_dispatch.ledger`); n != 3 {
			t.Errorf("got %d rows in the ledger, want those of three batches", n)
		}
		release(t, greedy, over)
		put(t, jobs.Queue("pears"), "others go on")
		release(t, modest, kept)
		more := claim(t, greedy, apples, 5, idsOf(own.Jobs)...)
		wantClaims(t, more, ids[:5]...)
		release(t, greedy, more)
		release(t, greedy, own)
		wantIDs(t, "locks at the end", jobLocks(t, pool))
	})

	t.Run("a full lock table keeps no lock from being released", func(t *testing.T) {
		pears := jobs.Queue("more pears")
		ids, err := store.PutMany(t.Context(), pears, count(20))
		check(t, err)
		session := openSession(t, jobs)
		claims := claim(t, session, pears, 20)
		if got := outcomeOf(t, jobs, store.Cancel(), ids[3]); got != store.Asked { // which takes locks of its own
			t.Errorf("got %q, want it asked for", got)
		}
		full, err := pool.Acquire(t.Context())
		check(t, err)
		defer full.Release()
		for n := 0; err == nil; n++ {
			_, err = full.Exec(t.Context(), `select pg_advisory_lock(4712, $1)`, n)
		}
		if !strings.Contains(err.Error(), "53200") {
			t.Fatal(err)
		}
		release(t, session, claims)
		exec(t, full, `select pg_advisory_unlock_all()`)
		wantIDs(t, "locks", jobLocks(t, pool))
		if got := stateOf(t, jobs, ids[3]); got != store.SetAside {
			t.Errorf("got the cancelled job %q, want it set aside", got)
		}
	})

	t.Run("the lock budget is half the table, shared by those who live", func(t *testing.T) {
		eventually(t, pool, `select not exists (select from pg_locks where locktype = 'advisory')`) // of sessions that were closed just now
		sessions := make([]*store.Session, 3)
		for i := range sessions {
			sessions[i] = openSession(t, jobs)
			budget, err := sessions[0].LockBudget(t.Context())
			check(t, err)
			if want := 10 * (10 + 2) / 2 / (i + 1); budget != want {
				t.Errorf("%d sessions: got a budget of %d locks each, want %d", i+1, budget, want)
			}
		}
		kill(t, pool, sessions[2])
		if budget, err := sessions[0].LockBudget(t.Context()); budget != 30 || err != nil {
			t.Errorf("after a death: got %d, %v, want 30", budget, err)
		}
	})

	// N10.
	t.Run("PREPARE TRANSACTION works once notifications are off", func(t *testing.T) {
		_, err := jobs.Queue("apples").Clear(t.Context())
		check(t, err)
		for _, silent := range []bool{false, true} {
			conn := connect(t, pool)
			tx := begin(t, conn)
			if silent {
				exec(t, tx, `set local pq_dispatch.notify = off`)
			} else {
				exec(t, tx, `set local pq_dispatch.notify = always`)
			}
			id := put(t, jobs.With(tx).Queue("apples"), 1)
			_, err := tx.Exec(t.Context(), `prepare transaction 'p'`)
			pgErr, refused := errors.AsType[*pgconn.PgError](err)
			if silent == refused {
				t.Fatalf("silent %v: got %v", silent, pgErr)
			}
			if silent {
				exec(t, pool, `commit prepared 'p'`)
				wantIDs(t, "get", drain(t, jobs.Queue("apples")), id)
			}
		}
	})
}

// N4.
func TestCopySendsOneNotificationAQueue(t *testing.T) {
	pool, jobs := open(t)
	listener := connect(t, pool)
	_, err := listener.Exec(t.Context(), `listen `+jobs.Channel())
	check(t, err)
	exec(t, listener, `select pq_dispatch.park(pq_dispatch.bucket(q)) from unnest(array['apples', 'pears']) q`)
	_, err = pool.CopyFrom(t.Context(), pgx.Identifier{"queue"}, []string{"q_name", "data"},
		pgx.CopyFromSlice(1000, func(i int) ([]any, error) { return []any{[]string{"apples", "pears"}[i%2], i}, nil }))
	check(t, err)
	exec(t, pool, `select pg_notify($1, 'end')`, jobs.Channel())
	var heard []string
	for {
		n, err := listener.WaitForNotification(t.Context())
		check(t, err)
		if n.Payload == "end" {
			break
		}
		heard = append(heard, n.Payload)
	}
	slices.Sort(heard)
	if !slices.Equal(heard, []string{"0 apples", "0 pears"}) {
		t.Errorf("heard %q, want one of each queue", heard)
	}
}

func TestAStandbyIsRefused(t *testing.T) {
	primary := pgtest.Server(t, devpg.Options{})
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, devpg.ErrNoBaseBackup) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { check(t, standby.Close()) })
	check(t, store.New(connectPool(t, primary.URL("")), store.Options{}).Migrate(t.Context()))
	pool := connectPool(t, standby.URL(""))
	eventually(t, pool, `select to_regproc('pq_dispatch.on_put') is not null`)
	jobs := store.New(pool, store.Options{})
	_, err = jobs.OpenSession(t.Context())
	wantError(t, err, store.ErrStandby)
	_, err = jobs.Queue("apples").Put(t.Context(), 1)
	wantError(t, err, store.ErrStandby)
	check(t, jobs.CheckSchema(t.Context()))
}

// What a claim commits is lost with the server, and nobody has to wait for it: not for a disk, and not for a standby.
func TestAClaimDoesNotWaitUntilItsCommitIsKept(t *testing.T) {
	pool, jobs := openServer(t, map[string]string{"autovacuum": "off", "max_wal_senders": "1", "wal_level": "replica"})
	apples := jobs.Queue("apples")
	_, err := store.PutMany(t.Context(), apples, count(2000))
	check(t, err)
	exec(t, pool, `delete from queue where id % 2 = 0`) // reading prunes these, which is written to the log
	session := openSession(t, jobs)
	exec(t, pool, `alter system set synchronous_standby_names = 'nobody'`)
	exec(t, pool, `select pg_reload_conf()`)
	eventually(t, pool, `select current_setting('synchronous_standby_names') = 'nobody'`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	before := one[string](t, pool, `select pg_current_wal_insert_lsn()::text`)
	claims, err := session.Claim(ctx, store.ClaimRequest{Queue: apples, Want: 900})
	if err != nil || len(claims.Jobs) != 900 {
		t.Fatalf("got %d jobs, %v", len(claims.Jobs), err)
	}
	if !one[bool](t, pool, `select pg_current_wal_insert_lsn() > $1::pg_lsn + 1000`, before) {
		t.Error("the claim has written nothing to the log, so that this test shows nothing")
	}
}
