// What one who may create functions can do with it: nothing. In a database that comes from PostgreSQL 14 or before, anyone
// may create them in the schema public, and whoever calls an ambiguous name there runs them with rights of their own.

package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// traps are functions and operators in public that are a better match than those of pg_catalog: of the very type
// where that one takes any. And the same as those of pg_catalog, which a search_path may put in front of them.
func traps(t *testing.T, db store.DB) int {
	t.Helper()
	types := []string{"bigint", "integer", "text", "boolean", "double precision", "timestamptz", "jsonb", "tid", "smallint", "oid", "name", "interval"}
	exec(t, db, `create function public.trapped() returns integer language plpgsql as 'begin raise exception ''trapped''; end'`)
	n := 0
	set := func(format string, args ...any) {
		if _, err := db.Exec(t.Context(), fmt.Sprintf(format, args...)); err != nil {
			t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
		}
		n++
	}
	const body = `language plpgsql as 'begin raise exception ''trapped''; end'`

	// Whatever takes any type.
	generic := column[string](t, db, `
		select distinct format('%I|%s', proname, array_to_string(proargtypes::regtype[], ','))
		from pg_proc
		where pronamespace = 'pg_catalog'::regnamespace and pronargs between 1 and 2 and prokind in ('f', 'a', 'w')
		  and (proargtypes::oid[] && array['anyelement', 'anyarray', 'anynonarray', '"any"', 'anycompatible', 'anycompatiblearray', 'anymultirange', 'anyrange']::regtype[]::oid[]
		    or proname in ('host', 'left', 'format', 'to_regclass', 'current_setting', 'pg_notify', 'extract', 'pg_get_serial_sequence', 'nextval'))
		  and prorettype not in ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype)
		  and not proargtypes::oid[] && array['internal', 'cstring']::regtype[]::oid[]
		order by 1`)
	made := map[string]bool{}
	for _, g := range generic {
		name, arguments, _ := strings.Cut(g, "|")
		for _, of := range types {
			list := strings.Split(arguments, ",")
			for i, a := range list {
				switch a {
				case "anyarray", "anycompatiblearray":
					list[i] = of + "[]"
				case "anyelement", "anynonarray", `"any"`, "anycompatible":
					list[i] = of
				case "anyrange":
					list[i] = "int8range"
				case "anymultirange":
					list[i] = "int8multirange"
				}
			}
			if signature := name + "(" + strings.Join(list, ", ") + ")"; !made[signature] {
				made[signature] = true
				set(`create function public.%s returns integer %s`, signature, body)
			}
		}
	}
	for _, sign := range []string{"=", "<>", "<", "<=", ">", ">=", "||", "<@", "@>", "+", "-", "&", "->>", "&&"} {
		for _, of := range types {
			for _, right := range []string{of, of + "[]"} {
				set(`create function public.spring(%s, %s) returns boolean %s`, of, right, body)
				set(`create operator public.%s (leftarg = %s, rightarg = %s, function = public.spring)`, sign, of, right)
				set(`create or replace function public.spring(%s[], %s) returns boolean %s`, of, right, body)
				set(`create operator public.%s (leftarg = %s[], rightarg = %s, function = public.spring)`, sign, of, right)
				exec(t, db, `alter function public.spring(`+of+`, `+right+`) rename to sprung`+fmt.Sprint(n))
				exec(t, db, `alter function public.spring(`+of+`[], `+right+`) rename to sprung`+fmt.Sprint(n))
			}
		}
	}
	return n
}

// works are all the calls of the API.
func works(t *testing.T, jobs *store.Store) {
	ctx := t.Context()
	apples, pears := jobs.Queue("apples"), jobs.Queue("pears")
	do := func(name string, call func() error) {
		t.Helper()
		if err := call(); err != nil {
			t.Errorf("%s: got %v, want that it works as ever", name, err)
		}
	}
	var id int64
	do("put", func() (err error) { id, err = apples.Put(ctx, 1, store.ExpectedAt("1h")); return err })
	do("put many", func() error {
		_, err := store.PutMany(ctx, apples, slices.Values([]int{1, 2, 3}), store.ScheduleAt("1ms"))
		return err
	})
	do("put later", func() error { _, err := pears.Put(ctx, 1, store.ScheduleAt("1h")); return err })
	do("update", func() error { return apples.Update(ctx, id, 2) })
	do("len", func() error { _, err := apples.Len(ctx); return err })
	do("wake", func() error { return apples.Wake(ctx) })
	do("check", func() error { return jobs.CheckSchema(ctx) })
	do("status", func() error { _, err := jobs.MigrationStatus(ctx); return err })
	do("counts", func() error { _, err := jobs.Counts(ctx); return err })
	do("overviews", func() error { _, err := jobs.Overviews(ctx, 10); return err })
	do("names", func() error { _, err := jobs.QueueNames(ctx, 10); return err })
	session, err := jobs.OpenSession(ctx)
	if err != nil {
		t.Fatalf("open a session: got %v", err)
	}
	defer session.Close(ctx)
	do("buckets", func() error { _, err := session.Buckets(ctx, []*store.Queue{apples, pears}); return err })
	do("budget", func() error { _, err := session.LockBudget(ctx); return err })
	do("sweep", func() error { _, err := jobs.Sweep(ctx, session.ID(), []*store.Queue{apples}); return err })
	do("claim", func() error {
		for _, after := range []int64{0, 1} {
			claims, err := session.Claim(ctx, store.ClaimRequest{Queue: apples, Want: 2, Park: true, After: after, Held: []int64{7, 8}})
			if err != nil {
				return err
			}
			for _, job := range claims.Jobs {
				do("find", func() error { _, err := jobs.Find(ctx, job.ID); return err })
				do("uncompleted", func() error { _, err := jobs.Uncompleted(ctx, []store.Run{job.Run()}); return err })
			}
			do("dispatchers", func() error { _, err := jobs.Dispatchers(ctx); return err })
			do("counts of running jobs", func() error { _, err := jobs.Counts(ctx); return err })
			do("overviews of running jobs", func() error { _, err := jobs.Overviews(ctx, 10); return err })
			if len(claims.Jobs) > 0 {
				run := claims.Jobs[0].Run()
				if _, err := jobs.Settle(ctx, nil, []store.Return{{Run: run, Counts: true}}); err != nil {
					return err
				}
			}
			if _, err := session.Claim(ctx, store.ClaimRequest{Release: idsOf(claims.Jobs), Ended: []int64{claims.Batch}, Unpark: []int32{1}}); err != nil {
				return err
			}
		}
		return nil
	})
	do("settle", func() error {
		_, err := jobs.Settle(ctx, []store.Run{{ID: id, Attempt: 1}}, []store.Return{{Run: store.Run{ID: 5, Attempt: 1}}})
		return err
	})
	do("forget", func() error { return session.Forget(ctx, 1) })
	do("bury", func() error { _, _, err := jobs.Bury(ctx, 5, 3); return err })
	do("get", func() error { _, err := apples.Get(ctx, 0); return err })
	do("wait", func() error { _, err := jobs.Queue("nothing").Get(ctx, 1); return err })
	do("pause", func() error { _, err := apples.Pause(ctx, store.PauseOptions{For: 1e9}); return err })
	do("resume", func() error { _, err := apples.Resume(ctx); return err })
	for _, state := range append(store.States, "") {
		do("list "+string(state), func() error {
			page, err := jobs.List(ctx, store.Filter{State: state, Task: "t"}, 1, "")
			if err == nil && page.Next != "" {
				_, err = jobs.List(ctx, store.Filter{State: state, Task: "t"}, 1, page.Next)
			}
			return err
		})
	}
	do("count", func() error {
		for _, err := range jobs.Count(ctx, store.Filter{OlderThan: 1}) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, op := range []store.Operation{store.Cancel(), store.Retry(true), store.Move(pears), store.Discard()} {
		do("operate", func() error { _, err := jobs.Operate(ctx, op, 1, 2, 3, 4, 5, 6); return err })
	}
	do("clear", func() error { _, err := pears.Clear(ctx); return err })
}

func TestWhoMayCreateFunctionsCannotHaveOthersRunThem(t *testing.T) {
	o := plant(t, migrated.Database(t))
	mallory := o.login(t)
	exec(t, o.pool, `grant create on schema public to `+mallory.name)
	var n int
	check(t, pgx.BeginFunc(t.Context(), mallory.pool, func(tx pgx.Tx) error { n = traps(t, tx); return nil }))
	if _, err := o.pool.Exec(t.Context(), `select unnest(array[1::bigint])`); err == nil || !strings.Contains(err.Error(), "trapped") {
		t.Fatalf("got %v, want a trap that works", err)
	}
	t.Logf("%d traps", n)
	works(t, o.jobs)
	works(t, store.New(o.pool, store.Options{}))
	check(t, o.jobs.MigrateRoles(t.Context()))
	check(t, o.jobs.MigrateTo(t.Context(), 0))
	check(t, o.jobs.Migrate(t.Context()))
}

func TestNobodyButASuperuserPutsAnythingInFrontOfTheSystemsOwn(t *testing.T) {
	o := plant(t, pgtest.Database(t))
	check(t, o.jobs.MigrateRoles(t.Context()))
	for _, group := range []string{o.roles.Enqueue, o.roles.Worker, o.roles.Reader, o.roles.Owner} {
		m := o.login(t, group)
		for _, statement := range []string{
			`create operator pg_catalog.= (leftarg = bigint, rightarg = text, function = int8eq)`,
			`create operator pg_catalog.|| (leftarg = bigint, rightarg = bigint, function = int8pl)`,
			`create function pg_catalog.statement_timestamp(integer) returns timestamptz language sql as 'select null'`,
			`create table pg_catalog.queue (id bigint)`,
			`create schema pg_mine`,
		} {
			if err := m.tried(t.Context(), statement); err == nil {
				t.Errorf("%s, as %s: got no error, want that it is refused", statement, m.name)
			}
		}
	}
}

// A temporary table stands in front of all others of its name, in its session.
func TestFunctionsAreNotFooledByTemporaryTablesAndTypes(t *testing.T) {
	pool, _ := open(t)
	conn := connect(t, pool)
	for _, name := range []string{"queue", "ledger", "pauses", "cancels", "schema_version", "pg_locks", "pg_database", "pg_class", "jobs_put", "put"} {
		exec(t, conn, `create temp table `+name+` (trap integer)`)
	}
	for _, name := range []string{"int4", "int8", "text", "timestamptz", "tid", "int8multirange", "regclass", "oid"} {
		exec(t, conn, `create domain pg_temp.`+name+` as boolean`)
	}
	jobs := store.New(conn, store.Options{Schema: "public", Table: "queue"})
	exec(t, conn, `select pq_dispatch.put('apples', '1'), pq_dispatch.put('apples', '2', schedule_at => now()), pq_dispatch.put('apples', '3')`)
	exec(t, conn, `select pq_dispatch.light(7)`)
	if n := one[int](t, conn, `select count(place)::pg_catalog.int4 from pq_dispatch.claim('apples', 1, '{}', 7, 1, false, false, 1000)`); n != 1 {
		t.Errorf("got %d jobs claimed, want 1", n)
	}
	exec(t, conn, `select pq_dispatch.sweep('{apples}', 8), pq_dispatch.running(), pq_dispatch.overview(10), pq_dispatch.list(10, 10), pq_dispatch.dispatchers(), pq_dispatch.next_due('apples')`)
	exec(t, conn, `select pq_dispatch.pause('pears'), pq_dispatch.resume('pears'), pq_dispatch.cancel('{3}'), pq_dispatch.retry('{3}'), pq_dispatch.move('{3}', 'pears'), pq_dispatch.discard('{3}')`)
	exec(t, conn, `select pq_dispatch.release('{1}'), pq_dispatch.park(1), pq_dispatch.unpark(1)`)
	if job := get(t, jobs.Queue("apples")); job == nil || job.ID != 1 {
		t.Errorf("got %v, want job 1", job)
	}
	exec(t, conn, `select pg_advisory_unlock_all()`)
}
