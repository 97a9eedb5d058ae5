// The Listener against a real server: what is received, what breaks the connection, and what is left.

package notify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/notify"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// database returns the URL of a fresh database. When the test has closed all that it opened since, no
// goroutine of that may be left.
func database(t *testing.T) string {
	t.Helper()
	dsn := pgtest.Database(t)
	checkLeaks(t)
	return dsn
}

func checkLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { pgtest.NoGoroutineIsLeft(t, goroutineTries, before) })
}

// goroutineTries are fewer than would make the 15 s that pgx waits for the answer of a peer presumed dead.
const goroutineTries = 20

// patience is how long a test waits for what must happen; only a broken Listener exhausts it.
const patience = time.Minute

// event is one call of a handler.
type event struct{ Kind, Channel, Payload string }

// events is a handler of both kinds that tells the test of each call.
type events chan event

func (e events) HandleBacklog(_ context.Context, channel string, _ *pgx.Conn) error {
	e <- event{"backlog", channel, ""}
	return nil
}

func (e events) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	e <- event{"notification", n.Channel, n.Payload}
	return nil
}

func (e events) want(t *testing.T, want ...event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, want := range want {
		select {
		case got := <-e:
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("wrong event (-want +got):\n%s", diff)
			}
		case <-ctx.Done():
			t.Fatalf("got nothing, want %+v", want)
		}
	}
}

// wantAfterBacklogs waits for a notification, past any number of backlogs: a loaded machine may let
// a short heartbeat fail once more than the test meant it to.
func (e events) wantAfterBacklogs(t *testing.T, want event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case got := <-e:
			if got == want {
				return
			}
			if got.Kind != "backlog" {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("got no %+v", want)
		}
	}
}

func connectTo(dsn string) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, dsn) }
}

// run runs l and returns the function that ends it, which is called at the end of the test at the latest.
func run(t *testing.T, l *notify.Listener) (stop func()) {
	t.Helper()
	if l.Logger == nil {
		l.Logger = quiet
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := await(t, ended, "the return of Run after the end of its context"); err != context.Canceled {
			t.Errorf("got error %v from Run, want %v", err, context.Canceled)
		}
		if l.State().Connected {
			t.Error("got Connected after Run has returned, want not")
		}
	})
	t.Cleanup(stop)
	return stop
}

// await receives from c.
func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	select {
	case v = <-c:
	case <-ctx.Done():
		t.Errorf("waited in vain for %s", what)
	}
	return v
}

// session is a connection of the test's own.
func session(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

const notifySQL = "select pg_notify($1, $2)"

func send(t *testing.T, conn *pgx.Conn, channel, payload string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), notifySQL, channel, payload); err != nil {
		t.Fatal(err)
	}
}

// terminate ends every session of the database but conn's.
func terminate(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	const sql = `
		select count(pg_terminate_backend(pid))
		from pg_stat_activity
		where datname = current_database()
		and pid <> pg_backend_pid()
		and backend_type = 'client backend'`
	var n int
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil || n == 0 {
		t.Fatalf("got %d sessions terminated, error %v, want at least one", n, err)
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestNotificationsArriveInOrderAfterTheBacklog(t *testing.T) {
	dsn := database(t)
	got := make(events, 100)
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", got)
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""})
	conn := session(t, dsn)
	for i := range 50 {
		send(t, conn, "jobs", fmt.Sprint(i))
	}
	for i := range 50 {
		got.want(t, event{"notification", "jobs", fmt.Sprint(i)})
	}
}

func TestEveryChannelIsHeardUnderItsExactName(t *testing.T) {
	dsn := database(t)
	got := make(events, 100)
	l := &notify.Listener{Connect: connectTo(dsn)}
	channels := []string{"jobs", "Jobs", "select", `a"b; c`, "äpfel und birnen", string(bytes.Repeat([]byte("x"), 63))}
	for _, channel := range channels {
		l.Handle(channel, got)
	}
	run(t, l)
	for _, channel := range channels {
		got.want(t, event{"backlog", channel, ""})
	}
	conn := session(t, dsn)
	for i, channel := range channels {
		send(t, conn, channel, fmt.Sprint(i))
		got.want(t, event{"notification", channel, fmt.Sprint(i)})
	}
}

func TestAHandlerWithoutBacklogIsEnough(t *testing.T) {
	dsn := database(t)
	got := make(events, 1)
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", notify.HandlerFunc(got.HandleNotification))
	run(t, l)
	until(t, "connected", func() bool { return l.State().Connected })
	send(t, session(t, dsn), "jobs", "1")
	got.want(t, event{"notification", "jobs", "1"})
}

func TestWhatArrivesDuringTheBacklogIsHeardAfterIt(t *testing.T) {
	dsn := database(t)
	got := make(events, 10)
	conn := session(t, dsn)
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", &withConn{
		backlog: func(ctx context.Context, listening *pgx.Conn) error {
			if _, err := conn.Exec(ctx, notifySQL, "jobs", "between"); err != nil {
				return err
			}
			got <- event{"backlog", "jobs", ""}
			_, err := listening.Exec(ctx, "select 1") // pgx may read it here already
			return err
		},
		handle: func(ctx context.Context, n *pgconn.Notification, listening *pgx.Conn) error {
			return got.HandleNotification(ctx, n, listening)
		},
	})
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""}, event{"notification", "jobs", "between"})
}

func TestItConnectsAlthoughTheFirstTriesFail(t *testing.T) {
	dsn := database(t)
	got := make(events, 10)
	tries := 0
	l := &notify.Listener{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		if tries++; tries <= 3 {
			return nil, errors.New("refused")
		}
		return pgx.Connect(ctx, dsn)
	}}
	l.Handle("jobs", got)
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""})
	send(t, session(t, dsn), "jobs", "1")
	got.want(t, event{"notification", "jobs", "1"})
	if state := l.State(); !state.Connected || state.Reconnects != 0 || state.LastError == nil {
		t.Errorf("got state %+v, want connected for the first time, with the error before it", state)
	}
}

func TestATerminatedSessionIsReplacedAndTheBacklogReadAgain(t *testing.T) {
	dsn := database(t)
	got := make(events, 10)
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", got)
	l.Handle("control", got)
	run(t, l)
	conn := session(t, dsn)
	for i := range 3 {
		got.want(t, event{"backlog", "jobs", ""}, event{"backlog", "control", ""})
		until(t, "connected", func() bool { return l.State().Connected && l.State().Reconnects == i })
		send(t, conn, "control", fmt.Sprint(i))
		got.want(t, event{"notification", "control", fmt.Sprint(i)})
		terminate(t, conn)
	}
	got.want(t, event{"backlog", "jobs", ""}, event{"backlog", "control", ""})
	if pgErr, ok := errors.AsType[*pgconn.PgError](l.State().LastError); !ok || pgErr.Code != "57P01" {
		t.Errorf("got last error %v, want the server's admin_shutdown", l.State().LastError)
	}
}

func TestItReturnsAfterARestartOfTheServer(t *testing.T) {
	for _, mode := range []devpg.Mode{devpg.Fast, devpg.Immediate} {
		t.Run(string(mode), func(t *testing.T) {
			server := pgtest.Server(t, devpg.Options{})
			dsn := server.URL("postgres")
			got := make(events, 100)
			l := &notify.Listener{Connect: connectTo(dsn)}
			l.Handle("jobs", got)
			run(t, l)
			got.want(t, event{"backlog", "jobs", ""})
			if err := server.Restart(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
			got.want(t, event{"backlog", "jobs", ""})
			send(t, session(t, dsn), "jobs", "1")
			got.wantAfterBacklogs(t, event{"notification", "jobs", "1"})
		})
	}
}

func TestAHalfOpenConnectionIsFoundByTheHeartbeat(t *testing.T) {
	direct := database(t)
	p, dsn := newProxy(t, direct)
	got := make(events, 1000)
	l := &notify.Listener{Connect: connectTo(dsn), Heartbeat: 50 * time.Millisecond, HeartbeatTimeout: 2 * time.Second}
	l.Handle("jobs", got)
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""})
	until(t, "first heartbeat", func() bool { return !l.State().LastHeartbeat.IsZero() })
	before := l.State().Reconnects
	p.freeze()
	until(t, "reconnected", func() bool { return l.State().Connected && l.State().Reconnects > before })
	if err := l.State().LastError; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got last error %v, want a missed deadline", err)
	}
	send(t, session(t, direct), "jobs", "1")
	got.wantAfterBacklogs(t, event{"notification", "jobs", "1"})
}

func TestANotificationDuringAHeartbeatIsNotLost(t *testing.T) {
	direct := database(t)
	p, dsn := newProxy(t, direct)
	conn := session(t, direct)
	got := make(events, 10)
	var sent atomic.Bool
	passed := make(chan struct{})
	const payload = "sent while the heartbeat is on its way"
	p.toServer = func(data []byte) {
		if !bytes.Contains(data, []byte("select 1")) || !sent.CompareAndSwap(false, true) {
			return
		}
		// The heartbeat is held here until the notification has overtaken it.
		if _, err := conn.Exec(t.Context(), notifySQL, "jobs", payload); err != nil {
			t.Error(err)
			return
		}
		await(t, passed, "the notification to reach the client during the heartbeat")
	}
	p.toClient = func(data []byte) {
		if bytes.Contains(data, []byte(payload)) {
			close(passed)
		}
	}
	l := &notify.Listener{Connect: connectTo(dsn), Heartbeat: 20 * time.Millisecond, HeartbeatTimeout: patience}
	l.Handle("jobs", got)
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""}, event{"notification", "jobs", payload})
	if state := l.State(); state.Reconnects != 0 {
		t.Errorf("got state %+v, want the first connection still", state)
	}
}

func TestManyHeartbeatsLeaveTheSessionAliveAndOutOfTransactions(t *testing.T) {
	dsn := database(t)
	got := make(events, 10)
	l := &notify.Listener{Connect: connectTo(dsn), Heartbeat: 2 * time.Millisecond, HeartbeatTimeout: patience}
	l.Handle("jobs", got)
	run(t, l)
	got.want(t, event{"backlog", "jobs", ""})
	conn := session(t, dsn)
	const open = `
		select count(*)
		from pg_stat_activity
		where datname = current_database()
		and pid <> pg_backend_pid()
		and (state like 'idle in transaction%' or backend_xid is not null)`
	last := time.Time{}
	for i := range 50 {
		until(t, "next heartbeat", func() bool { return l.State().LastHeartbeat.After(last) })
		last = l.State().LastHeartbeat
		var n int
		if err := conn.QueryRow(t.Context(), open).Scan(&n); err != nil || n != 0 {
			t.Fatalf("got %d sessions in a transaction, error %v, want none", n, err)
		}
		send(t, conn, "jobs", fmt.Sprint(i))
		got.want(t, event{"notification", "jobs", fmt.Sprint(i)})
	}
	if state := l.State(); state.Reconnects != 0 || state.LastError != nil {
		t.Errorf("got state %+v, want the first connection still", state)
	}
}

func TestABacklogErrorReconnects(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("no such table") },
		"panic": func() error { panic("no such table") },
	} {
		t.Run(name, func(t *testing.T) {
			dsn := database(t)
			got := make(events, 10)
			calls := 0
			var pids []uint32
			l := &notify.Listener{Connect: connectTo(dsn)}
			l.Handle("jobs", &withConn{
				backlog: func(ctx context.Context, conn *pgx.Conn) error {
					pids = append(pids, conn.PgConn().PID())
					if calls++; calls < 3 {
						return fail()
					}
					return got.HandleBacklog(ctx, "jobs", conn)
				},
				handle: func(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
					return got.HandleNotification(ctx, n, conn)
				},
			})
			stop := run(t, l)
			got.want(t, event{"backlog", "jobs", ""})
			send(t, session(t, dsn), "jobs", "1")
			got.want(t, event{"notification", "jobs", "1"})
			stop()
			if len(pids) != 3 || pids[0] == pids[1] || pids[1] == pids[2] {
				t.Errorf("got backlogs on the sessions %v, want three different ones", pids)
			}
		})
	}
}

func TestAHandlerThatFailsIsCalledAgainOnTheSameConnection(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("bad payload") },
		"panic": func() error { panic("bad payload") },
	} {
		t.Run(name, func(t *testing.T) {
			dsn := database(t)
			got := make(events, 10)
			l := &notify.Listener{Connect: connectTo(dsn)}
			l.Handle("bad", &recorder{handle: func(*pgconn.Notification) error { return fail() }})
			l.Handle("good", got)
			run(t, l)
			got.want(t, event{"backlog", "good", ""})
			conn := session(t, dsn)
			for i := range 3 {
				send(t, conn, "bad", fmt.Sprint(i))
				send(t, conn, "good", fmt.Sprint(i))
				got.want(t, event{"notification", "good", fmt.Sprint(i)})
			}
			if state := l.State(); state.Reconnects != 0 {
				t.Errorf("got state %+v, want the first connection still", state)
			}
		})
	}
}

func TestAHandlerThatSpoilsTheSessionCausesAReconnect(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(ctx context.Context, conn *pgx.Conn) error
	}{
		{"leaves a transaction open", func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Begin(ctx)
			return err
		}},
		{"leaves rows open", func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Query(ctx, "select generate_series(1, 3)")
			return err
		}},
		{"closes it", func(ctx context.Context, conn *pgx.Conn) error { return conn.Close(ctx) }},
	}
	for _, test := range tests {
		for _, when := range []string{"handler", "backlog"} {
			t.Run(test.name+" in the "+when, func(t *testing.T) {
				dsn := database(t)
				got := make(events, 10)
				spoilt := when == "handler"
				l := &notify.Listener{Connect: connectTo(dsn)}
				l.Handle("spoil", &withConn{
					backlog: func(ctx context.Context, conn *pgx.Conn) error {
						if spoilt {
							return nil
						}
						spoilt = true
						return test.spoil(ctx, conn)
					},
					handle: func(ctx context.Context, _ *pgconn.Notification, conn *pgx.Conn) error {
						return test.spoil(ctx, conn)
					},
				})
				l.Handle("jobs", got)
				run(t, l)
				conn := session(t, dsn)
				got.want(t, event{"backlog", "jobs", ""})
				if when == "handler" {
					send(t, conn, "spoil", "")
					got.want(t, event{"backlog", "jobs", ""})
				}
				send(t, conn, "jobs", "1")
				got.want(t, event{"notification", "jobs", "1"})
			})
		}
	}
}

func TestAHandlerMayQueryTheSession(t *testing.T) {
	dsn := database(t)
	got := make(events, 10)
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", &withConn{handle: func(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
		var doubled string
		if err := conn.QueryRow(ctx, "select repeat($1, 2)", n.Payload).Scan(&doubled); err != nil {
			return err
		}
		got <- event{"query", n.Channel, doubled}
		return nil
	}})
	run(t, l)
	until(t, "connected", func() bool { return l.State().Connected })
	conn := session(t, dsn)
	for i := range 5 {
		send(t, conn, "jobs", fmt.Sprint(i))
		got.want(t, event{"query", "jobs", fmt.Sprintf("%d%d", i, i)})
	}
	if state := l.State(); state.Reconnects != 0 {
		t.Errorf("got state %+v, want the first connection still", state)
	}
}

func TestANotificationHandlerTakenByTheConfigurationIsReported(t *testing.T) {
	dsn := database(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	l := &notify.Listener{Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, config)
	}}
	l.Handle("jobs", ignore)
	run(t, l)
	until(t, "connected", func() bool { return l.State().Connected })
	send(t, session(t, dsn), "jobs", "1")
	until(t, "the error", func() bool { return l.State().LastError != nil })
}

func TestTheEndOfTheContextEndsRunInEveryPhase(t *testing.T) {
	tests := []struct {
		name string
		// prepare builds a Listener that calls reached, perhaps repeatedly, when it is in the phase.
		prepare func(t *testing.T, reached func()) *notify.Listener
	}{
		{"connecting to a server that accepts and is silent", func(t *testing.T, reached func()) *notify.Listener {
			p, dsn := newProxy(t, database(t))
			p.toServer = func([]byte) {
				p.stall()
				reached()
			}
			l := &notify.Listener{Connect: connectTo(dsn)}
			l.Handle("jobs", ignore)
			return l
		}},
		{"LISTEN without an answer", func(t *testing.T, reached func()) *notify.Listener {
			p, dsn := newProxy(t, database(t))
			p.toServer = func(data []byte) {
				if bytes.Contains(data, []byte("listen")) {
					p.stall()
					reached()
				}
			}
			l := &notify.Listener{Connect: connectTo(dsn)}
			l.Handle("jobs", ignore)
			return l
		}},
		{"in a backlog", func(t *testing.T, reached func()) *notify.Listener {
			l := &notify.Listener{Connect: connectTo(database(t))}
			l.Handle("jobs", &withConn{backlog: func(ctx context.Context, _ *pgx.Conn) error {
				reached()
				<-ctx.Done()
				return ctx.Err()
			}})
			return l
		}},
		{"waiting", func(t *testing.T, reached func()) *notify.Listener {
			l := &notify.Listener{Connect: connectTo(database(t))}
			l.Handle("jobs", &withConn{backlog: func(context.Context, *pgx.Conn) error {
				reached()
				return nil
			}})
			return l
		}},
		{"in a handler's query", func(t *testing.T, reached func()) *notify.Listener {
			return querying(database(t), reached)
		}},
		{"in a handler's query without an answer", func(t *testing.T, reached func()) *notify.Listener {
			p, dsn := newProxy(t, database(t))
			return querying(dsn, func() { p.freeze(); reached() })
		}},
		{"heartbeat without an answer", func(t *testing.T, reached func()) *notify.Listener {
			p, dsn := newProxy(t, database(t))
			p.toServer = func(data []byte) {
				if bytes.Contains(data, []byte("select 1")) {
					p.stall()
					reached()
				}
			}
			l := &notify.Listener{Connect: connectTo(dsn), Heartbeat: 10 * time.Millisecond, HeartbeatTimeout: time.Hour}
			l.Handle("jobs", ignore)
			return l
		}},
		{"between two tries", func(t *testing.T, reached func()) *notify.Listener {
			checkLeaks(t)
			tries := 0
			l := &notify.Listener{Connect: func(context.Context) (*pgx.Conn, error) {
				if tries++; tries == 4 {
					reached()
				}
				return nil, errors.New("refused")
			}}
			l.Handle("jobs", ignore)
			return l
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			reached := make(chan struct{})
			l := test.prepare(t, sync.OnceFunc(func() { close(reached) }))
			before := goleak.IgnoreCurrent()
			stop := run(t, l)
			await(t, reached, "the phase")
			stop()
			// Here and not only at the end: closing the proxy would free what waits for an answer.
			pgtest.NoGoroutineIsLeft(t, goroutineTries, before, goleak.IgnoreAnyFunction("github.com/pq-dispatch/pq-dispatch/notify_test.(*link).forward"))
		})
	}
}

// querying returns a Listener that notifies itself, calls reached and then runs a slow query. It is no
// slower than the check for sessions left over is patient: a cancel request that overtakes the query
// cancels nothing.
func querying(dsn string, reached func()) *notify.Listener {
	l := &notify.Listener{Connect: connectTo(dsn)}
	l.Handle("jobs", &withConn{
		backlog: func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "notify jobs")
			return err
		},
		handle: func(ctx context.Context, _ *pgconn.Notification, conn *pgx.Conn) error {
			reached()
			_, err := conn.Exec(ctx, "select pg_sleep(2)")
			return err
		},
	})
	return l
}

// withConn is a handler of both kinds made of functions that get the session; a nil one does nothing.
type withConn struct {
	backlog func(context.Context, *pgx.Conn) error
	handle  func(context.Context, *pgconn.Notification, *pgx.Conn) error
}

func (w *withConn) HandleBacklog(ctx context.Context, _ string, conn *pgx.Conn) error {
	if w.backlog == nil {
		return nil
	}
	return w.backlog(ctx, conn)
}

func (w *withConn) HandleNotification(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
	if w.handle == nil {
		return nil
	}
	return w.handle(ctx, n, conn)
}
