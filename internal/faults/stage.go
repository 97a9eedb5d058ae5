// A stage: a server with a database, the proxy in front of it, and the processes at work.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	dispatchers = 3
	producers   = 2
	database    = "faults"

	// settling is how long jobs may take in the end without any of them coming to its end.
	settling = 40 * time.Second
)

// audit is what the judge has in the database: completions as they are, whatever the product says of them, and effects.
const audit = `
	create schema faults;
	create table faults.completions (token bigint, job bigint, attempt integer, at timestamptz);
	create table faults.effects (token bigint, job bigint, attempt integer, process text);
	create table faults.side_effects (like faults.effects);
	create function faults.on_delete() returns trigger language plpgsql as $$
	begin
	  insert into faults.completions select (data ->> 't')::bigint, id, attempt, clock_timestamp() from gone;
	  return null;
	end
	$$;
	create trigger completed after delete on public.queue
	referencing old table as gone for each statement execute function faults.on_delete()`

// stage is one as it stands.
type stage struct {
	*scene.Scene
	dir      string // of the journals
	fleet    *fleet
	servers  []*devpg.Server
	log      *serverLog
	offset   int64 // of the server's clock from the journal's, in ns
	settings settings
	started  int // processes of the fleet

	surveying sync.WaitGroup
	unsurvey  context.CancelFunc // ends that
}

// open builds a stage. On an error nothing stays.
func open(ctx context.Context, o *plan, needs scene.Needs, dir string, log *slog.Logger) (st *stage, err error) {
	j, err := journal.Create(dir, "run")
	if err != nil {
		return nil, err
	}
	st = &stage{dir: dir, Scene: &scene.Scene{Quick: o.quick, Database: database, Schema: "public", Table: "queue", Log: log, Journal: j}}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	survey, end := context.WithCancel(context.WithoutCancel(ctx))
	st.unsurvey = end
	st.surveying.Go(func() { st.survey(survey) })
	st.log = newServerLog(j)
	if err := st.openServers(ctx, needs); err != nil {
		return nil, err
	}
	if err := st.openDatabase(ctx); err != nil {
		return nil, err
	}
	var at int64 // us since 1970
	if err := st.Admin.QueryRow(ctx, `select (extract(epoch from clock_timestamp()) * 1000000)::bigint`).Scan(&at); err != nil {
		return nil, err
	}
	st.offset = at*int64(time.Microsecond) - journal.Now()
	st.log.know(st.offset)

	target, err := url.Parse(st.Server.URL(database))
	if err != nil {
		return nil, err
	}
	st.Proxy, err = proxy.New(target.Host, proxy.Options{Roles: []proxy.Role{
		{Name: scene.LockSession, Says: lightStatement},
		{Name: scene.Listener, Says: "listen "},
		{Name: scene.Watch, Says: `"watch"`},
	}})
	if err != nil {
		return nil, err
	}
	address, err := st.Proxy.URL(st.Server.URL(database))
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	st.settings = settings{URL: address, Journal: dir}
	st.fleet = newFleet([]string{program}, st.settings, j, log)
	st.Fleet = st.fleet
	if needs.Setup != nil {
		if err := needs.Setup(ctx, st.Scene); err != nil {
			return nil, fmt.Errorf("set up: %w", err)
		}
	}
	for i := range dispatchers {
		st.fleet.add(settings{Role: "dispatcher", Name: fmt.Sprintf("dispatcher-%d", i+1), Seed: o.seed})
	}
	for i := range producers {
		st.fleet.add(settings{Role: "producer", Name: fmt.Sprintf("producer-%d", i+1), Seed: o.seed, Pace: o.pace / producers})
	}
	st.started = dispatchers + producers
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := st.fleet.ready(ready, st.started); err != nil {
		return nil, fmt.Errorf("the processes do not become ready: %w", err)
	}
	j.Write(journal.Event{Kind: journal.Open})
	return st, nil
}

// starting is held while a server is started in whatever way: one of them is for a moment to be known to all of this program.
var starting sync.Mutex

func (st *stage) openServers(ctx context.Context, needs scene.Needs) (err error) {
	o := devpg.Options{Own: true, Settings: maps.Clone(logSettings), Log: st.log}
	maps.Copy(o.Settings, needs.Settings)
	start := needs.Start
	if start == nil {
		start = devpg.Start
	}
	starting.Lock()
	st.Server, err = start(ctx, o)
	starting.Unlock()
	if err != nil {
		return err
	}
	st.servers = append(st.servers, st.Server)
	if needs.Standby == scene.NoStandby {
		return nil
	}
	if st.Standby, err = st.Server.Standby(ctx); err != nil {
		return err
	}
	st.servers = append(st.servers, st.Standby)
	if needs.Standby == scene.Synchronous {
		return st.Server.Synchronous(ctx)
	}
	return nil
}

func (st *stage) openDatabase(ctx context.Context) error {
	if err := st.Server.CreateDatabase(ctx, database, ""); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(st.Server.URL(database))
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams["application_name"] = scene.AdminName
	config.MinConns = 2 // before the server is full
	if st.Admin, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if err := store.New(st.Admin, store.Options{}).Migrate(ctx); err != nil {
		return err
	}
	_, err = st.Admin.Exec(ctx, audit)
	return err
}

// settle lets the work come to its end: until no job is left that is to be run, or none has ended for a while.
func (st *stage) settle(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := -1, time.Now()
	for {
		var waiting int
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := st.Admin.QueryRow(asked, `select count(*) from public.queue where dequeued_at is null`).Scan(&waiting)
		cancel()
		if err == nil && waiting != last {
			last, since = waiting, time.Now()
		}
		if err == nil && waiting == 0 || time.Since(since) > settling {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// strike ends the processes, and finds what is left then.
func (st *stage) strike(ctx context.Context) (final judge.Final, err error) {
	most, err := st.connections(ctx)
	if err != nil {
		return final, err
	}
	// Nothing is left to be run. So those that still live hold no job; and what the dead have left in the ledger they
	// have seen to, if only by a sweep.
	for _, l := range []struct{ what, query string }{
		{"locks on jobs that nobody runs", `select count(*) from pg_locks where locktype = 'advisory' and classid = 'public.queue'::regclass and objsubid = 2`},
		{"rows of the ledger after a sweep", `select count(*) from pq_dispatch.ledger`},
	} {
		n := 1
		for range 3 { // 5 s each
			if n, err = st.none(ctx, l.query); err != nil || n == 0 {
				break
			}
		}
		if err != nil {
			return final, err
		}
		final.Leaks = append(final.Leaks, judge.Leak{What: l.what, Count: n})
	}
	// A process that did not end well is told of by its journal's end.
	if err := st.fleet.stop(); err != nil {
		st.Log.Error("processes did not end well", "error", err)
		final.Leaks = append(final.Leaks, judge.Leak{What: "process that did not end when told to", Count: 1})
	}
	final.Leaks = append(final.Leaks, judge.Leak{What: "connections of a process beyond its pool and three", Count: most})
	for _, l := range []struct{ what, query string }{
		{"connections", `select count(*) from pg_stat_activity where backend_type = 'client backend' and application_name <> '` + scene.AdminName + `' and datname = current_database()`},
		{"advisory locks", `select count(*) from pg_locks where locktype = 'advisory'`},
		{"prepared transactions", `select count(*) from pg_prepared_xacts`},
		{"rows of the ledger", `select count(*) from pq_dispatch.ledger`},
	} {
		n, err := st.none(ctx, l.query)
		if err != nil {
			return final, err
		}
		final.Leaks = append(final.Leaks, judge.Leak{What: l.what, Count: n})
	}
	final.Leaks = append(final.Leaks, judge.Leak{What: "processes", Count: st.fleet.left()})
	return final, st.read(ctx, &final)
}

// connections is the most that a process has beyond what it may, for longer than the server needs to end one that was closed.
// It is without those that wait for a neighbour's lock: the server sees only after that, 25 s at most, that a process was killed.
func (st *stage) connections(ctx context.Context) (int, error) {
	return st.none(ctx, fmt.Sprintf(`
		select coalesce(greatest(0, max(n) - %d), 0)
		from (
		  select count(*) as n from pg_stat_activity
		  where backend_type = 'client backend' and application_name <> '%s' and datname = current_database()
		    and wait_event is distinct from 'advisory'
		  group by application_name
		) a`, poolSize+3, scene.AdminName))
}

// none asks until there is none, for a few seconds: the server needs a moment to see that a client has gone.
func (st *stage) none(ctx context.Context, query string) (n int, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if err = st.Admin.QueryRow(ctx, query).Scan(&n); err != nil || n == 0 {
			return n, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
	}
	return n, nil
}

// read reads what the judge has in the database.
func (st *stage) read(ctx context.Context, final *judge.Final) error {
	rows, err := st.Admin.Query(ctx, `
		select coalesce((data ->> 't')::bigint, 0), id, attempt, set_aside, coalesce(last_error, '') from public.queue`)
	if err != nil {
		return err
	}
	for rows.Next() {
		var r judge.Row
		if err := rows.Scan(&r.Token, &r.Job, &r.Attempt, &r.SetAside, &r.Reason); err != nil {
			rows.Close()
			return err
		}
		final.Rows = append(final.Rows, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows, err = st.Admin.Query(ctx, `
		select coalesce(token, 0), job, attempt, (extract(epoch from at) * 1000000)::bigint from faults.completions order by at`)
	if err != nil {
		return err
	}
	for rows.Next() {
		var c judge.Completion
		if err := rows.Scan(&c.Token, &c.Job, &c.Attempt, &c.At); err != nil {
			rows.Close()
			return err
		}
		c.At = c.At*int64(time.Microsecond) - st.offset
		final.Completions = append(final.Completions, c)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	final.Effects = map[int64]int{}
	rows, err = st.Admin.Query(ctx, `select token, count(*) from faults.effects group by token`)
	if err != nil {
		return err
	}
	for rows.Next() {
		var token int64
		var n int
		if err := rows.Scan(&token, &n); err != nil {
			rows.Close()
			return err
		}
		final.Effects[token] = n
	}
	return rows.Err()
}

// close ends whatever of the stage there is.
func (st *stage) close() {
	if st.fleet != nil {
		select {
		case <-st.fleet.ended:
		default:
			_ = st.fleet.stop() // it was cut off: how they end does not count
		}
	}
	if st.Proxy != nil {
		_ = st.Proxy.Close()
	}
	if st.Admin != nil {
		st.Admin.Close()
	}
	for _, s := range st.servers {
		if err := s.Close(); err != nil {
			st.Log.Error("cannot close a server", "error", err)
		}
	}
	st.log.know(0) // what it still hears is not written
	st.unsurvey()
	st.surveying.Wait()
	_ = st.Journal.Close()
}

// survey writes down every second how much of the machine others use, until ctx ends.
func (st *stage) survey(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for before := measure(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := measure()
		st.Journal.Write(journal.Event{Kind: journal.Machine, Attempt: now.foreign(before)})
		before = now
	}
}

// evidence copies the journals to a directory that stays.
func (st *stage) evidence() (string, error) {
	to, err := os.MkdirTemp("", "pq-dispatch-evidence-")
	if err == nil {
		err = os.CopyFS(filepath.Join(to, filepath.Base(st.dir)), os.DirFS(st.dir))
	}
	if err != nil {
		return "", errors.Join(errors.New("cannot keep the journals"), err)
	}
	return to, nil
}
