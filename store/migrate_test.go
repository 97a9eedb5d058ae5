package store_test

import (
	"context"
	"errors"
	osexec "os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// catalog describes everything that a migration makes, without oids and times.
func catalog(t testing.TB, db store.DB) []string {
	t.Helper()
	return column[string](t, db, `
		with ours as (
		  select oid, nspname from pg_namespace
		  where nspname !~ '^pg_(toast|catalog|temp)' and nspname <> 'information_schema'
		)
		select format('schema %s', nspname) from ours
		union all
		select format('relation %s.%s kind=%s persistence=%s options=%s', nspname, relname, relkind, relpersistence, reloptions)
		from pg_class join ours on ours.oid = relnamespace
		union all
		select format('column %s.%s.%s %s notnull=%s identity=%s default=%s', nspname, relname, attname,
		              format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid))
		from pg_attribute a join pg_class c on c.oid = attrelid join ours on ours.oid = relnamespace
		left join pg_attrdef on adrelid = attrelid and adnum = attnum
		where attnum > 0 and not attisdropped
		union all
		select format('index %s', pg_get_indexdef(indexrelid))
		from pg_index join pg_class c on c.oid = indexrelid join ours on ours.oid = relnamespace
		union all
		select format('constraint %s.%s %s', nspname, conname, pg_get_constraintdef(k.oid))
		from pg_constraint k join ours on ours.oid = connamespace
		union all
		select format('function %s', pg_get_functiondef(p.oid)) from pg_proc p join ours on ours.oid = pronamespace
		union all
		select format('trigger %s', pg_get_triggerdef(g.oid)) from pg_trigger g where not tgisinternal
		order by 1`)
}

func TestMigrateMakesAnyTableName(t *testing.T) {
	for _, o := range []store.Options{
		{},
		{Table: "jobs"},
		{Schema: "app"},
		{Schema: "app", Table: "jobs"},
		{Schema: "MixedCase", Table: "Queue"},
		{Schema: "_1", Table: "select"},
		{Schema: strings.Repeat("s", 48), Table: strings.Repeat("t", 48)},
	} {
		t.Run(o.Schema+"."+o.Table, func(t *testing.T) {
			pool := openEmpty(t)
			jobs := store.New(pool, o)
			check(t, jobs.Migrate(t.Context()))
			check(t, jobs.CheckSchema(t.Context()))
			id := put(t, jobs.Queue("apples"), 1)
			if got := one[int64](t, pool, `select id from `+jobs.Table()); got != id {
				t.Fatalf("%s holds job %d, want %d", jobs.Table(), got, id)
			}
			wantIDs(t, "get", drain(t, jobs.Queue("apples")), id)
			session, err := jobs.OpenSession(t.Context())
			check(t, err)
			session.Close(t.Context())
			check(t, jobs.MigrateTo(t.Context(), 0))
			if left := one[int](t, pool, `select count(*) from pg_class where relname ~ '^(queue|ledger|schema_version)'`); left > 0 {
				t.Errorf("%d relations are left after the way down", left)
			}
		})
	}
}

func TestMigrateRefusesNamesThatAreNoPlainIdentifiers(t *testing.T) {
	for _, name := range []string{`a"b`, "a b", "1a", "a-b", "a.b", "naïve", "a\x00", "a;drop table x", strings.Repeat("a", 49)} {
		for _, o := range []store.Options{{Schema: name}, {Table: name}} {
			jobs := store.New(nil, o) // the database must not come so far as to be used
			_, putErr := jobs.Queue("apples").Put(t.Context(), 1)
			_, getErr := jobs.Queue("apples").Get(t.Context(), 0)
			_, countErr := jobs.Counts(t.Context())
			_, sessionErr := jobs.OpenSession(t.Context())
			for call, err := range map[string]error{
				"Migrate": jobs.Migrate(t.Context()), "CheckSchema": jobs.CheckSchema(t.Context()),
				"Put": putErr, "Get": getErr, "Counts": countErr, "OpenSession": sessionErr,
			} {
				if !errors.Is(err, store.ErrName) {
					t.Errorf("%s with the names %q, %q: got %v, want ErrName", call, o.Schema, o.Table, err)
				}
			}
		}
	}
}

func TestTwoQueueTablesSideBySideDoNotMeet(t *testing.T) {
	pool, first := open(t)
	second := store.New(pool, store.Options{Schema: "other"})
	check(t, second.Migrate(t.Context()))
	a, b := put(t, first.Queue("apples"), "first"), put(t, second.Queue("apples"), "second")
	if a != b {
		t.Fatalf("got the ids %d and %d, want the same one twice: this test is about locks on equal ids", a, b)
	}
	one, two := openSession(t, first), openSession(t, second)
	if got := claim(t, one, first.Queue("apples"), 10); len(got.Jobs) != 1 || string(got.Jobs[0].Data) != `"first"` {
		t.Fatalf("claim from the first table: got %v", got.Jobs)
	}
	if got := claim(t, two, second.Queue("apples"), 10); len(got.Jobs) != 1 || string(got.Jobs[0].Data) != `"second"` {
		t.Fatalf("claim from the second table: got %v", got.Jobs)
	}
	if first.Channel() == second.Channel() {
		t.Errorf("both tables notify the channel %s", first.Channel())
	}
}

func TestMigrateByTwentyProcessesAtOnce(t *testing.T) {
	url := pgtest.Database(t)
	tables := []store.Options{{}, {Schema: "app"}, {Schema: "app", Table: "more"}} // two of them make the schema app
	var wg sync.WaitGroup
	for i := range 21 {
		wg.Go(func() {
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			if err := store.New(conn, tables[i%len(tables)]).Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	pool := connectPool(t, url)
	for _, o := range tables {
		check(t, store.New(pool, o).CheckSchema(t.Context()))
	}
}

func TestMigrateIsIdempotentAndRecorded(t *testing.T) {
	pool := openEmpty(t)
	jobs := store.New(pool, store.Options{})
	if applied, err := jobs.MigrationStatus(t.Context()); err != nil || len(applied) > 0 {
		t.Fatalf("status before: got %v, %v, want nothing", applied, err)
	}
	check(t, jobs.Migrate(t.Context()))
	before := catalog(t, pool)
	put(t, jobs.Queue("apples"), 1)
	check(t, jobs.Migrate(t.Context()))
	wantCount(t, pool, 1)
	if diff := cmp.Diff(before, catalog(t, pool)); diff != "" {
		t.Errorf("a second Migrate changed the catalog (-before +after):\n%s", diff)
	}
	applied, err := jobs.MigrationStatus(t.Context())
	check(t, err)
	if len(applied) != sql.Version {
		t.Fatalf("status: got %d versions, want %d", len(applied), sql.Version)
	}
	for i, a := range applied {
		if a.Version != i+1 || a.Name == "" || a.AppliedAt.IsZero() {
			t.Errorf("status of version %d: got %+v", i+1, a)
		}
	}
}

func TestMigrateGoesUpAndDownStepByStep(t *testing.T) {
	pool := openEmpty(t)
	jobs := store.New(pool, store.Options{Schema: "app", Table: "jobs"})
	exec(t, pool, `create schema app`) // may be the user's own, so the way down leaves it
	states := [][]string{catalog(t, pool)}
	for version := 1; version <= sql.Version; version++ {
		check(t, jobs.MigrateTo(t.Context(), version))
		states = append(states, catalog(t, pool))
	}
	for version := sql.Version - 1; version >= 0; version-- {
		check(t, jobs.MigrateTo(t.Context(), version))
		if diff := cmp.Diff(states[version], catalog(t, pool)); diff != "" {
			t.Errorf("down to version %d is not what it was on the way up (-up +down):\n%s", version, diff)
		}
	}
	for _, version := range []int{-1, sql.Version + 1} {
		if err := jobs.MigrateTo(t.Context(), version); err == nil {
			t.Errorf("MigrateTo(%d): got no error", version)
		}
	}
}

func TestMigrateThatFailsLeavesNothing(t *testing.T) {
	pool := openEmpty(t)
	exec(t, pool, `create schema pq_dispatch; create function pq_dispatch.next_due(queue text) returns interval language sql as 'select null::interval'`)
	before := catalog(t, pool)
	if err := store.New(pool, store.Options{}).Migrate(t.Context()); err == nil {
		t.Fatal("got no error though a function of the second step exists already")
	}
	if diff := cmp.Diff(before, catalog(t, pool)); diff != "" {
		t.Errorf("the failed Migrate left something (-before +after):\n%s", diff)
	}
}

func TestMigrateInTheCallersTransaction(t *testing.T) {
	pool := openEmpty(t)
	tx := begin(t, pool)
	jobs := store.New(tx, store.Options{})
	check(t, jobs.Migrate(t.Context()))
	put(t, jobs.Queue("apples"), 1)
	check(t, tx.Rollback(t.Context()))
	wantError(t, store.New(pool, store.Options{}).CheckSchema(t.Context()), store.ErrNotMigrated)
}

func TestMigrationsRunAsPlainSQLEqualMigrate(t *testing.T) {
	for _, o := range []store.Options{{}, {Schema: "App", Table: "jobs", LockClass: 42}} {
		byLibrary := openEmpty(t)
		check(t, store.New(byLibrary, o).Migrate(t.Context()))
		want := catalog(t, byLibrary)

		url := pgtest.Database(t)
		plain := connectPool(t, url)
		jobs := store.New(plain, o)
		migrations, err := jobs.Migrations()
		check(t, err)
		for _, m := range migrations {
			runPlain(t, plain, url, m.Up)
		}
		if diff := cmp.Diff(want, catalog(t, plain)); diff != "" {
			t.Errorf("plain SQL differs from Migrate (-Migrate +plain):\n%s", diff)
		}
		check(t, jobs.CheckSchema(t.Context()))
		check(t, jobs.Migrate(t.Context())) // finds nothing to do
		for _, m := range slices.Backward(migrations) {
			runPlain(t, plain, url, m.Down)
		}
		wantError(t, jobs.CheckSchema(t.Context()), store.ErrNotMigrated)
	}
}

// runPlain runs a script by psql, or by the simple protocol where there is no psql.
func runPlain(t *testing.T, pool *pgxpool.Pool, url, script string) {
	t.Helper()
	psql, err := osexec.LookPath("psql")
	if err != nil {
		conn := connect(t, pool)
		_, err := conn.PgConn().Exec(t.Context(), script).ReadAll()
		check(t, err)
		return
	}
	cmd := osexec.CommandContext(t.Context(), psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", url)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v: %s\n%s", err, out, script)
	}
}

func TestNamesThatShareASupportSchemaAreRefused(t *testing.T) {
	pool := openEmpty(t)
	check(t, store.New(pool, store.Options{Table: "a_b"}).Migrate(t.Context()))
	collides := store.New(pool, store.Options{Schema: "a", Table: "b"}) // both are at home in pq_dispatch_a_b
	_, sessionErr := collides.OpenSession(t.Context())
	for call, err := range map[string]error{
		"Migrate":     collides.Migrate(t.Context()),
		"down":        collides.MigrateTo(t.Context(), 0),
		"CheckSchema": collides.CheckSchema(t.Context()),
		"OpenSession": sessionErr,
	} {
		if !errors.Is(err, store.ErrName) || !strings.Contains(err.Error(), `"a_b"`) {
			t.Errorf("%s: got %v, want ErrName and the table that was there first", call, err)
		}
	}
}

func TestMigrateLeavesAForeignTableAlone(t *testing.T) {
	pool := openEmpty(t)
	exec(t, pool, `create table queue (tickets int)`)
	before := catalog(t, pool)
	err := store.New(pool, store.Options{}).Migrate(t.Context())
	if err == nil || !strings.Contains(err.Error(), "store.Options.Table") {
		t.Fatalf("got %v, want an error that says what to do", err)
	}
	if diff := cmp.Diff(before, catalog(t, pool)); diff != "" {
		t.Errorf("the catalog changed (-before +after):\n%s", diff)
	}
}

func TestCallsBeforeMigrateSayWhatIsMissing(t *testing.T) {
	pool := openEmpty(t)
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	_, putErr := apples.Put(t.Context(), 1)
	_, manyErr := store.PutMany(t.Context(), apples, slices.Values([]int{1}))
	_, getErr := apples.Get(t.Context(), 0)
	_, waitErr := apples.Get(t.Context(), store.Forever)
	_, lenErr := apples.Len(t.Context())
	_, countsErr := jobs.Counts(t.Context())
	_, sessionErr := jobs.OpenSession(t.Context())
	for call, err := range map[string]error{
		"Put": putErr, "PutMany": manyErr, "Get": getErr, "Get, waiting": waitErr, "Len": lenErr, "Counts": countsErr,
		"OpenSession": sessionErr, "CheckSchema": jobs.CheckSchema(t.Context()),
	} {
		if !errors.Is(err, store.ErrNotMigrated) || !strings.Contains(err.Error(), "pq-dispatch migrate up") {
			t.Errorf("%s: got %v, want ErrNotMigrated and what to do", call, err)
		}
	}
	check(t, jobs.MigrateTo(t.Context(), 1)) // the table, without its functions
	wantError(t, jobs.CheckSchema(t.Context()), store.ErrNotMigrated)
}

func TestANewerSchemaIsRefused(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `insert into pq_dispatch.schema_version (version, name, queue) values (99, 'later', '"public"."queue"')`)
	_, sessionErr := jobs.OpenSession(t.Context())
	for call, err := range map[string]error{
		"CheckSchema": jobs.CheckSchema(t.Context()), "Migrate": jobs.Migrate(t.Context()),
		"down": jobs.MigrateTo(t.Context(), 0), "OpenSession": sessionErr,
	} {
		if !errors.Is(err, store.ErrNewerSchema) {
			t.Errorf("%s: got %v, want ErrNewerSchema", call, err)
		}
	}
}

func TestTheTableIsVacuumedByCount(t *testing.T) {
	pool, _ := open(t)
	for table, want := range map[string][]string{
		"queue": {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=5000", "autovacuum_vacuum_insert_scale_factor=0",
			"autovacuum_analyze_scale_factor=0", "autovacuum_vacuum_cost_delay=0"},
		"pq_dispatch.ledger": {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=1000", "autovacuum_vacuum_cost_delay=0"},
	} {
		got := one[[]string](t, pool, `select reloptions from pg_class where oid = $1::text::regclass`, table)
		for _, setting := range want {
			if !slices.Contains(got, setting) {
				t.Errorf("%s: got the settings %v, want %s among them", table, got, setting)
			}
		}
	}
}

func TestARepeatableReadDatabaseDoesNotDisturb(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			url := pgtest.Database(t)
			setUp := connectPool(t, url)
			exec(t, setUp, `do $$ begin execute format('alter database %I set default_transaction_isolation = %L', current_database(), '`+level+`'); end $$`)
			pool := connectPool(t, url)
			if got := one[string](t, pool, `show transaction_isolation`); got != level {
				t.Fatalf("got isolation level %s, want %s", got, level)
			}
			jobs := store.New(pool, store.Options{})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if err := jobs.Migrate(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			id := put(t, jobs.Queue("apples"), 1)
			session := openSession(t, jobs)
			if got := claim(t, session, jobs.Queue("apples"), 10).Jobs; len(got) != 1 || got[0].ID != id {
				t.Fatalf("got claims %v, want job %d", got, id)
			}
		})
	}
}
