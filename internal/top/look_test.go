package top

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return store.New(conn, store.Options{}).Migrate(ctx)
}}

func open(t *testing.T) (*pgxpool.Pool, *store.Store) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), migrated.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, store.New(pool, store.Options{})
}

func TestALookSeesTheDatabase(t *testing.T) {
	pool, jobs := open(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, statement := range []string{
		`insert into queue (q_name, data) select 'apples', '1' from generate_series(1, 10)`,
		`update queue set task = 'eat' where id <= 2`,
		`delete from queue where id <= 3`,
		`select pg_stat_force_next_flush()`, `select 1`,
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	g, err := Look(t.Context(), pool, jobs)
	if err != nil {
		t.Fatal(err)
	}
	if g.Counters != (Counters{Put: 10, Ended: 3, PutBack: 2}) || g.Took <= 0 || g.Database != conn.Conn().Config().Database {
		t.Errorf("got %+v, want 10 put, 3 ended, 2 put back", g)
	}
	if len(g.Queues) != 1 || g.Queues[0].Ready != 7 || len(g.Dispatchers) != 0 {
		t.Errorf("got %+v, want 7 ready apples", g)
	}
}

func TestTheDatabaseDoesWhatTheModelAsks(t *testing.T) {
	pool, jobs := open(t)
	if _, err := store.PutMany(t.Context(), jobs.Queue("apples"), slices.Values([]int{1, 2, 3})); err != nil {
		t.Fatal(err)
	}
	d := &database{t.Context(), pool, jobs}
	seen, ok := d.look(&listing{queue: "apples", state: store.Waiting, limit: 2})().(looked)
	if !ok || seen.err != nil || len(seen.page.Jobs) != 2 || seen.page.Next == "" || seen.seen.Queues[0].Ready != 3 {
		t.Errorf("got %+v, want a page of two and the next", seen)
	}
	for _, paused := range []bool{true, false} {
		if done, ok := d.setPaused("apples", paused)().(acted); !ok || done.err != nil {
			t.Errorf("got %+v, want no error", done)
		}
		seen = d.look(nil)().(looked)
		if seen.err != nil || (seen.seen.Queues[0].Paused != nil) != paused {
			t.Errorf("got %+v, want paused: %v", seen, paused)
		}
	}
	// The names are those in the table: a slash in one announces no codec.
	for _, name := range []string{"pears", "pears/json", "pears/gob", "a/b"} {
		if _, err := jobs.Plain(name).Put(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		seen = d.look(&listing{queue: name, state: store.Waiting, limit: 2})().(looked)
		if seen.err != nil || len(seen.page.Jobs) != 1 || seen.page.Jobs[0].Queue != name {
			t.Errorf("%s: got %+v, want its one job", name, seen)
		}
		if done := d.setPaused(name, true)().(acted); done.err != nil {
			t.Error(done.err)
		}
		for _, o := range d.look(nil)().(looked).seen.Queues {
			if (o.Paused != nil) != (o.Queue == name) {
				t.Errorf("%s was paused: got %+v for %s", name, o.Paused, o.Queue)
			}
		}
		if done := d.setPaused(name, false)().(acted); done.err != nil {
			t.Error(done.err)
		}
	}
	if done := d.setPaused("", true)().(acted); done.err == nil {
		t.Error("a queue without a name was paused")
	}
}

func TestALookThatHangsEnds(t *testing.T) {
	pool, jobs := open(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `lock table queue`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the look's own bound is longer than a test should be
	defer cancel()
	if g, err := Look(ctx, pool, jobs); err == nil {
		t.Errorf("got %+v, want an error", g)
	}
}
