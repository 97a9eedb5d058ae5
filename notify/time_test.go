// What depends on time, on a fake clock: delays, heartbeats and limits. The server here is a script
// behind a pipe, because a real socket stops the fake clock.

package notify_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pq-dispatch/pq-dispatch/notify"
)

func TestAnOutageOfTwentyMinutesIsTriedToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var tries []time.Time
		l := &notify.Listener{Logger: quiet, Connect: func(context.Context) (*pgx.Conn, error) {
			tries = append(tries, time.Now())
			return nil, errors.New("no route to host")
		}}
		l.Handle("jobs", ignore)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		if err := l.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
		}

		const longest = 7500 * time.Millisecond // 5 s and half of it
		if got := tries[0].Sub(start); got != 0 {
			t.Errorf("got the first try after %v, want it at once", got)
		}
		if got := tries[1].Sub(tries[0]); got < 25*time.Millisecond || got > 75*time.Millisecond+1 {
			t.Errorf("got the second try after %v, want 25 ms to 75 ms", got)
		}
		for i := 1; i < len(tries); i++ {
			if got := tries[i].Sub(tries[i-1]); got <= 0 || got > longest+1 {
				t.Errorf("got a pause of %v before try %d, want up to %v", got, i+1, longest)
			}
		}
		if got := start.Add(20 * time.Minute).Sub(tries[len(tries)-1]); got > longest+1 {
			t.Errorf("got the last try %v before the end, want at most %v", got, longest)
		}
		if got := len(tries); got > 20*60/2 {
			t.Errorf("got %d tries in 20 minutes, want pauses that grow to seconds", got)
		}
		state := l.State()
		if state.Connected || state.LastError == nil || !strings.Contains(state.LastError.Error(), "no route to host") {
			t.Errorf("got state %+v, want not connected, with the error of Connect", state)
		}
	})
}

func TestALongOutageIsLoggedEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log levels
		l := &notify.Listener{Connect: refuse, Logger: slog.New(&log)}
		l.Handle("jobs", ignore)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		l.Run(ctx)
		if got := log.count[slog.LevelWarn]; got < 8 || got > 12 {
			t.Errorf("got %d warnings in an hour, want about the logarithm of %d failures", got, log.count[slog.LevelDebug])
		}
	})
}

func TestAConnectThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		l := &notify.Listener{Logger: quiet, Connect: func(ctx context.Context) (*pgx.Conn, error) {
			tries++
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		l.Handle("jobs", ignore)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l.Run(ctx)
		if tries < 4 || tries > 6 {
			t.Errorf("got %d tries in a minute, want one per 10 s and a pause", tries)
		}
	})
}

func TestASilentSessionIsAskedEvery15SecondsAndGivenUpAfter5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		server := &script{frozen: func(session, heartbeat int) bool { return session == 1 && heartbeat == 3 }}
		ctx, cancel := context.WithCancel(t.Context())
		var backlogs []time.Duration
		l := &notify.Listener{Connect: server.connect, Logger: quiet}
		l.Handle("jobs", &recorder{backlog: func() error {
			backlogs = append(backlogs, time.Since(start))
			return nil
		}})
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()

		time.Sleep(50*time.Second - 1) // moves the fake clock to just before the third heartbeat is given up
		synctest.Wait()
		if state := l.State(); !state.Connected || state.Reconnects != 0 || state.LastHeartbeat.Sub(start) != 30*time.Second {
			t.Errorf("got state %+v, want connected since the start, heartbeat answered after 30 s", state)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if state := l.State(); !state.Connected || state.Reconnects != 1 || !errors.Is(state.LastError, context.DeadlineExceeded) {
			t.Errorf("got state %+v, want connected again because of a deadline", state)
		}
		if len(backlogs) != 2 || backlogs[1] < 50*time.Second+25*time.Millisecond || backlogs[1] > 50*time.Second+76*time.Millisecond {
			t.Errorf("got backlogs after %v, want at the start and 25 to 75 ms after 50 s", backlogs)
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("got error %v, want %v", err, context.Canceled)
		}
		server.wait()
		want := []time.Duration{15 * time.Second, 30 * time.Second, 45 * time.Second}
		if got := server.heartbeats; len(got) != 3 || got[0].Sub(start) != want[0] || got[1].Sub(start) != want[1] || got[2].Sub(start) != want[2] {
			t.Errorf("got heartbeats at %v, want %v after %v", got, want, start)
		}
	})
}

func TestANotificationPutsOffTheHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		server := &script{}
		l := &notify.Listener{Connect: server.connect, Logger: quiet}
		l.Handle("jobs", ignore)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		for range 6 {
			time.Sleep(10 * time.Second)
			server.notify("jobs", "")
		}
		time.Sleep(15*time.Second + 1)
		cancel()
		<-ended
		server.wait()
		if got := server.heartbeats; len(got) != 1 || got[0].Sub(start) != 75*time.Second {
			t.Errorf("got heartbeats at %v, want one, 15 s after the last notification", got)
		}
	})
}

func TestAHandlerIsToldToStopAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		server := &script{}
		var stopped []time.Duration
		l := &notify.Listener{Connect: server.connect, Logger: quiet}
		l.Handle("jobs", notify.HandlerFunc(func(ctx context.Context, _ *pgconn.Notification, _ *pgx.Conn) error {
			<-ctx.Done()
			stopped = append(stopped, time.Since(start))
			return ctx.Err()
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		time.Sleep(time.Second)
		server.notify("jobs", "")
		time.Sleep(time.Minute)
		if state := l.State(); !state.Connected || state.Reconnects != 0 {
			t.Errorf("got state %+v, want still connected: a handler's error is its own", state)
		}
		cancel()
		<-ended
		server.wait()
		if len(stopped) != 1 || stopped[0] != 31*time.Second {
			t.Errorf("got handlers stopped after %v, want 31 s", stopped)
		}
	})
}

func TestABacklogThatAlwaysFailsIsNotTriedInAHotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &script{}
		tries := 0
		l := &notify.Listener{Connect: server.connect, Logger: quiet}
		l.Handle("jobs", &recorder{backlog: func() error {
			tries++
			return errors.New("table missing")
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		l.Run(ctx)
		server.wait()
		if tries < 80 || tries > 300 {
			t.Errorf("got %d backlogs in 10 minutes, want about one per 5 s", tries)
		}
		if state := l.State(); state.Connected || !state.ConnectedSince.IsZero() {
			t.Errorf("got state %+v, want never connected", state)
		}
	})
}

func TestAConnectionThatWorkedStartsTheDelaysAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &script{frozen: func(_, heartbeat int) bool { return heartbeat == 1 }}
		start := time.Now()
		var tries []time.Time
		l := &notify.Listener{Logger: quiet, Connect: func(ctx context.Context) (*pgx.Conn, error) {
			tries = append(tries, time.Now())
			if time.Since(start) < time.Minute {
				return nil, errors.New("refused")
			}
			return server.connect(ctx)
		}}
		l.Handle("jobs", ignore)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		// A connection comes about in the 8 s after the outage and is given up 20 s later, as is the next one.
		time.Sleep(time.Minute + 29*time.Second)
		cancel()
		<-ended
		server.wait()
		last, before := tries[len(tries)-1], tries[len(tries)-2]
		if got := last.Sub(before) - 20*time.Second; got < 25*time.Millisecond || got > 76*time.Millisecond {
			t.Errorf("got a delay of %v after a connection that worked, want 25 to 75 ms", got)
		}
	})
}

// recorder is a handler of both kinds made of functions; a nil one does nothing.
type recorder struct {
	backlog func() error
	handle  func(*pgconn.Notification) error
}

func (r *recorder) HandleBacklog(context.Context, string, *pgx.Conn) error {
	if r.backlog == nil {
		return nil
	}
	return r.backlog()
}

func (r *recorder) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	if r.handle == nil {
		return nil
	}
	return r.handle(n)
}

// script is a server that accepts every session and answers every statement with nothing.
type script struct {
	frozen func(session, heartbeat int) bool // asked at each heartbeat, counted from 1: never answer again?

	running    sync.WaitGroup
	mu         sync.Mutex
	sessions   int
	current    *pgproto3.Backend
	heartbeats []time.Time
}

func (s *script) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("postgres://user@script/db?sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		s.running.Go(func() { s.serve(server) })
		return client, nil
	}
	return pgx.ConnectConfig(ctx, config)
}

func (s *script) serve(conn net.Conn) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	s.mu.Lock()
	s.sessions++
	session := s.sessions
	s.current = backend
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	backend.Flush()
	s.mu.Unlock()
	heartbeats, frozen := 0, false
	for {
		msg, err := backend.Receive()
		if err != nil {
			return
		}
		query, ok := msg.(*pgproto3.Query)
		if !ok || frozen {
			continue
		}
		s.mu.Lock()
		if !strings.HasPrefix(query.String, "listen") {
			heartbeats++
			s.heartbeats = append(s.heartbeats, time.Now())
			frozen = s.frozen != nil && s.frozen(session, heartbeats)
		}
		if !frozen {
			backend.Send(&pgproto3.CommandComplete{CommandTag: []byte("DONE")})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			backend.Flush()
		}
		s.mu.Unlock()
	}
}

func (s *script) notify(channel, payload string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Send(&pgproto3.NotificationResponse{Channel: channel, Payload: payload})
	s.current.Flush()
}

func (s *script) wait() { s.running.Wait() }

// levels counts log records.
type levels struct {
	mu    sync.Mutex
	count map[slog.Level]int
}

func (l *levels) Enabled(context.Context, slog.Level) bool { return true }
func (l *levels) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *levels) WithGroup(string) slog.Handler            { return l }

func (l *levels) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == nil {
		l.count = make(map[slog.Level]int)
	}
	l.count[r.Level]++
	return nil
}
