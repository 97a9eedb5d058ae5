//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestAPromotedStandbyHasWhatWasCommittedAndIsFound(t *testing.T) {
	primary := own(t, Options{})
	mustExec(t, primary.URL(""), "create table apples (n integer)")
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, ErrNoBaseBackup) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := primary.Synchronous(t.Context()); err != nil {
		t.Fatal(err)
	}
	either := FailoverURL("", standby, primary) // the one that refuses writes comes first
	const rows = 100
	for i := range rows {
		mustExec(t, either, fmt.Sprintf("insert into apples values (%d)", i))
	}
	if err := primary.Stop(t.Context(), Immediate); err != nil {
		t.Fatal(err)
	}
	if conn, err := pgx.Connect(t.Context(), either); err == nil {
		conn.Close(t.Context())
		t.Error("got a connection that takes writes before the promotion")
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask[int](t, either, "select count(*)::int from apples"); got != rows {
		t.Errorf("got %d rows on the promoted standby, want the %d that were committed", got, rows)
	}
	mustExec(t, either, "insert into apples values (-1)") // it waits for no standby of its own
	if pg, ok := errors.AsType[*pgconn.PgError](standby.Promote(t.Context())); !ok || pg.Code != "55000" {
		t.Errorf("promoting it again: got %v, want object_not_in_prerequisite_state", pg)
	}
}

func TestSynchronousWaitsForAStandby(t *testing.T) {
	primary := own(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- primary.Synchronous(ctx) }()
	// The setting shows that it has come as far as waiting.
	conn := connect(t, primary.URL(""))
	for names := ""; names != "*"; {
		if err := conn.QueryRow(t.Context(), "show synchronous_standby_names").Scan(&names); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("got %v, want it to wait: there is no standby", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestAServerThatIsNotOursIsNotPromoted(t *testing.T) {
	s := &Server{}
	for name, do := range map[string]func(context.Context) error{"Promote": s.Promote, "Synchronous": s.Synchronous} {
		if err := do(t.Context()); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: got %v, want %v", name, err, ErrNotOurs)
		}
	}
}
