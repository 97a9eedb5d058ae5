// What all tests of this package stand on: a migrated database for each, and a look into it.

package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}}

// open returns a migrated database of the test's own. At the end of the test no connection, no
// advisory lock and no goroutine may be left.
func open(t testing.TB) (*pgxpool.Pool, *store.Store) {
	t.Helper()
	pool := connectPool(t, migrated.Database(t))
	return pool, store.New(pool, store.Options{})
}

// openServer returns a migrated database of a server of the test's own.
func openServer(t testing.TB, settings map[string]string) (*pgxpool.Pool, *store.Store) {
	t.Helper()
	pool := connectPool(t, pgtest.Server(t, devpg.Options{Settings: settings}).URL(""))
	jobs := store.New(pool, store.Options{})
	check(t, jobs.Migrate(t.Context()))
	return pool, jobs
}

// openEmpty returns a database without a queue.
func openEmpty(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return connectPool(t, pgtest.Database(t))
}

func connectPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { pgtest.NoGoroutineIsLeft(t, 40, pgtest.Goroutines(), before) })
	pool, err := pgxpool.New(t.Context(), url)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// connect opens one more connection to the database of the pool.
func connect(t testing.TB, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	check(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// begin opens a transaction that is rolled back at the end of the test, if it is open still.
func begin(t testing.TB, db store.DB) pgx.Tx {
	t.Helper()
	tx, err := db.Begin(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want one that matches %q", err, want)
	}
}

func exec(t testing.TB, db store.DB, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one is the only value of a query's only row.
func one[T any](t testing.TB, db store.DB, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// column is the only column of a query's rows.
func column[T any](t testing.TB, db store.DB, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	check(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	check(t, err)
	return values
}

func put(t testing.TB, q *store.Queue, data any, options ...store.PutOption) int64 {
	t.Helper()
	id, err := q.Put(t.Context(), data, options...)
	check(t, err)
	return id
}

// get takes a job that is due now; nil if there is none.
func get(t testing.TB, q *store.Queue) *store.Job {
	t.Helper()
	job, err := q.Get(t.Context(), 0)
	check(t, err)
	return job
}

// drain gets the ids of all jobs that are due.
func drain(t testing.TB, q *store.Queue) (ids []int64) {
	t.Helper()
	for job := get(t, q); job != nil; job = get(t, q) {
		ids = append(ids, job.ID)
	}
	return ids
}

func wantIDs(t testing.TB, what string, got []int64, want ...int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got jobs %v, want %v", what, got, want)
	}
}

func wantCount(t testing.TB, db store.DB, want int) {
	t.Helper()
	if got := one[int](t, db, `select count(*) from queue`); got != want {
		t.Fatalf("got %d rows in the queue, want %d", got, want)
	}
}
