package proxy_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var apples = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `create table apples (n integer unique)`)
	return err
}}

// patience is for what has to happen; its length decides nothing.
const patience = 20 * time.Second

// stage is a database, a proxy in front of it, and a connection past the proxy.
type stage struct {
	*testing.T
	proxy  *proxy.Proxy
	url    string
	direct *pgx.Conn
}

func newStage(t *testing.T) *stage {
	t.Helper()
	database := apples.Database(t)
	// After the test's connections are closed, which Cleanup does before.
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, pgtest.Goroutines(), before) })
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(u.Host, proxy.Options{Roles: []proxy.Role{{Name: "listener", Says: "listen "}, {Name: "locks", Says: "pg_advisory_lock"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	through, err := p.URL(database)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{T: t, proxy: p, url: through}
	s.direct = s.connectTo(database, "direct")
	return s
}

// connect connects through the proxy.
func (s *stage) connect(application string) *pgx.Conn {
	s.Helper()
	return s.connectTo(s.url, application)
}

func (s *stage) connectTo(url, application string) *pgx.Conn {
	s.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		s.Fatal(err)
	}
	config.RuntimeParams["application_name"] = application
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { closeNow(conn) })
	return conn
}

// closeNow closes a connection whose other end may not answer.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	conn.Close(ctx)
	conn.PgConn().Conn().Close()
	<-conn.PgConn().CleanupDone()
}

func (s *stage) count() (n int) {
	s.Helper()
	if err := s.direct.QueryRow(s.Context(), `select count(*) from apples`).Scan(&n); err != nil {
		s.Fatal(err)
	}
	return n
}

// eventually waits until a condition holds.
func (s *stage) eventually(what string, holds func() bool) {
	s.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.Fatalf("it does not come about that %s", what)
		}
	}
}

// sessions is how many the server has of an application.
func (s *stage) sessions(application string) (n int) {
	s.Helper()
	err := s.direct.QueryRow(s.Context(), `select count(*) from pg_stat_activity where datname = current_database() and application_name = $1`, application).Scan(&n)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s *stage) works(conn *pgx.Conn) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	var n int
	if err := conn.QueryRow(ctx, `select $1::int`, 42).Scan(&n); n != 42 || err != nil {
		s.Fatalf("got %d, %v of a connection that nothing was done to", n, err)
	}
}

// receive returns what comes on a channel.
func receive[T any](t *testing.T, from <-chan T, what string) (value T) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case value = <-from:
	case <-deadline.C:
		t.Fatalf("waited in vain for %s", what)
	}
	return value
}

func pending[T any](t *testing.T, from <-chan T, what string) {
	t.Helper()
	select {
	case <-from:
		t.Errorf("%s has come, want it not to", what)
	default:
	}
}

// severed tells whether a call failed because the other end broke the connection. (What the error is depends on where
// pgx was.)
func severed(conn *pgx.Conn, err error) bool {
	return err != nil && pgCode(err) == "" && conn.IsClosed()
}

func TestWithoutFaultsEverythingArrives(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	other, err := pgx.Connect(t.Context(), strings.Replace(s.url, "sslmode=disable", "sslmode=prefer", 1))
	if err != nil {
		t.Fatalf("a client that asks for TLS first: %v", err)
	}
	closeNow(other)
	const rows = 20_000
	if n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"apples"}, []string{"n"}, pgx.CopyFromSlice(rows, func(i int) ([]any, error) {
		return []any{i}, nil
	})); n != rows || err != nil {
		t.Fatalf("got %d rows copied, %v, want %d", n, err, rows)
	}
	got, err := pgx.CollectRows(queryRows(t, conn, `select n from apples order by n`), pgx.RowTo[int])
	if err != nil || len(got) != rows || !slices.IsSorted(got) {
		t.Errorf("got %d rows, %v, want %d in order", len(got), err, rows)
	}
	text := strings.Repeat("apple ", 1_000_000)
	var back string
	if err := conn.QueryRow(t.Context(), `select $1::text`, text).Scan(&back); back != text || err != nil {
		t.Errorf("got %d bytes back, %v, want the %d that were sent", len(back), err, len(text))
	}
	if _, err := conn.Exec(t.Context(), `listen "x"; notify "x", 'hello'`); err != nil {
		t.Fatal(err)
	}
	n, err := conn.WaitForNotification(t.Context())
	if err != nil || n.Payload != "hello" {
		t.Errorf("got %v, %v, want a notification", n, err)
	}
	// A statement's error, and a statement cancelled by another connection.
	if _, err := conn.Exec(t.Context(), `select 1/0`); pgCode(err) != "22012" {
		t.Errorf("got %v, want division by zero", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), `select pg_sleep(1000)`)
		done <- err
	}()
	s.eventually("the statement is cancelled", func() bool {
		if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	if pgCode(err) != "57014" {
		t.Errorf("got %v, want query_canceled", err)
	}
	s.works(conn)
}

func queryRows(t *testing.T, conn *pgx.Conn, sql string) pgx.Rows {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func pgCode(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

func TestClientsAreKnownByApplicationAndRole(t *testing.T) {
	s := newStage(t)
	listener := s.connect("dispatcher-1")
	s.connect("dispatcher-2")
	if _, err := listener.Exec(t.Context(), `listen "x"; select pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range s.proxy.Clients() {
		got = append(got, c.Application+" "+c.Role+" "+c.User)
		if c.Application == "dispatcher-1" && c.PID != listener.PgConn().PID() {
			t.Errorf("got the process id %d, want %d", c.PID, listener.PgConn().PID())
		}
	}
	slices.Sort(got)
	if want := []string{"dispatcher-1 listener postgres", "dispatcher-2  postgres"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := s.proxy.Reset(proxy.Application("dispatcher").And(proxy.InRole("listener"))); n != 1 {
		t.Errorf("got %d connections reset, want 1", n)
	}
	if _, err := listener.Exec(t.Context(), `select 1`); err == nil {
		t.Error("a connection that was reset works")
	}
}

func TestAResetBreaksBothSidesOfThoseThatAreMeant(t *testing.T) {
	s := newStage(t)
	victim, other := s.connect("victim"), s.connect("other")
	if n := s.proxy.Reset(proxy.Application("victim")); n != 1 {
		t.Fatalf("got %d connections reset, want 1", n)
	}
	if _, err := victim.WaitForNotification(t.Context()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
	}
	s.eventually("its session ends", func() bool { return s.sessions("victim") == 0 })
	s.works(other)
	s.works(s.connect("victim"))
}

func TestStalledRequestsArriveOnceTheyMay(t *testing.T) {
	s := newStage(t)
	victim, other := s.connect("victim"), s.connect("other")
	lift := s.proxy.Impose(proxy.Condition{On: proxy.Application("victim"), StallRequests: true})
	done := make(chan error, 1)
	go func() {
		_, err := victim.Exec(context.Background(), `insert into apples values (1)`)
		done <- err
	}()
	for range 20 {
		s.works(other)
	}
	if n := s.count(); n != 0 {
		t.Errorf("got %d rows while requests stall, want 0", n)
	}
	pending(t, done, "the answer")
	lift()
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
	if n := s.count(); n != 1 {
		t.Errorf("got %d rows afterwards, want 1", n)
	}
}

func TestStalledRepliesArriveOnceTheyMay(t *testing.T) {
	s := newStage(t)
	victim := s.connect("victim")
	lift := s.proxy.Impose(proxy.Condition{StallReplies: true})
	done := make(chan error, 1)
	go func() {
		_, err := victim.Exec(context.Background(), `insert into apples values (1)`)
		done <- err
	}()
	s.eventually("the row is there", func() bool { return s.count() == 1 })
	pending(t, done, "the answer")
	lift()
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
	s.works(victim)
}

func TestAStallHidesTheEndOfAConnection(t *testing.T) {
	s := newStage(t)
	victim := s.connect("victim")
	lift := s.proxy.Impose(proxy.Blackhole(proxy.Application("victim")))
	closeNow(victim)
	for range 20 {
		if n := s.sessions("victim"); n != 1 {
			t.Fatalf("got %d sessions while the connection stalls, want 1: nobody told the server", n)
		}
	}
	lift()
	s.eventually("the session ends", func() bool { return s.sessions("victim") == 0 })
}

func TestABlackholeAnswersNobodyNotEvenNewConnections(t *testing.T) {
	s := newStage(t)
	old := s.connect("a")
	lift := s.proxy.Impose(proxy.Blackhole(nil))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if conn, err := pgx.Connect(ctx, s.url); !errors.Is(err, context.DeadlineExceeded) && !timedOut(err) {
		if err == nil {
			closeNow(conn)
		}
		t.Errorf("got %v of a new connection, want it to wait in vain", err)
	}
	if _, err := old.WaitForNotification(ctx); !errors.Is(err, context.DeadlineExceeded) && !timedOut(err) {
		t.Errorf("got %v of an old connection, want it to wait in vain", err)
	}
	lift()
	s.works(old)
	s.works(s.connect("b"))
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func TestDelaysHoldInBothDirectionsAndEndAtOnce(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	s.works(conn) // prepares its statement: two round trips more
	lift := s.proxy.Impose(proxy.Condition{Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond})
	began := time.Now()
	s.works(conn)
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("got a round trip of %v, want at least 60ms", took)
	}
	lift()

	lift = s.proxy.Impose(proxy.Condition{Delay: time.Hour})
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `select 1`)
		done <- err
	}()
	lift()
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestDrippingBytesComeOneByOneUnharmed(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	s.works(conn)
	const pause = 100 * time.Microsecond
	defer s.proxy.Impose(proxy.Condition{Drip: pause})()
	began := time.Now()
	var text string
	if err := conn.QueryRow(t.Context(), `select repeat('x', 500)`).Scan(&text); err != nil || text != strings.Repeat("x", 500) {
		t.Errorf("got %d bytes, %v, want 500", len(text), err)
	}
	if took := time.Since(began); took < 500*pause {
		t.Errorf("got 500 bytes within %v, want at least %v", took, 500*pause)
	}
}

func TestTheDeafHearNoNotificationsButAllElse(t *testing.T) {
	s := newStage(t)
	deaf, other := s.connect("deaf"), s.connect("other")
	for _, conn := range []*pgx.Conn{deaf, other} {
		if _, err := conn.Exec(t.Context(), `listen "x"`); err != nil {
			t.Fatal(err)
		}
	}
	notify := func(payload string) {
		if _, err := s.direct.Exec(t.Context(), `select pg_notify('x', $1)`, payload); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(conn *pgx.Conn) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n.Payload
	}
	lift := s.proxy.Impose(proxy.Condition{On: proxy.Application("deaf"), Deaf: true})
	notify("1")
	if got := hear(other); got != "1" {
		t.Errorf("got %q, want 1", got)
	}
	// What the server sent before this answer has come to the proxy, and gone.
	s.works(deaf)
	lift()
	notify("2")
	if got := hear(deaf); got != "2" {
		t.Errorf("got %q, want 2: 1 was to be lost", got)
	}
}

func TestAHalfOpenConnectionHasNoSessionAndDoesNotKnow(t *testing.T) {
	s := newStage(t)
	victim := s.connect("victim")
	if n := s.proxy.HalfOpen(proxy.Application("victim")); n != 1 {
		t.Fatalf("got %d connections, want 1", n)
	}
	s.eventually("its session ends", func() bool { return s.sessions("victim") == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := victim.WaitForNotification(ctx); !timedOut(err) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to wait in vain", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := victim.Exec(ctx, `insert into apples values (1)`); !timedOut(err) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to wait in vain", err)
	}
	if n := s.count(); n != 0 {
		t.Errorf("got %d rows, want 0", n)
	}
}

func TestLaterConnectionsGoToTheNewTarget(t *testing.T) {
	s := newStage(t)
	old := s.connect("a")
	u, _ := url.Parse(s.direct.Config().ConnString())
	s.proxy.Retarget("127.0.0.1:1") // nobody is there
	if conn, err := pgx.Connect(t.Context(), s.url); err == nil {
		closeNow(conn)
		t.Error("got a connection to nobody")
	}
	s.works(old)
	s.proxy.Retarget(u.Host)
	s.works(s.connect("b"))
}

func TestCloseBreaksWhatIsOpenHoweverItStands(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	s.proxy.Impose(proxy.Blackhole(nil))
	half, err := net.Dial("tcp", s.proxy.Addr()) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if err := s.proxy.Close(); err != nil {
		t.Error(err)
	}
	if err := s.proxy.Close(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := conn.WaitForNotification(t.Context()); !severed(conn, err) {
		t.Errorf("got %v, want a broken connection", err)
	}
	if _, err := net.Dial("tcp", s.proxy.Addr()); err == nil {
		t.Error("the proxy still listens")
	}
}
