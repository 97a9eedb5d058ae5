// Many scheduled jobs: a million that are far away cost those of today nothing, a hundred thousand that
// become due at once run in order, and one that comes before all of them is heard of.

package dispatcher_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// reads is what has been read of the queue table, by all sessions whose counts have arrived.
type reads struct {
	Scans, Entries         int // of all its indexes
	DueScans, DueEntries   int // of the index of scheduled jobs
	Blocks, SequentialRows int
}

func (r reads) since(earlier reads) reads {
	return reads{
		r.Scans - earlier.Scans, r.Entries - earlier.Entries,
		r.DueScans - earlier.DueScans, r.DueEntries - earlier.DueEntries,
		r.Blocks - earlier.Blocks, r.SequentialRows - earlier.SequentialRows,
	}
}

// readsOf asks for them on a connection whose own counts are to be among them.
func readsOf(t *testing.T, conn *pgx.Conn) (r reads) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `select pg_stat_force_next_flush()`); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `
		select sum(i.idx_scan), sum(i.idx_tup_read),
		       sum(i.idx_scan) filter (where indexrelname = 'queue_scheduled_idx'),
		       sum(i.idx_tup_read) filter (where indexrelname = 'queue_scheduled_idx'),
		       min(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read), min(seq_tup_read)
		from pg_stat_user_indexes i join pg_statio_user_tables using (relid) join pg_stat_user_tables using (relid)
		where relid = 'queue'::regclass`,
	).Scan(&r.Scans, &r.Entries, &r.DueScans, &r.DueEntries, &r.Blocks, &r.SequentialRows); err != nil {
		t.Fatal(err)
	}
	return r
}

func connect(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// sessionOn is a lock session on a connection that the test may use in between.
func sessionOn(t *testing.T, pool *pgxpool.Pool, conn *pgx.Conn) *store.Session {
	t.Helper()
	jobs := store.New(pool, store.Options{Connect: func(context.Context) (*pgx.Conn, error) { return conn, nil }})
	session, err := jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func exec(t *testing.T, db store.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func claim(t *testing.T, session *store.Session, r store.ClaimRequest) store.Claims {
	t.Helper()
	claims, err := session.Claim(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func idsOf(jobs []*store.Job) []int64 {
	ids := make([]int64, len(jobs))
	for i, job := range jobs {
		ids[i] = job.ID
	}
	return ids
}

// asleep waits until a dispatcher sleeps that has put nothing off.
func asleep(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually(t, "the dispatcher is asleep", func() bool { return isAsleep(t, pool) })
}

func isAsleep(t *testing.T, pool *pgxpool.Pool) bool {
	t.Helper()
	var parked bool
	err := pool.QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory'
		and classid = 'pq_dispatch.ledger'::regclass::oid and mode = 'ExclusiveLock')`).Scan(&parked)
	return err == nil && parked
}

func TestAMillionFutureJobsCostPresentOnesNothing(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	conn := connect(t, pool)                                          // for all, as others' counts arrive when they like
	exec(t, conn, `alter table queue set (autovacuum_enabled = off)`) // it reads, too
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	session := sessionOn(t, pool, conn)
	buckets, err := session.Buckets(t.Context(), []*store.Queue{apples})
	if err != nil {
		t.Fatal(err)
	}

	// work is what a dispatcher does for some present jobs, and how it looks at the queue before it sleeps.
	const present = 10
	work := func() reads {
		t.Helper()
		if _, err := store.PutMany(t.Context(), apples.With(conn), slices.Values(make([]int, present))); err != nil {
			t.Fatal(err)
		}
		before := readsOf(t, conn)
		ids := idsOf(claim(t, session, store.ClaimRequest{Queue: apples, Want: 2 * present}).Jobs)
		if len(ids) != present {
			t.Fatalf("claimed %d jobs, want the %d present ones", len(ids), present)
		}
		if more := claim(t, session, store.ClaimRequest{Queue: apples, Want: present, Held: ids, Park: true}).Jobs; len(more) > 0 {
			t.Fatalf("claimed %d jobs more, want none", len(more))
		}
		if _, err := jobs.Sweep(t.Context(), session.ID(), []*store.Queue{apples}); err != nil {
			t.Fatal(err)
		}
		cost := readsOf(t, conn).since(before)
		claim(t, session, store.ClaimRequest{Release: ids, Unpark: buckets})
		exec(t, conn, `delete from queue where id = any ($1)`, ids)
		exec(t, conn, `vacuum queue`)
		return cost
	}
	work() // the first reads the catalog, too
	alone := work()
	exec(t, conn, `
		insert into queue (q_name, data, schedule_at, expected_at)
		select 'apples', '1', now() + '1h'::interval + i * '1ms'::interval, case when i % 2 = 0 then now() + i * '1ms'::interval end
		from generate_series(1, 1000000) i`)
	for _, statistics := range []bool{false, true} {
		if statistics {
			exec(t, conn, `analyze queue`)
		}
		// The indexes are deeper, and a look at what is next to be due finds something.
		got := work()
		if got.Entries > 5*alone.Entries || got.Blocks > 5*alone.Blocks || got.SequentialRows > alone.SequentialRows {
			t.Errorf("with statistics %v: got the reads %+v, want about those without the million, %+v", statistics, got, alone)
		}
	}
	before := readsOf(t, conn)
	session.Close(t.Context())

	// A dispatcher may look as often as it likes; each look at the scheduled jobs has to be short.
	handled := make(chan struct{}, 1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	d.Handle("apples", dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		handled <- struct{}{}
		return nil
	}))
	r := start(t, d)
	for i := range 200 {
		put(t, apples, i)
		receive(t, handled, "a present job")
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	pool.Reset() // a session's counts arrive with its end, at the latest
	conn = connect(t, pool)
	eventually(t, "no other session is left", func() bool {
		var none bool
		err := conn.QueryRow(t.Context(), `
			select not exists (
			  select from pg_stat_activity
			  where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid())`).Scan(&none)
		return err == nil && none
	})
	got := readsOf(t, conn).since(before)
	if got.DueScans == 0 || got.DueEntries > 2*got.DueScans || got.SequentialRows > 0 {
		t.Errorf("got the reads %+v, want at most two entries for each look at the scheduled jobs, and no row by a sequential scan", got)
	}
}

// putDueAtOnce puts n jobs that become due at the same instant, some of them with a
// priority, which some share. It tells that instant, and the order in which they are to run.
func putDueAtOnce(t *testing.T, pool *pgxpool.Pool, n int) (due time.Time, order []int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `
		with put as (
		  insert into queue (q_name, data, schedule_at, expected_at)
		  select 'apples', '1', now() + '2s'::interval, case when i % 3 = 0 then now() + (i * 7919 % 1009 - 500) * '1s'::interval end
		  from generate_series(1, $1) i
		  returning id, schedule_at, expected_at
		)
		select min(schedule_at), array_agg(id order by expected_at nulls last, id) from put`, n,
	).Scan(&due, &order); err != nil {
		t.Fatal(err)
	}
	return due, order
}

func TestAHundredThousandJobsDueAtOnceAreClaimedInOrder(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	session := sessionOn(t, pool, connect(t, pool))
	defer session.Close(t.Context())
	due, order := putDueAtOnce(t, pool, 100_000)

	const batch = 1000
	request := store.ClaimRequest{Queue: jobs.Queue("apples"), Want: batch}
	var claims store.Claims
	eventually(t, "the jobs are due", func() bool {
		claims = claim(t, session, request)
		return len(claims.Jobs) > 0
	})
	if claims.Now.Before(due) {
		t.Errorf("claimed jobs at %v, want none before they are due at %v", claims.Now, due)
	}
	for want := range slices.Chunk(order, batch) {
		ids := idsOf(claims.Jobs)
		slices.Sort(ids) // those of one batch come in any order
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Fatalf("claimed the jobs %v, want %v", ids, want)
		}
		runs := make([]store.Run, len(ids))
		for i, id := range ids {
			runs[i] = store.Run{ID: id, Attempt: 1}
		}
		if accepted, err := jobs.Settle(t.Context(), runs, nil); err != nil || accepted != batch {
			t.Fatalf("%d outcomes were accepted, %v, want %d", accepted, err, batch)
		}
		request.Release, request.Ended = ids, []int64{claims.Batch}
		claims = claim(t, session, request)
	}
	if len(claims.Jobs) > 0 {
		t.Errorf("claimed %d jobs more than were put", len(claims.Jobs))
	}
}

func TestJobsDueAtOnceRunInOrder(t *testing.T) {
	for _, test := range []struct{ jobs, first int }{
		{3000, 3000},
		{100_000, 5000}, // each claim sorts all that are due: all would take minutes
	} {
		t.Run(fmt.Sprintf("the first %d of %d", test.first, test.jobs), func(t *testing.T) {
			pool := poolAt(t, migrated.Database(t))
			type run struct {
				id    int64
				early bool
			}
			got := make(chan run)
			d := dispatcher.New(store.New(pool, store.Options{}), quiet(dispatcher.Options{Concurrency: 1, Grace: time.Millisecond, Sweep: time.Hour}))
			d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
				r := run{id: job.ID}
				if err := pool.QueryRow(ctx, `select clock_timestamp() < $1`, job.ScheduleAt).Scan(&r.early); err != nil {
					return err
				}
				select {
				case got <- r:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}))
			start(t, d)
			asleep(t, pool)
			_, order := putDueAtOnce(t, pool, test.jobs)
			for i, want := range order[:test.first] {
				r := receive(t, got, "a job")
				if r.id != want || r.early {
					t.Fatalf("run %d: got job %d, early %v, want job %d, not early", i+1, r.id, r.early, want)
				}
			}
		})
	}
}

func TestAJobScheduledBeforeTheOneThatIsWaitedForIsHeardOf(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	got := make(chan int64, 10)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		var early bool
		if err := pool.QueryRow(ctx, `select clock_timestamp() < $1`, job.ScheduleAt).Scan(&early); err != nil || early {
			t.Errorf("%v: early %v, %v", job.Job, early, err)
		}
		got <- job.ID
		return nil
	}))
	put(t, apples, "within the horizon of two sweeps", store.ScheduleAt(time.Hour))
	start(t, d)
	asleep(t, pool)
	put(t, apples, "before it", store.ScheduleAt(30*time.Minute))
	put(t, apples, "beyond the horizon", store.ScheduleAt(100*time.Hour))
	// Each is before all that the dispatcher knows of.
	ids := []int64{
		put(t, apples, "in a while", store.ScheduleAt(700*time.Millisecond)),
		put(t, apples, "soon", store.ScheduleAt(200*time.Millisecond)),
	}
	for range ids {
		if id := receive(t, got, "a job"); !slices.Contains(ids, id) {
			t.Errorf("got job %d, want one of %v", id, ids)
		}
	}
	asleep(t, pool) // and again, with nothing running
	again := put(t, apples, "soon", store.ScheduleAt(200*time.Millisecond))
	if id := receive(t, got, "a job"); id != again {
		t.Errorf("got job %d, want %d", id, again)
	}
}
