package proxy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/proxy"
)

func says(text string) func(string) bool {
	return func(sql string) bool { return strings.Contains(sql, text) }
}

// writes are the ways to put 3 rows into the table, and what the statement says by which they commit.
var writes = map[string]struct {
	says string
	do   func(ctx context.Context, conn *pgx.Conn) error
}{
	"a statement with arguments": {"insert", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `insert into apples select generate_series(1, $1)`, 3)
		return err
	}},
	"a statement that returns rows": {"insert", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `insert into apples select generate_series(1, $1) returning n`, 3)
		if err == nil {
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
		}
		return err
	}},
	"a simple query": {"insert", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `insert into apples values (1); insert into apples values (2), (3)`)
		return err
	}},
	"a transaction": {"commit", func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into apples select generate_series(1, $1)`, 3)
			return err
		})
	}},
	"a pipeline": {"+ 2", func(ctx context.Context, conn *pgx.Conn) error {
		var batch pgx.Batch
		for _, sql := range []string{`insert into apples values ($1::int)`, `insert into apples values ($1::int + 1)`, `insert into apples values ($1::int + 2)`} {
			batch.Queue(sql, 1)
		}
		return conn.SendBatch(ctx, &batch).Close()
	}},
	"a copy": {"copy", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.CopyFrom(ctx, pgx.Identifier{"apples"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}, {3}}))
		return err
	}},
}

func TestACutAfterCommitLeavesTheRowsAndTellsNobody(t *testing.T) {
	for name, w := range writes {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			cut := s.proxy.Arm(proxy.Cut{On: proxy.Application("victim"), At: proxy.AfterCommit, Says: says(w.says)})
			other := s.connect("other")
			if _, err := other.Exec(t.Context(), `select 'insert copy commit + 2'`); err != nil {
				t.Fatalf("a connection that is not meant: %v", err)
			}
			victim := s.connect("victim")
			if err := w.do(t.Context(), victim); !severed(victim, err) {
				t.Errorf("got %v, want a broken connection", err)
			}
			if struck := receive(t, cut.Struck(), "the cut"); struck.Client.Application != "victim" || !strings.Contains(struck.SQL, w.says) {
				t.Errorf("got %+v, want it to have struck what it was for", struck)
			}
			if n := s.count(); n != 3 {
				t.Errorf("got %d rows, want 3: they are committed", n)
			}
			if _, err := s.connect("victim").Exec(t.Context(), `insert into apples values ($1)`, 4); err != nil {
				t.Errorf("it struck again: %v", err)
			}
		})
	}
}

func TestACutWithinARequestLeavesNothing(t *testing.T) {
	for name, w := range writes {
		if name == "a copy" { // the request is over when the server asks for the data
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			cut := s.proxy.Arm(proxy.Cut{At: proxy.InRequest, Says: says(w.says)})
			victim := s.connect("victim")
			if err := w.do(t.Context(), victim); !severed(victim, err) {
				t.Errorf("got %v, want a broken connection", err)
			}
			receive(t, cut.Struck(), "the cut")
			s.eventually("the session ends", func() bool { return s.sessions("victim") == 0 })
			if n := s.count(); n != 0 {
				t.Errorf("got %d rows, want 0", n)
			}
		})
	}
}

func TestACutWithinAReplyLeavesAllOrNothing(t *testing.T) {
	for name, w := range writes {
		t.Run(name, func(t *testing.T) {
			for _, skip := range []int{0, 1, 2, 1000} {
				s := newStage(t)
				cut := s.proxy.Arm(proxy.Cut{At: proxy.InReply, Says: says(w.says), Skip: skip})
				victim := s.connect("victim")
				if err := w.do(t.Context(), victim); !severed(victim, err) {
					t.Errorf("skip %d: got %v, want a broken connection", skip, err)
				}
				receive(t, cut.Struck(), "the cut")
				s.eventually("the session ends", func() bool { return s.sessions("victim") == 0 })
				n := s.count()
				if n != 3 && (n != 0 || skip == 1000) {
					t.Errorf("skip %d: got %d rows, want all, or none if the server had not said that it was ready", skip, n)
				}
			}
		})
	}
}

func TestACutAfterCommitPassesOverWhatCommitsNothing(t *testing.T) {
	s := newStage(t)
	cut := s.proxy.Arm(proxy.Cut{At: proxy.AfterCommit})
	defer cut.Disarm()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(conn) })
	if _, err := conn.Exec(t.Context(), `select 1/0`); pgCode(err) != "22012" {
		t.Errorf("got %v, want division by zero", err)
	}
	if _, err := conn.Exec(t.Context(), `begin`); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := conn.QueryRow(t.Context(), `insert into apples values ($1) returning n`, 1).Scan(&n); n != 1 || err != nil {
		t.Errorf("got %d, %v of a statement in a transaction, want its row", n, err)
	}
	if _, err := conn.Exec(t.Context(), `select 1/0`); pgCode(err) != "22012" {
		t.Errorf("got %v, want division by zero", err)
	}
	if tag, err := conn.Exec(t.Context(), `commit`); err != nil || tag.String() != "ROLLBACK" {
		t.Errorf("got %v, %v of a commit that cannot be, want ROLLBACK", tag, err)
	}
	pending(t, cut.Struck(), "the cut")
	if _, err := conn.Exec(t.Context(), `insert into apples values ($1)`, 2); !severed(conn, err) {
		t.Errorf("got %v of what commits, want a broken connection", err)
	}
	receive(t, cut.Struck(), "the cut")
	if n := s.count(); n != 1 {
		t.Errorf("got %d rows, want 1", n)
	}
}

func TestADisarmedCutDoesNotHappen(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	cut := s.proxy.Arm(proxy.Cut{At: proxy.AfterCommit})
	cut.Disarm()
	s.works(conn)

	// One that waits for the end of its statement.
	cut = s.proxy.Arm(proxy.Cut{At: proxy.AfterCommit, Says: says("pg_advisory_xact_lock")})
	if _, err := s.direct.Exec(t.Context(), `select pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `select pg_advisory_xact_lock($1)`, 1)
		done <- err
	}()
	s.eventually("it waits", func() bool {
		var waits bool
		if err := s.direct.QueryRow(t.Context(), `select exists (select from pg_locks where not granted)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
	cut.Disarm()
	if _, err := s.direct.Exec(t.Context(), `select pg_advisory_unlock(1)`); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, done, "the answer"); err != nil {
		t.Error(err)
	}
	pending(t, cut.Struck(), "the cut")
}

func TestACutWhoseConnectionEndsBeforeGoesToTheNext(t *testing.T) {
	s := newStage(t)
	conn := s.connect("a")
	cut := s.proxy.Arm(proxy.Cut{At: proxy.AfterCommit, Says: says("apples")})
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `select pg_sleep(1000) /* apples */`)
		done <- err
	}()
	s.eventually("the statement runs", func() bool {
		var runs bool
		if err := s.direct.QueryRow(t.Context(), `select exists (select from pg_stat_activity where application_name = 'a' and state = 'active')`).Scan(&runs); err != nil {
			t.Fatal(err)
		}
		return runs
	})
	if _, err := s.direct.Exec(t.Context(), `select pg_terminate_backend($1)`, conn.PgConn().PID()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, done, "the end"); pgCode(err) != "57P01" && !severed(conn, err) {
		t.Errorf("got %v, want admin_shutdown", err)
	}
	pending(t, cut.Struck(), "the cut")
	s.eventually("its connection is gone", func() bool { return len(s.proxy.Clients()) == 0 })
	next := s.connect("b")
	if _, err := next.Exec(t.Context(), `insert into apples values (1)`); !severed(next, err) {
		t.Errorf("got %v, want a broken connection", err)
	}
	receive(t, cut.Struck(), "the cut")
	if n := s.count(); n != 1 {
		t.Errorf("got %d rows, want 1", n)
	}
}
