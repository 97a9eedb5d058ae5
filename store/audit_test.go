package store_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// S4. A function without a search_path of its own may use nothing that a search_path can change.
func TestNoFunctionRunsWithForeignRightsOrAnOpenSearchPath(t *testing.T) {
	pool, _ := open(t)
	// One cast each, between types of the grammar, and an operator with its schema: so they are inlined.
	plain := []string{"lock_class", "lock_key", "bucket"}
	type function struct {
		Name     string
		Definer  bool
		Settings []string
	}
	rows, err := pool.Query(t.Context(), `
		select proname::text, prosecdef, coalesce(proconfig, '{}')
		from pg_proc where pronamespace = 'pq_dispatch'::regnamespace`)
	check(t, err)
	functions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
	check(t, err)
	if len(functions) < 12 {
		t.Fatalf("found %d functions, want all of them", len(functions))
	}
	for _, f := range functions {
		if f.Definer {
			t.Errorf("%s is security definer", f.Name)
		}
		if !slices.Contains(f.Settings, "search_path=pg_catalog, pg_temp") && !slices.Contains(plain, f.Name) {
			t.Errorf("%s has no fixed search_path: its settings are %v", f.Name, f.Settings)
		}
	}
}

func TestFunctionsAreNotFooledByTheCallersSearchPath(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `
		create schema trap;
		create function trap.spring(bigint, text) returns text language plpgsql as $$ begin raise exception 'trapped'; end $$;
		create operator trap.|| (leftarg = bigint, rightarg = text, function = trap.spring);
		create function trap.statement_timestamp() returns timestamptz language plpgsql as $$ begin raise exception 'trapped'; end $$;
		create function trap.coalesce(text, text) returns text language plpgsql as $$ begin raise exception 'trapped'; end $$;
		create table trap.queue (like public.queue);
		do $$ begin execute format('alter database %I set search_path = trap, pg_catalog, public', current_database()); end $$`)
	config := pool.Config()
	trapped, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	defer trapped.Close()
	apples := store.New(trapped, store.Options{}).Queue("apples")
	id := put(t, apples, 1)
	check(t, apples.Wake(t.Context()))
	exec(t, trapped, `select pq_dispatch.put('apples', '2')`)
	session := openSession(t, store.New(trapped, store.Options{}))
	got := claim(t, session, apples, 1)
	wantClaims(t, got, id)
	release(t, session, got)
	if n := len(drain(t, jobs.Queue("apples"))); n != 2 {
		t.Errorf("got %d jobs, want 2", n)
	}
}
