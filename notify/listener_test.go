// What needs no server: registration, options, and the compatibility of the interfaces.

package notify_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/notify"
)

// foreign is a handler as users of other listeners have them: the two methods, and nothing of ours.
type foreign struct{}

func (*foreign) HandleNotification(context.Context, *pgconn.Notification, *pgx.Conn) error {
	return nil
}
func (*foreign) HandleBacklog(context.Context, string, *pgx.Conn) error { return nil }

var (
	_ notify.Handler        = (*foreign)(nil)
	_ notify.BacklogHandler = (*foreign)(nil)
	_ notify.Handler        = notify.HandlerFunc(nil)
)

// ignore is a handler for channels on which nothing matters.
var ignore = notify.HandlerFunc(func(context.Context, *pgconn.Notification, *pgx.Conn) error { return nil })

// quiet is for tests that provoke warnings.
var quiet = slog.New(slog.DiscardHandler)

func refuse(context.Context) (*pgx.Conn, error) { return nil, errors.New("refused") }

func TestHandlePanicsOnAProgrammerError(t *testing.T) {
	tests := []struct {
		name    string
		channel string
		handler notify.Handler
		want    string // a part of the message
	}{
		{"nil handler", "jobs", nil, "nil handler"},
		{"nil function", "jobs", notify.HandlerFunc(nil), "nil handler"},
		{"empty channel", "", ignore, "1 to 63 bytes"},
		{"64 bytes", strings.Repeat("a", 64), ignore, "1 to 63 bytes"},
		{"64 bytes in 32 letters", strings.Repeat("é", 32), ignore, "1 to 63 bytes"},
		{"NUL", "a\x00b", ignore, "without NUL"},
		{"not UTF-8", "a\xff", ignore, "UTF-8"},
		{"duplicate", "taken", ignore, "has a handler already"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var l notify.Listener
			l.Handle("taken", ignore)
			if got := panicText(func() { l.Handle(test.channel, test.handler) }); !strings.Contains(got, test.want) {
				t.Errorf("got panic %q, want one with %q", got, test.want)
			}
		})
	}
}

func TestHandleAcceptsEveryNameThatPostgreSQLKeepsWhole(t *testing.T) {
	var l notify.Listener
	for _, channel := range []string{"a", "Jobs", "select", `"; drop table x; --`, " ", strings.Repeat("a", 63), "äpfel"} {
		if got := panicText(func() { l.Handle(channel, &foreign{}) }); got != "" {
			t.Errorf("got panic %q for channel %q, want none", got, channel)
		}
	}
}

func TestHandlePanicsAfterRun(t *testing.T) {
	l := &notify.Listener{Connect: refuse, Logger: quiet}
	l.Handle("jobs", ignore)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ctx)
	if got := panicText(func() { l.Handle("more", ignore) }); !strings.Contains(got, "before Run") {
		t.Errorf("got panic %q, want one that says to call Handle before Run", got)
	}
}

func panicText(f func()) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = p.(string)
		}
	}()
	f()
	return ""
}

func TestRunFailsAtOnceWhenItCanNeverListen(t *testing.T) {
	without := &notify.Listener{}
	without.Handle("jobs", ignore)
	ran := &notify.Listener{Connect: refuse, Logger: quiet}
	ran.Handle("jobs", ignore)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	ran.Run(ended)

	tests := []struct {
		name string
		l    *notify.Listener
		want string
	}{
		{"no Connect", without, "Connect is nil"},
		{"no channel", &notify.Listener{Connect: refuse}, "no channel"},
		{"second Run", ran, "called before"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.l.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestRunReturnsTheCauseOfTheEnd(t *testing.T) {
	l := &notify.Listener{Connect: refuse, Logger: quiet}
	l.Handle("jobs", ignore)
	want := errors.New("the test is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(want)
	if got := l.Run(ctx); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
