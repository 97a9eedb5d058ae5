package doctor

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return store.New(conn, store.Options{}).Migrate(ctx)
}

var migrated = pgtest.Template{Setup: migrate}

// ward is a database to be spoilt.
type ward struct {
	*testing.T
	url   string
	admin *pgx.Conn
}

func newWard(t *testing.T, url string) *ward {
	t.Helper()
	return &ward{t, url, connect(t, url)}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// run runs statements, one after another, in the session.
func run(t *testing.T, conn *pgx.Conn, script string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
}

func (w *ward) run(script string) {
	w.Helper()
	run(w.T, w.admin, script)
}

// session is one beside that of the administrator.
func (w *ward) session(script string) {
	w.Helper()
	run(w.T, connect(w.T, w.url), script)
}

// database is the name of the ward's.
func (w *ward) database() string { return pgx.Identifier{w.admin.Config().Database}.Sanitize() }

// examine examines the database at an address.
func examine(t *testing.T, address string, s store.Options, o Options) []Finding {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	findings, err := Examine(t.Context(), pool, store.New(pool, s), o)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

func find(t *testing.T, findings []Finding, check string) Finding {
	t.Helper()
	for _, f := range findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("got no finding of the check %s", check)
	return Finding{}
}

func (f Finding) wants(t *testing.T, level Level, part string) {
	t.Helper()
	if f.Level != level || !strings.Contains(f.Text, part) {
		t.Errorf("check %s: got %s, %q, want %s with %q", f.Check, f.Level, f.Text, level, part)
	}
	if (f.Remedy == "") != (level == OK) {
		t.Errorf("check %s, %s: got the remedy %q", f.Check, f.Level, f.Remedy)
	}
}

func TestAHealthyDatabaseHasNoProblem(t *testing.T) {
	findings := examine(t, migrated.Database(t), store.Options{}, Options{})
	if len(findings) != len(checks) {
		t.Errorf("got %d findings, want %d", len(findings), len(checks))
	}
	for _, f := range findings {
		want := OK
		if f.Check == "durability" { // the test's server is not for keeps
			want = Warning
		}
		f.wants(t, want, "")
		t.Logf("%-8s %-14s %s", f.Level, f.Check, f.Text)
	}
	if got := Worst(findings); got != Warning {
		t.Errorf("worst: got %s, want warning", got)
	}
}

func TestTablesOfAnotherNameAreExamined(t *testing.T) {
	w := newWard(t, pgtest.Database(t))
	names := store.Options{Schema: "Farm", Table: "Jobs"}
	o := Options{}
	o.Names.Schema, o.Names.Table = names.Schema, names.Table
	if err := store.New(w.admin, names).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range examine(t, w.url, names, o) {
		if f.Level != OK && f.Check != "durability" {
			t.Errorf("got %+v, want ok", f)
		}
	}
	w.run(`drop index "Farm"."Jobs_ready_idx"`)
	f := find(t, examine(t, w.url, names, o), "indexes")
	f.wants(t, Problem, "Jobs_ready_idx is missing")
	w.run(f.Remedy)
	find(t, examine(t, w.url, names, o), "indexes").wants(t, OK, "valid")
}

func TestEachCheckSeesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		check  string
		spoil  func(w *ward)
		o      Options
		level  Level
		text   string
		remedy string // a part; it is carried out if it is run
	}{
		{"schema", func(w *ward) {
			if err := store.New(w.admin, store.Options{}).MigrateTo(w.Context(), 2); err != nil {
				w.Fatal(err)
			}
		}, Options{}, Problem, "older version", "migrate up"},
		{"schema", func(w *ward) { w.run(`insert into pq_dispatch.schema_version values (99, 'later', 'public.queue')`) }, Options{},
			Problem, "", ""},
		{"objects", func(w *ward) { w.run(`drop function pq_dispatch.batch_size()`) }, Options{}, Problem, "batch_size()", "migrate print"},
		{"objects", func(w *ward) { w.run(`alter table pq_dispatch.ledger drop constraint ledger_pkey`) }, Options{}, Problem, "ledger", ""},
		{"objects", func(w *ward) { w.run(`drop table pq_dispatch.pauses`) }, Options{}, Problem, "pauses", ""},
		{"indexes", func(w *ward) { w.run(`drop index queue_scheduled_idx`) }, Options{}, Problem, "queue_scheduled_idx is missing", "run"},
		{"indexes", func(w *ward) {
			w.run(`update pg_index set indisvalid = false where indexrelid = 'queue_taken_idx'::regclass`)
		}, Options{}, Problem, "queue_taken_idx is invalid", "run"},
		{"indexes", func(w *ward) {
			w.run(`drop index queue_ready_idx; create index queue_ready_idx on queue (q_name, id) where schedule_at is null and dequeued_at is null`)
		}, Options{}, Problem, "queue_ready_idx is another one", "run"},
		{"trigger", func(w *ward) { w.run(`alter table queue disable trigger pq_dispatch_put`) }, Options{}, Problem, "disabled", "run"},
		{"trigger", func(w *ward) { w.run(`drop trigger pq_dispatch_put on queue`) }, Options{}, Problem, "missing", ""},
		{"trigger", func(w *ward) {
			w.run(`alter database ` + w.database() + ` set session_replication_role = replica`)
		}, Options{}, Problem, "replica", ""},
		{"trigger", func(w *ward) { w.run(`alter database ` + w.database() + ` set pq_dispatch.notify = off`) }, Options{}, Warning, "is off", ""},
		{"trigger", func(w *ward) { w.run(`alter database ` + w.database() + ` set pq_dispatch.notify = always`) }, Options{}, Warning, "is always", ""},
		{"locks", func(w *ward) {}, Options{Concurrency: 100_000}, Problem, "less than the 100000", "max_locks_per_transaction"},
		{"locks", func(w *ward) {}, Options{Dispatchers: 1000}, Warning, "if there are 1000", ""},
		{"locks", func(w *ward) { w.session(`select count(pg_advisory_lock(4711, i)) from generate_series(1, 6000) i`) }, Options{}, Problem, "60", ""},
		{"connections", func(w *ward) { w.run(`alter database ` + w.database() + ` connection limit 5`) }, Options{}, Problem, "the database's connection limit", ""},
		{"connections", func(w *ward) {}, Options{Headroom: 1000}, Warning, "max_connections", ""},
		{"timeouts", func(w *ward) {
			w.run(`alter database ` + w.database() + ` set statement_timeout = '2s'; alter database ` + w.database() + ` set idle_session_timeout = '5s'`)
		}, Options{}, Warning, "idle_session_timeout is 5s, which ends the session that listens; statement_timeout is 2s", ""},
		{"timeouts", func(w *ward) { w.run(`alter database ` + w.database() + ` set statement_timeout = '10min'`) }, Options{}, OK, "10m0s", ""},
		{"durability", func(w *ward) {}, Options{}, Warning, "fsync is off", ""},
		{"autovacuum", func(w *ward) { w.run(`alter table queue set (autovacuum_enabled = false)`) }, Options{}, Problem, "switched off for", ""},
		{"autovacuum", func(w *ward) { w.run(`alter database ` + w.database() + ` set track_counts = off`) }, Options{}, Problem, "track_counts off", ""},
		{"autovacuum", func(w *ward) { w.run(`alter database ` + w.database() + ` set track_activities = off`) }, Options{}, Warning, "track_activities", ""},
		{"dead rows", func(w *ward) {
			w.run(`insert into queue (q_name, data) select 'apples', '1' from generate_series(1, 500)`)
			w.run(`delete from queue; select pg_stat_force_next_flush()`)
		}, Options{DeadRows: 100, Vacuumed: -1}, Warning, "queue has 500 dead rows", "vacuum"},
		{"xmin", func(w *ward) { w.session(`begin isolation level repeatable read; select 1`) }, Options{OldTransaction: time.Nanosecond},
			Warning, "idle in transaction, holds vacuum back", "pg_terminate_backend"},
		{"xmin", func(w *ward) {
			w.session(`begin isolation level repeatable read; select 1`)
			for range 20 {
				w.run(`select pg_current_xact_id()`)
			}
		}, Options{OldXIDs: 20}, Warning, " transactions: claims step over", ""}, // 20, and what autovacuum does meanwhile
		{"notifications", func(w *ward) {
			listener := connect(w.T, w.url)
			run(w.T, listener, `listen a`) // on its own: else it would be a part of the transaction
			run(w.T, listener, `begin; select 1`)
			w.run(`select count(pg_notify('a', i || repeat('x', 7000))) from generate_series(1, 200) i`)
		}, Options{NotifyUsage: 1e-6}, Warning, "is in a transaction", "end the oldest"},
		{"clock", func(*ward) {}, Options{now: func() time.Time { return time.Now().Add(-5 * time.Second) }}, Warning, "ahead of this machine's", ""},
		{"clock", func(*ward) {}, Options{now: func() time.Time { return time.Now().Add(time.Hour) }}, Warning, "behind this machine's", ""},
		{"dispatchers", func(w *ward) { w.run(`select pq_dispatch.put('apples', '1')`) }, Options{}, Warning, "jobs wait", "start one"},
		{"dispatchers", func(w *ward) { w.session(`begin; select pq_dispatch.light(7)`) }, Options{}, Problem, "idle in transaction", ""},
		{"dispatchers", func(w *ward) { w.session(`select pq_dispatch.light(7)`) }, Options{}, OK, "1 connected, with 0 jobs", ""},
		{"ledger", func(w *ward) { w.run(`insert into pq_dispatch.ledger values (42, 1, '{1,2}', '{1,1}')`) }, Options{},
			Warning, "claims of dead dispatchers are left: 2 jobs of 1", "start a dispatcher"},
		{"ledger", func(w *ward) {
			w.session(`select pq_dispatch.light(7)`)
			w.run(`insert into pq_dispatch.ledger values (42, 1, '{1,2}', '{1,1}')`)
		}, Options{}, Warning, "which the others should have seen to", ""},
	} {
		t.Run(tt.check+" "+tt.text, func(t *testing.T) {
			w := newWard(t, migrated.Database(t))
			tt.spoil(w)
			f := find(t, examine(t, w.url, store.Options{}, tt.o), tt.check)
			f.wants(t, tt.level, tt.text)
			if tt.remedy == "run" {
				for statement := range strings.SplitSeq(f.Remedy, "; ") { // create index concurrently stands alone
					w.run(statement)
				}
				find(t, examine(t, w.url, store.Options{}, tt.o), tt.check).wants(t, OK, "")
			} else if !strings.Contains(f.Remedy, tt.remedy) {
				t.Errorf("remedy: got %q, want it to contain %q", f.Remedy, tt.remedy)
			}
		})
	}
}

func TestADatabaseThatIsNotMigratedSaysThatOnly(t *testing.T) {
	findings := examine(t, pgtest.Database(t), store.Options{}, Options{})
	last := findings[len(findings)-1]
	if last.Check != "schema" {
		t.Errorf("got a last finding %+v, want that of the schema", last)
	}
	last.wants(t, Problem, "not migrated")
}

// What privileges says a role may do is what it may do, and what it grants is enough.
func TestPrivilegesAreThoseThatAreNeeded(t *testing.T) {
	w := newWard(t, migrated.Database(t))
	role := "doctor_" + w.admin.Config().Database[len("pq_dispatch_test_"):]
	w.run(`create role ` + role + ` login password 'secret'`)
	t.Cleanup(func() {
		for _, statement := range []string{`drop owned by ` + role, `drop role ` + role} {
			if _, err := w.admin.Exec(context.Background(), statement); err != nil {
				t.Error(err)
			}
		}
	})
	u, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")

	findings := examine(t, u.String(), store.Options{}, Options{})
	find(t, findings, "monitoring").wants(t, Warning, "no more of other roles")
	find(t, findings, "ledger").wants(t, Warning, "may not look")
	find(t, findings, "privileges").wants(t, Problem, "may not put")
	w.run(`grant usage on schema pq_dispatch to ` + role + `; grant insert, select on queue to ` + role)
	jobs := store.New(connect(t, u.String()), store.Options{})
	if _, err := jobs.Queue("apples").Put(t.Context(), "Cox"); err != nil {
		t.Errorf("put: %v", err)
	}
	f := find(t, examine(t, u.String(), store.Options{}, Options{}), "privileges")
	f.wants(t, Warning, role+` may put, but not work (needs update on "public"."queue"`)
	_, grants, _ := strings.Cut(f.Remedy, ": ")
	w.run(grants)
	find(t, examine(t, u.String(), store.Options{}, Options{}), "privileges").wants(t, OK, "may put, work, operate")

	session, err := jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(t.Context())
	claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: jobs.Queue("apples"), Want: 1})
	if err != nil || len(claims.Jobs) != 1 {
		t.Fatalf("claim: got %v, %v, want one job", claims.Jobs, err)
	}
	if _, _, err := jobs.Bury(t.Context(), 4711, 3); err != nil {
		t.Errorf("bury: %v", err)
	}
	if _, err := jobs.Queue("apples").Pause(t.Context(), store.PauseOptions{}); err != nil {
		t.Errorf("pause: %v", err)
	}
	if _, err := jobs.Queue("apples").Resume(t.Context()); err != nil {
		t.Errorf("resume: %v", err)
	}
	if _, err := jobs.Operate(t.Context(), store.Cancel(), claims.Jobs[0].ID); err != nil {
		t.Errorf("cancel: %v", err)
	}
	w.run(`grant pg_read_all_stats to ` + role)
	find(t, examine(t, u.String(), store.Options{}, Options{}), "monitoring").wants(t, OK, "")
}

func TestADirectConnectionThatFailsIsAProblem(t *testing.T) {
	nowhere := func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, "postgres://127.0.0.1:1/app") }
	findings := examine(t, migrated.Database(t), store.Options{Connect: nowhere}, Options{})
	find(t, findings, "connection").wants(t, Problem, "the direct connection fails")
	find(t, findings, "timeouts").wants(t, Warning, "not known")
	find(t, findings, "keepalives").wants(t, Warning, "not known")
}

func TestADatabaseThatCannotBeReachedIsAnError(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/app")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if findings, err := Examine(t.Context(), pool, store.New(pool, store.Options{}), Options{}); err == nil || findings != nil {
		t.Errorf("got %v, %v, want an error", findings, err)
	}
}

// What takes a server of one's own to spoil.
func TestServersThatAreSetUpOtherwise(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{Settings: map[string]string{"fsync": "on", "max_prepared_transactions": "2", "max_locks_per_transaction": "10", "max_connections": "20"}})
	if err := migrate(t.Context(), server.URL("")); err != nil {
		t.Fatal(err)
	}
	w := newWard(t, server.URL(""))
	findings := examine(t, w.url, store.Options{}, Options{OldTransaction: time.Nanosecond})
	find(t, findings, "durability").wants(t, OK, "synchronous_commit is on")
	find(t, findings, "locks").wants(t, OK, "room for 220: 110 jobs in hand for a dispatcher, if there is 1")

	w.run(`begin`)
	w.run(`select pg_current_xact_id(); prepare transaction 'left over'`)
	f := find(t, examine(t, w.url, store.Options{}, Options{OldTransaction: time.Nanosecond}), "xmin")
	f.wants(t, Warning, "prepared transaction left over, prepared, holds vacuum back")
	w.run(`rollback prepared 'left over'`)
	w.run(`alter database postgres set synchronous_commit = off`)
	find(t, examine(t, w.url, store.Options{}, Options{}), "durability").wants(t, Warning, "synchronous_commit is off")
	f = find(t, examine(t, w.url, store.Options{}, Options{Concurrency: 300, Dispatchers: 2}), "locks")
	f.wants(t, Problem, "less than the 300")
	if want := "set max_locks_per_transaction to 55 "; !strings.HasPrefix(f.Remedy, want) { // 2 x 2 x 300 / 22
		t.Errorf("remedy: got %q, want %q", f.Remedy, want)
	}

	w.run(`alter system set autovacuum = off`)
	w.run(`select pg_reload_conf()`)
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for { // the postmaster tells its processes in its own time
		f = find(t, examine(t, w.url, store.Options{}, Options{}), "autovacuum")
		if f.Level == Problem {
			break
		}
		select {
		case <-deadline.C:
			t.Fatalf("got %+v for 10 s, want a problem", f)
		default:
		}
	}
	f.wants(t, Problem, "autovacuum off")

	standby, err := server.Standby(t.Context())
	if err != nil {
		t.Skip(err)
	}
	defer standby.Close()
	find(t, examine(t, standby.URL(""), store.Options{}, Options{}), "server").wants(t, Problem, "standby")
}

func TestJudgements(t *testing.T) {
	seconds := func(s float64) *float64 { return &s }
	const old, xids = 5 * time.Minute, 1000
	for _, tt := range []struct {
		f     Finding
		level Level
		text  string
	}{
		{judgeServer(14, "14.9", false), Problem, "14.9 is too old"},
		{judgeServer(18, "18.1", false), OK, "18.1"},
		{judgeKeepalives(true, keepalive{}), OK, "local socket"},
		{judgeKeepalives(false, keepalive{0, 5, 3, 20000}), Warning, "vanishes stay claimed"},
		{judgeKeepalives(false, keepalive{5, 5, 3, 0}), Warning, "tcp_user_timeout"},
		{judgeKeepalives(false, keepalive{5, 5, 3, 20000}), OK, "within 20 s"},
		{judgeLocks(lockTable{64, 100, 6000, 1}, 0, 0), Problem, "6000 locks are held"},
		{judgeLocks(lockTable{64, 100, 5000, 1}, 0, 0), Warning, "5000 locks are held"},
		{judgeLocks(lockTable{64, 100, 10, 40}, 2, 0), Warning, "80 jobs in hand for a dispatcher, if there are 40"},
		{judgeLocks(lockTable{64, 100, 10, 0}, 0, 0), OK, "3200 jobs in hand for a dispatcher, if there is 1"},
		{judgeConnections(-1, 100, "max_connections", 10), Problem, "0 of 100"},
		{judgeConnections(9, 100, "max_connections", 10), Warning, "9 of 100"},
		{judgeConnections(10, 100, "max_connections", 10), OK, ""},
		{judgeTimeouts(nil), OK, "none is set"},
		{judgeTimeouts(map[string]time.Duration{"transaction_timeout": 10 * time.Second, "lock_timeout": time.Minute}), Warning, "transaction_timeout is 10s"},
		{judgeXmin(nil, old, xids), OK, "nothing"},
		{judgeXmin([]holder{{"session", "1", seconds(299), 999, "active"}}, old, xids), OK, "nothing"},
		{judgeXmin([]holder{{"session", "1", seconds(2), 9, "active"}, {"session", "2", seconds(300), 5, "active"}}, old, xids), Warning, "session 2"},
		{judgeXmin([]holder{{"replication slot", "copy", nil, 1000, "inactive"}}, old, xids), Warning, "replication slot copy, inactive"},
		{judgeXmin([]holder{{"standby", "7 (copy)", nil, 5000, "streaming"}}, old, xids), Warning, "standby 7"},
		{judgeDeadRows([]vacuumed{{"queue", 5, 101, nil}}, 100, time.Minute), Warning, "never vacuumed"},
		{judgeDeadRows([]vacuumed{{"queue", 5, 101, seconds(61)}}, 100, time.Minute), Warning, "vacuumed 1m1s ago"},
		{judgeDeadRows([]vacuumed{{"queue", 5, 101, seconds(59)}, {"ledger", 0, 0, nil}}, 100, time.Minute), OK, "ledger"},
		{judgeNotifications(0.2, 0.1), Warning, "20 %"},
		{judgeNotifications(0.51, 0.1), Problem, "every commit that notifies fails"},
		{judgeNotifications(0.05, 0.1), OK, "5 %"},
		{judgeDurability("off", "on", "on"), Warning, "synchronous_commit"},
		{judgeDurability("local", "on", "on"), OK, "local"},
		{judgeDurability("on", "on", "off"), Warning, "full_page_writes off"},
	} {
		tt.f.wants(t, tt.level, tt.text)
	}
	for name, want := range releases {
		if f := judgeXmin([]holder{{Kind: name, XIDs: xids}}, old, xids); f.Remedy != want || want == "" {
			t.Errorf("%s: got the remedy %q, want %q", name, f.Remedy, want)
		}
	}
}

func TestWorstIsTheWorstOfAll(t *testing.T) {
	for want, levels := range map[Level][]Level{OK: {OK, OK}, Warning: {OK, Warning, OK}, Problem: {Problem, Warning, OK}} {
		var findings []Finding
		for _, l := range levels {
			findings = append(findings, Finding{Level: l})
		}
		if got := Worst(findings); got != want {
			t.Errorf("%v: got %s, want %s", levels, got, want)
		}
	}
	if got := Worst(nil); got != OK {
		t.Errorf("nothing: got %s, want ok", got)
	}
}
