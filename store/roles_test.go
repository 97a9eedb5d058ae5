// S5. Who may do what, by role: every cell is tried.

package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/sql"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// orchard is a migrated table with roles of its own, since roles belong to the whole server.
type orchard struct {
	pool    *pgxpool.Pool
	options store.Options
	jobs    *store.Store
	names   sql.Names
	roles   sql.Roles
}

func plant(t *testing.T, url string) *orchard {
	t.Helper()
	o := &orchard{pool: connectPool(t, url), options: store.Options{Table: "t" + strings.ToLower(rand.Text()[:10])}}
	o.jobs = store.New(o.pool, o.options)
	o.names = sql.Names{Table: o.options.Table}
	o.roles = o.jobs.Roles()
	check(t, o.jobs.Migrate(t.Context()))
	t.Cleanup(func() { // roles are no part of the database, which is dropped
		for _, role := range []string{o.roles.Enqueue, o.roles.Worker, o.roles.Reader, o.roles.Owner} {
			if one[bool](t, detached{o.pool}, `select exists (select from pg_roles where rolname = $1)`, role) {
				_, err := o.pool.Exec(context.Background(), `drop owned by `+role+` cascade; drop role `+role, pgx.QueryExecModeSimpleProtocol)
				check(t, err)
			}
		}
	})
	return o
}

// detached is a pool that can be used when the test's context has ended.
type detached struct{ *pgxpool.Pool }

func (d detached) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	return d.Pool.QueryRow(context.Background(), sql, args...)
}

// login makes a role that is a member of these, and connects as it.
func (o *orchard) login(t *testing.T, groups ...string) *member {
	t.Helper()
	name := "pq_dispatch_test_" + strings.ToLower(rand.Text()[:10])
	exec(t, o.pool, `create role `+name)
	for _, group := range groups {
		exec(t, o.pool, `grant `+group+` to `+name)
	}
	t.Cleanup(func() {
		_, err := o.pool.Exec(context.Background(), `drop owned by `+name+`; drop role `+name, pgx.QueryExecModeSimpleProtocol)
		check(t, err)
	})
	config := o.pool.Config()
	config.ConnConfig.RuntimeParams["role"] = name
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(pool.Close)
	return &member{pool, store.New(pool, o.options), o, name}
}

type member struct {
	pool *pgxpool.Pool
	jobs *store.Store
	*orchard
	name string
}

// run is a statement, in which TABLE, SUPPORT and SEQUENCE stand for names.
func (m *member) run(ctx context.Context, statement string, args ...any) error {
	_, err := m.pool.Exec(ctx, m.fill(statement), args...)
	return err
}

// tried is one that is rolled back.
func (m *member) tried(ctx context.Context, statement string) error {
	tx, err := m.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, m.fill(statement))
	return err
}

func (o *orchard) fill(statement string) string {
	return strings.NewReplacer("TABLE", o.names.Queue(), "SUPPORT", o.names.Support(), "SEQUENCE", o.options.Table+"_id_seq").Replace(statement)
}

// operated is what came of an operation on a job: an error, also if it was not done.
func (m *member) operate(ctx context.Context, op store.Operation, id int64) error {
	results, err := m.jobs.Operate(ctx, op, id)
	if err == nil && (len(results) != 1 || !results[0].Outcome.Done()) {
		err = errors.New("not done")
	}
	return err
}

// session is a dispatcher's, for as long as the function takes.
func (m *member) session(ctx context.Context, do func(*store.Session) error) error {
	session, err := m.jobs.OpenSession(ctx)
	if err != nil {
		return err
	}
	defer session.Close(ctx)
	return do(session)
}

// The subjects, a letter each: enqueue, worker, reader, owner, and a stranger, who has no role.
const subjects = "ewros"

// actions are what is tried, and by whom it may be done. Before each there is one job, due, in the queue apples.
var actions = []struct {
	name    string
	allowed string
	do      func(ctx context.Context, m *member, id int64) error
}{
	// producers
	{"put", "eo", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Queue("pears").Put(ctx, 1, store.ScheduleAt("1h"), store.ExpectedAt("1h"))
		return err
	}},
	{"put in a transaction", "eo", func(ctx context.Context, m *member, _ int64) error {
		return pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error {
			_, err := m.jobs.Queue("pears").With(tx).Put(ctx, 1)
			return err
		})
	}},
	{"put many", "eo", func(ctx context.Context, m *member, _ int64) error {
		_, err := store.PutMany(ctx, m.jobs.Queue("pears"), slices.Values([]int{1, 2, 3}))
		return err
	}},
	{"put by a copy of one's own", "eo", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.pool.CopyFrom(ctx, m.names.Identifier(), []string{"q_name", "data"}, pgx.CopyFromRows([][]any{{"pears", 1}}))
		return err
	}},
	{"put by the function", "eo", statement(`select SUPPORT.put('pears', '1')`)},
	{"put as Python's pq does", "eo", statement(`insert into TABLE (q_name, data, schedule_at, expected_at) values ('pears', '1', null, null) returning id`)},
	{"put notifying each time", "eo", func(ctx context.Context, m *member, _ int64) error {
		return m.run(ctx, `set pq_dispatch.notify = always; insert into TABLE (q_name, data) values ('pears', '1')`, pgx.QueryExecModeSimpleProtocol)
	}},
	{"forge an attempt", "o", statement(`insert into TABLE (q_name, data, attempt) values ('pears', '1', 7)`)},
	{"forge an error", "o", statement(`insert into TABLE (q_name, data, last_error) values ('pears', '1', 'forged')`)},
	{"forge a job that is set aside", "o", statement(`insert into TABLE (q_name, data, dequeued_at, set_aside) values ('pears', '1', now(), true)`)},
	{"turn the sequence back", "o", statement(`select setval('SEQUENCE', 1)`)},

	// dispatchers
	{"get", "wo", func(ctx context.Context, m *member, id int64) error {
		job, err := m.jobs.Queue("apples").Get(ctx, 0)
		if err == nil && (job == nil || job.ID != id) {
			err = errors.New("no job")
		}
		return err
	}},
	{"wait for a job", "wo", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Queue("nothing").Get(ctx, 1)
		return err
	}},
	{"open a lock session", "wo", func(ctx context.Context, m *member, _ int64) error {
		return m.session(ctx, func(*store.Session) error { return nil })
	}},
	{"claim and complete", "wo", func(ctx context.Context, m *member, _ int64) error {
		return m.session(ctx, func(s *store.Session) error {
			queue := m.jobs.Queue("apples")
			claims, err := s.Claim(ctx, store.ClaimRequest{Queue: queue, Want: 1, Park: true})
			if err != nil {
				return err
			}
			n, err := m.jobs.Settle(ctx, []store.Run{claims.Jobs[0].Run()}, nil)
			if err == nil && n != 1 {
				err = errors.New("not completed")
			}
			if err == nil {
				_, err = s.Claim(ctx, store.ClaimRequest{Release: []int64{claims.Jobs[0].ID}, Ended: []int64{claims.Batch}})
			}
			return err
		})
	}},
	{"complete", "wo", func(ctx context.Context, m *member, id int64) error {
		_, err := m.jobs.Settle(ctx, []store.Run{{ID: id, Attempt: 1}}, nil)
		return err
	}},
	{"complete in a transaction", "wo", func(ctx context.Context, m *member, id int64) error {
		return pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error { return m.jobs.CompleteTx(ctx, tx, store.Run{ID: id, Attempt: 1}) })
	}},
	{"look for what was not completed", "wo", func(ctx context.Context, m *member, id int64) error {
		_, err := m.jobs.Uncompleted(ctx, []store.Run{{ID: id, Attempt: 1}})
		return err
	}},
	{"put back", "wo", func(ctx context.Context, m *member, id int64) error {
		_, err := m.jobs.Settle(ctx, nil, []store.Return{{Run: store.Run{ID: id, Attempt: 1}, Reason: "x", Counts: true, SetAside: true}})
		return err
	}},
	{"sweep", "wo", statement(`select SUPPORT.sweep('{apples}', 1)`)},
	{"bury", "wo", func(ctx context.Context, m *member, id int64) error {
		if _, err := m.orchard.pool.Exec(ctx, m.fill(`insert into SUPPORT.ledger (dispatcher, batch, ids, attempts) values (5, 1, array[$1::bigint], '{1}')`), id); err != nil {
			return err
		}
		_, _, err := m.jobs.Bury(ctx, 5, 3)
		return err
	}},
	{"watch a neighbour", "wo", statement(`select SUPPORT.watch(5), SUPPORT.neighbour(5)`)},
	{"write the ledger", "wo", statement(`insert into SUPPORT.ledger (dispatcher, batch, ids, attempts) values (6, 1, '{1}', '{1}')`)},
	{"replace a job's data", "wo", func(ctx context.Context, m *member, id int64) error { return m.jobs.Queue("apples").Update(ctx, id, 2) }},
	{"clear a queue", "wo", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Queue("apples").Clear(ctx)
		return err
	}},
	{"wake a queue", "ewo", func(ctx context.Context, m *member, _ int64) error { return m.jobs.Queue("apples").Wake(ctx) }},

	// operators
	{"cancel", "wo", func(ctx context.Context, m *member, id int64) error { return m.operate(ctx, store.Cancel(), id) }},
	{"discard", "wo", func(ctx context.Context, m *member, id int64) error { return m.operate(ctx, store.Discard(), id) }},
	{"retry", "wo", func(ctx context.Context, m *member, id int64) error {
		if _, err := m.orchard.jobs.Operate(ctx, store.Cancel(), id); err != nil {
			return err
		}
		return m.operate(ctx, store.Retry(false), id)
	}},
	{"move", "o", func(ctx context.Context, m *member, id int64) error {
		return m.operate(ctx, store.Move(m.jobs.Queue("pears")), id)
	}},
	{"change a job's queue", "o", statement(`update TABLE set q_name = 'pears'`)},
	{"change a job's task", "o", statement(`update TABLE set task = 'other'`)},
	{"change a job's id", "o", statement(`update TABLE set id = id + 1000000`)},
	{"pause and resume", "wo", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Queue("apples").Pause(ctx, store.PauseOptions{})
		if err == nil {
			_, err = m.jobs.Queue("apples").Resume(ctx)
		}
		return err
	}},

	// who looks
	{"list", "wro", func(ctx context.Context, m *member, id int64) error {
		page, err := m.jobs.List(ctx, store.Filter{}, 10, "")
		if err == nil && (len(page.Jobs) != 1 || page.Jobs[0].ID != id) {
			err = errors.New("not listed")
		}
		return err
	}},
	{"list what runs", "wro", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.List(ctx, store.Filter{State: store.Running}, 10, "")
		return err
	}},
	{"show", "wro", func(ctx context.Context, m *member, id int64) error {
		_, err := m.jobs.Find(ctx, id)
		return err
	}},
	{"stats", "wro", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Counts(ctx)
		return err
	}},
	{"queues", "wro", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Overviews(ctx, 10)
		if err == nil {
			_, err = m.jobs.QueueNames(ctx, 10)
		}
		return err
	}},
	{"dispatchers", "wro", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Dispatchers(ctx)
		return err
	}},
	{"count due jobs", "wro", func(ctx context.Context, m *member, _ int64) error {
		_, err := m.jobs.Queue("apples").Len(ctx)
		return err
	}},
	{"read data", "wro", statement(`select data, metadata from TABLE`)},
	{"read data as it is deleted", "wo", statement(`delete from TABLE returning data`)},
	{"read data by a conflict", "o", statement(`insert into TABLE (id, q_name, data) select max(id), 'pears', '1' from TABLE on conflict (id) do update set data = '2' returning data`)},
	{"read ids", "ewro", statement(`select id from TABLE`)},
	{"read the ledger", "wro", statement(`select * from SUPPORT.ledger`)},
	{"read pauses", "wro", statement(`select * from SUPPORT.pauses`)},
	{"read the version", "ewro", func(ctx context.Context, m *member, _ int64) error { return m.jobs.CheckSchema(ctx) }},

	// owners
	{"migrate", "o", func(ctx context.Context, m *member, _ int64) error {
		tx, err := m.pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if err := m.jobs.With(tx).MigrateTo(ctx, 1); err != nil {
			return err
		}
		return m.jobs.With(tx).Migrate(ctx)
	}},
	{"forge the version", "o", trial(`update SUPPORT.schema_version set version = 99 where version = 1`)},
	{"truncate", "o", trial(`truncate TABLE`)},
	{"drop the table", "o", trial(`drop table TABLE`)},
	{"drop the schema", "o", trial(`drop schema SUPPORT cascade`)},
	{"replace a function", "o", trial(`create or replace function SUPPORT.lock_key(id bigint) returns integer language sql immutable as 'select 1'`)},
	{"add a function", "o", trial(`create function SUPPORT.mine() returns integer language sql as 'select 1'`)},
	{"switch the trigger off", "o", trial(`alter table TABLE disable trigger user`)},
	{"add a trigger", "o", trial(`create trigger mine after insert on TABLE execute function SUPPORT.on_put()`)},
	{"add an index", "o", trial(`create index mine on TABLE (id)`)},
	{"refer to the table", "o", trial(`create temp table mine (id bigint); alter table TABLE add unique (q_name, id)`)},
	{"rename the table", "o", trial(`alter table TABLE rename to mine`)},
	{"make a role", "", trial(`create role pq_dispatch_test_never`)},

	// what nobody can be kept from
	{"listen", "ewros", statement(`listen SUPPORT; unlisten SUPPORT`)},
	{"notify", "ewros", statement(`select pg_notify('SUPPORT', '0 apples')`)},
	{"advisory lock", "ewros", trial(`select pg_advisory_xact_lock(1, 1)`)},
}

func statement(text string) func(context.Context, *member, int64) error {
	return func(ctx context.Context, m *member, _ int64) error {
		return m.run(ctx, text, pgx.QueryExecModeSimpleProtocol)
	}
}

func trial(text string) func(context.Context, *member, int64) error {
	return func(ctx context.Context, m *member, _ int64) error {
		for part := range strings.SplitSeq(text, ";") {
			if err := m.tried(ctx, part); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestEachRoleMayDoWhatItIsForAndNothingElse(t *testing.T) {
	o := plant(t, pgtest.Database(t))
	check(t, o.jobs.MigrateRoles(t.Context()))
	members := map[rune]*member{
		'e': o.login(t, o.roles.Enqueue), 'w': o.login(t, o.roles.Worker), 'r': o.login(t, o.roles.Reader),
		'o': o.login(t, o.roles.Owner), 's': o.login(t),
	}
	cells := 0
	for _, a := range actions {
		for _, who := range subjects {
			cells++
			exec(t, o.pool, o.fill(`delete from TABLE`))
			exec(t, o.pool, o.fill(`delete from SUPPORT.ledger`))
			id := put(t, o.jobs.Queue("apples"), "a secret of the data")
			before := one[string](t, o.pool, o.fill(`select q::text from TABLE q`))
			err := a.do(t.Context(), members[who], id)
			pgErr, _ := errors.AsType[*pgconn.PgError](err)
			switch allowed := strings.ContainsRune(a.allowed, who); {
			case allowed && err != nil:
				t.Errorf("%s, as %c: got %v, want that it may", a.name, who, err)
			case !allowed && (pgErr == nil || pgErr.Code != "42501"):
				t.Errorf("%s, as %c: got %v, want that it may not (42501)", a.name, who, err)
			case !allowed && a.name != "retry":
				if after := one[string](t, o.pool, o.fill(`select q::text from TABLE q`)); after != before {
					t.Errorf("%s, as %c: got the job %s, want it as it was: %s", a.name, who, after, before)
				}
			}
		}
	}
	t.Logf("%d cells", cells)
}

func TestRolesCanBeMadeAgainAndStrayRightsAreTakenBack(t *testing.T) {
	o := plant(t, pgtest.Database(t))
	check(t, o.jobs.MigrateRoles(t.Context()))
	rights := o.fill(`
		select coalesce(string_agg(r, ' ' order by r), '')
		from (
		  select relname || relowner || relacl::text as r from pg_class where oid = 'TABLE'::regclass or relnamespace = 'SUPPORT'::regnamespace
		  union all
		  select attname || attacl::text from pg_attribute where attrelid = 'TABLE'::regclass and attacl is not null
		  union all
		  select proname || proowner || proacl::text from pg_proc where pronamespace = 'SUPPORT'::regnamespace
		  union all
		  select nspname || nspowner || nspacl::text from pg_namespace where nspname = 'SUPPORT'
		) rights`)
	want := one[string](t, o.pool, rights)
	exec(t, o.pool, o.fill(`grant all on TABLE to public`))
	exec(t, o.pool, o.fill(`grant update (q_name) on TABLE to `+o.roles.Enqueue))
	exec(t, o.pool, o.fill(`grant execute on function SUPPORT.get(text) to `+o.roles.Reader))
	var runs sync.WaitGroup
	for range 4 {
		runs.Go(func() {
			if err := o.jobs.MigrateRoles(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	if got := one[string](t, o.pool, rights); got != want {
		t.Errorf("got the rights %s,\nwant %s", got, want)
	}
}

// S4. Functions can be called by the public where there are no roles, as PostgreSQL has it, but not reached: their schema
// is closed to it. With roles, not even if someone opens that.
func TestThePublicHasNoRights(t *testing.T) {
	o := plant(t, pgtest.Database(t))
	open := func(kind, query string) {
		t.Helper()
		if open := column[string](t, o.pool, o.fill(query)); len(open) > 0 {
			t.Errorf("got rights of the public on the %s %v, want none", kind, open)
		}
	}
	for _, withRoles := range []bool{false, true} {
		if withRoles {
			check(t, o.jobs.MigrateRoles(t.Context()))
			open("functions", `select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where p.pronamespace = 'SUPPORT'::regnamespace and a.grantee = 0`)
		}
		open("tables", `select c.oid::regclass::text from pg_class c, aclexplode(c.relacl) a where (c.oid = 'TABLE'::regclass or c.relnamespace = 'SUPPORT'::regnamespace) and a.grantee = 0`)
		open("sequence", `select relname::text from pg_class c, aclexplode(c.relacl) a where c.relname = 'SEQUENCE' and a.grantee = 0`)
		open("schema", `select n.nspname::text from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'SUPPORT' and a.grantee = 0`)
	}
	if one[int](t, o.pool, o.fill(`select count(*)::int from pg_proc where pronamespace = 'SUPPORT'::regnamespace and proowner <> (select oid from pg_roles where rolname = '`+o.roles.Owner+`')`)) != 0 {
		t.Error("got functions that the owner does not own, want none")
	}
}

// One who is no superuser, but owns the database and may create roles.
func TestAPlainOwnerMakesTheRolesAndGoesOnAsBefore(t *testing.T) {
	url := pgtest.Database(t)
	admin := connectPool(t, url)
	name := "pq_dispatch_test_" + strings.ToLower(rand.Text()[:10])
	exec(t, admin, `create role `+name+` createrole`)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), `reassign owned by `+name+` to current_user; drop owned by `+name+`; drop role `+name, pgx.QueryExecModeSimpleProtocol)
		check(t, err)
	})
	exec(t, admin, `do $$ begin execute format('alter database %I owner to `+name+`', current_database()); end $$`)
	config := admin.Config()
	config.ConnConfig.RuntimeParams["role"] = name
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(pool.Close)

	o := plant(t, url)
	exec(t, admin, o.fill(`drop table TABLE cascade; drop schema SUPPORT cascade`), pgx.QueryExecModeSimpleProtocol)
	jobs := store.New(pool, o.options)
	check(t, jobs.Migrate(t.Context()))
	check(t, jobs.MigrateRoles(t.Context()))
	check(t, jobs.MigrateRoles(t.Context()))
	put(t, jobs.Queue("apples"), 1)
	session := openSession(t, jobs)
	release(t, session, claim(t, session, jobs.Queue("apples"), 1))
	check(t, jobs.MigrateTo(t.Context(), 1))
	check(t, jobs.Migrate(t.Context()))
	check(t, jobs.MigrateRoles(t.Context()))
	check(t, jobs.MigrateTo(t.Context(), 0))
}

// Roles belong to the server, where no advisory lock reaches: those of one database do not see those of another.
func TestSeveralDatabasesOfAServerMayMakeTheSameRolesAtOnce(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{Settings: map[string]string{"default_transaction_isolation": "repeatable read"}})
	admin := connectPool(t, server.URL(""))
	exec(t, admin, `create role plain login createrole`)
	type maker struct {
		pool *pgxpool.Pool
		jobs *store.Store
	}
	for _, owner := range []string{"", "plain"} {
		const databases = 3
		var pools []*pgxpool.Pool
		for i := range databases {
			name := fmt.Sprintf("%sd%d", owner, i)
			exec(t, admin, `create database `+name)
			if owner != "" {
				exec(t, admin, `alter database `+name+` owner to `+owner)
			}
			config, err := pgxpool.ParseConfig(server.URL(name))
			check(t, err)
			if owner != "" {
				config.ConnConfig.RuntimeParams["role"] = owner
			}
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			check(t, err)
			t.Cleanup(pool.Close)
			pools = append(pools, pool)
		}
		for round := range 2 {
			options := store.Options{Table: fmt.Sprintf("t%s%d", owner, round)}
			if round%2 == 1 { // then nobody waits for whoever makes them, and all go on at once
				r := store.New(nil, options).Roles()
				for _, role := range []string{r.Enqueue, r.Worker, r.Reader, r.Owner} {
					exec(t, pools[0], `create role `+role)
				}
			}
			var makers []maker
			for _, pool := range pools {
				m := maker{pool, store.New(pool, options)}
				check(t, m.jobs.Migrate(t.Context()))
				makers = append(makers, m, m) // two of each database
			}
			var runs sync.WaitGroup
			for _, m := range makers {
				runs.Go(func() {
					if err := m.jobs.MigrateRoles(t.Context()); err != nil {
						t.Errorf("round %d, owner %q: %v", round, owner, err)
					}
				})
			}
			runs.Wait()
			for _, m := range makers {
				var owner string
				err := m.pool.QueryRow(t.Context(), `select relowner::regrole::text from pg_class where oid = $1::regclass`, options.Table).Scan(&owner)
				if want := m.jobs.Roles().Owner; err != nil || owner != want {
					t.Errorf("round %d: got a table of %s, %v, want it of %s", round, owner, err, want)
				}
			}
		}
	}
}

func TestRolesNeedAMigratedTableAndTheRightToMakeThem(t *testing.T) {
	o := plant(t, pgtest.Database(t))
	stranger := o.login(t)
	exec(t, o.pool, o.fill(`grant usage on schema SUPPORT to `+stranger.name))
	exec(t, o.pool, o.fill(`grant select on SUPPORT.schema_version to `+stranger.name))
	err := stranger.jobs.MigrateRoles(t.Context())
	if err == nil || !strings.Contains(err.Error(), "store: migrate the roles: a superuser can do it") {
		t.Errorf("got %v, want an error that says who can", err)
	}
	check(t, o.jobs.MigrateTo(t.Context(), 2))
	wantError(t, o.jobs.MigrateRoles(t.Context()), store.ErrNotMigrated)
	wantError(t, store.New(o.pool, store.Options{Table: "no such"}).MigrateRoles(t.Context()), store.ErrName)
}
