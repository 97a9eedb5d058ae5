package scratch_test

import (
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, url string) (*scratch.Scratch, *pgxpool.Pool) {
	t.Helper()
	s, err := scratch.Open(t.Context(), scratch.Options{For: "test", DatabaseURL: url, Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return s, pool
}

func TestWhatWasMadeIsDroppedAndOnlyThat(t *testing.T) {
	s, pool := open(t, pgtest.Database(t))
	if err := s.Migrate(t.Context(), scratch.Store(pool, s.Schema)); err != nil {
		t.Fatal(err)
	}
	schemas := func() (names string) {
		t.Helper()
		err := pool.QueryRow(t.Context(), `
			select string_agg(nspname, ' ' order by nspname)
			from pg_namespace
			where nspname !~ '^pg_|^information_schema$'`).Scan(&names)
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := schemas(); !strings.Contains(got, s.Schema) {
		t.Fatalf("got the schemas %s, want %s among them", got, s.Schema)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := schemas(); got != "public" {
		t.Errorf("got the schemas %s, want public", got)
	}
}

func TestNothingIsLeftToDoByHandWhereNothingWasMade(t *testing.T) {
	s, _ := open(t, "postgres://127.0.0.1:1/none?connect_timeout=1")
	if err := s.Close(); err != nil {
		t.Errorf("got %v, want nothing to close", err)
	}
}

func TestWhatCannotBeDroppedIsNamed(t *testing.T) {
	s, pool := open(t, "postgres://127.0.0.1:1/none?connect_timeout=1")
	if err := s.Migrate(t.Context(), scratch.Store(pool, s.Schema)); err == nil {
		t.Fatal("got no error, want that there is no database")
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), s.Schema) {
		t.Errorf("got %v, want the schema %s named", err, s.Schema)
	}
}
