// Package notify keeps one listening PostgreSQL connection for the whole process and calls a handler
// for every notification on it.
//
// A notification is a hint, not a message: PostgreSQL does not keep it for a listener that is away.
// So the Listener promises two things instead of delivery. It is always on its way back: whatever
// broke the connection, it reconnects, for ever. And each time it listens again it first calls every
// [BacklogHandler], which must look at everything that it may have missed.
//
// Anybody who can connect to the database can notify any channel: check a payload before using it.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	defaultHeartbeat        = 15 * time.Second
	defaultHeartbeatTimeout = 5 * time.Second
	defaultConnectTimeout   = 10 * time.Second
	defaultHandlerTimeout   = 30 * time.Second

	firstDelay = 50 * time.Millisecond // before the first reconnect, doubled by each failure
	lastDelay  = 5 * time.Second
	jitter     = 0.5 // each delay is spread by this share to both sides, so that processes do not return in step

	maxChannel = 63 // bytes; LISTEN cuts a longer name silently and would then hear nothing
)

// Handler is called for each notification on its channel, in the order of arrival.
//
// All handlers of a Listener are called from the goroutine of its Run, one at a time, and while one
// runs nothing else is received: a handler must not block. The usual one sends to a buffered channel
// and drops the hint when that is full. ctx ends with that of Run or after HandlerTimeout.
//
// conn is the listening session. A short query on it is allowed; keeping it, closing it or leaving a
// transaction open on it is not, because a listener inside a transaction lets the server's
// notification queue fill up until every commit that notifies fails. The Listener reconnects when
// conn comes back closed, busy or in a transaction.
//
// An error or a panic is logged and the Listener carries on.
type Handler interface {
	HandleNotification(ctx context.Context, notification *pgconn.Notification, conn *pgx.Conn) error
}

// BacklogHandler may be implemented by a Handler as well. HandleBacklog is called each time the
// Listener has begun to listen, the first time included, and before the notifications that arrived
// since. It must look at everything that notifications could have told it; the rules for a Handler
// hold for it too. An error or a panic makes the Listener reconnect, so that it is called again.
type BacklogHandler interface {
	HandleBacklog(ctx context.Context, channel string, conn *pgx.Conn) error
}

// HandlerFunc is a function as a Handler, without a backlog.
type HandlerFunc func(ctx context.Context, notification *pgconn.Notification, conn *pgx.Conn) error

// HandleNotification calls f.
func (f HandlerFunc) HandleNotification(ctx context.Context, notification *pgconn.Notification, conn *pgx.Conn) error {
	return f(ctx, notification, conn)
}

// Listener listens on its channels with one connection. Set the fields and call Handle before Run;
// a Listener runs once and must not be copied.
type Listener struct {
	// Connect opens the session. It is required, and must return a direct connection of the
	// Listener's own, which the Listener closes: behind a pooler in transaction mode LISTEN is lost
	// without an error. It must return when ctx ends, and leave OnNotification in the pgx
	// configuration nil, which is how pgx hands over notifications.
	Connect func(ctx context.Context) (*pgx.Conn, error)

	// Heartbeat is how long nothing may arrive before a statement is sent to see whether the server
	// is still there. Zero or less: 15 s.
	Heartbeat time.Duration

	// HeartbeatTimeout is how long the answer to it may take before the connection is given up.
	// Zero or less: 5 s.
	HeartbeatTimeout time.Duration

	// ConnectTimeout bounds Connect and LISTEN together. Zero or less: 10 s.
	ConnectTimeout time.Duration

	// HandlerTimeout bounds the context of each call of a handler. Zero or less: 30 s.
	HandlerTimeout time.Duration

	// Logger receives what happens to the connection and the errors of handlers; never a payload.
	// Nil: slog.Default().
	Logger *slog.Logger

	mu       sync.Mutex // guards what follows; channels and handlers are fixed once started is true
	started  bool
	channels []string
	handlers map[string]Handler
	state    State
	errands  []errand
	hurry    context.CancelFunc // ends the wait for a notification; nil: there is none
}

type errand func(ctx context.Context, conn *pgx.Conn) error

// State is what a Listener knows about its connection.
type State struct {
	Connected      bool      // LISTEN and all backlog handlers have succeeded, and nothing failed since
	ConnectedSince time.Time // when Connected last became true; zero before the first time
	Reconnects     int       // how many times it became true again after the first time
	LastHeartbeat  time.Time // when the server last answered a heartbeat; zero before the first time
	LastError      error     // why the last connection or attempt ended, kept after a reconnect; nil if none did
}

// Handle registers the handler of a channel. The channel is taken as it is, upper and lower case and
// all; what LISTEN without quotes, or NOTIFY without them, would fold to lower case must be given
// here in lower case.
//
// It panics when h is nil, when channel is empty, longer than 63 bytes, not UTF-8, contains NUL or
// has a handler already, and when Run has been called.
func (l *Listener) Handle(channel string, h Handler) {
	if f, ok := h.(HandlerFunc); h == nil || ok && f == nil {
		panic(fmt.Sprintf("notify: nil handler for channel %q", channel))
	}
	if channel == "" || len(channel) > maxChannel || strings.ContainsRune(channel, 0) || !utf8.ValidString(channel) {
		panic(fmt.Sprintf("notify: channel %q: a name is UTF-8 text of 1 to %d bytes without NUL", channel, maxChannel))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started {
		panic(fmt.Sprintf("notify: channel %q: call Handle before Run", channel))
	}
	if _, ok := l.handlers[channel]; ok {
		panic(fmt.Sprintf("notify: channel %q has a handler already", channel))
	}
	if l.handlers == nil {
		l.handlers = make(map[string]Handler)
	}
	l.handlers[channel] = h
	l.channels = append(l.channels, channel)
}

// Do has f called on the listening session, as a handler would be and by the same rules, as soon as
// it is connected and no handler runs. It does not wait for that, and f is never called if Run ends
// before. An error of f makes the Listener reconnect. Any goroutine may call Do at any time.
func (l *Listener) Do(f func(ctx context.Context, conn *pgx.Conn) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errands = append(l.errands, f)
	if l.hurry != nil {
		l.hurry()
	}
}

// State returns the present state. Any goroutine may call it at any time.
func (l *Listener) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Run connects, listens and calls the handlers until ctx ends, and returns the cause of that. No
// failure of the server or the network ends it: it reconnects after 50 ms, doubling up to 5 s, each
// time give or take half. It fails at once when Connect is nil, no channel has a handler, or Run was
// called before.
//
// When it returns the connection is closed and no goroutine of it is left, with one exception: when a
// read failed or a statement of a handler was interrupted, pgx sends a cancel request over a new
// connection, and if the server neither accepts nor refuses that, pgx keeps trying in a goroutine of
// its own for at most 15 s. Run waits one second of these.
func (l *Listener) Run(ctx context.Context) error {
	if err := l.start(); err != nil {
		return err
	}
	delays := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(firstDelay),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(jitter),
		backoff.WithMaxInterval(lastDelay),
		backoff.WithMaxElapsedTime(0), // the default gives up for good after 15 minutes
	)
	failures := 0 // since the last time it was connected

	delay := time.NewTimer(0)
	defer delay.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-delay.C:
		}
		err := l.session(ctx, func() {
			l.connected()
			// Not right after LISTEN: a backlog handler that always fails would then be
			// called, on a new connection, twenty times a second.
			delays.Reset()
			failures = 0
		})
		if ctx.Err() != nil {
			l.disconnected(nil)
			return context.Cause(ctx)
		}
		l.disconnected(err)
		failures++
		wait := delays.NextBackOff()
		l.log().Log(ctx, failureLevel(failures), "notify: not listening, will reconnect",
			"error", err, "failures", failures, "wait", wait)
		delay.Reset(wait)
	}
}

// failureLevel thins out the warnings of a long outage: the 1st, 2nd, 4th, 8th ... failure in a row.
func failureLevel(failures int) slog.Level {
	if failures&(failures-1) == 0 {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (l *Listener) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.started:
		return errors.New("notify: Run was called before: make a new Listener")
	case l.Connect == nil:
		return errors.New("notify: Connect is nil: set it to a function that opens a direct connection")
	case len(l.channels) == 0:
		return errors.New("notify: no channel to listen on: call Handle before Run")
	}
	l.started = true
	return nil
}

func (l *Listener) connected() {
	l.mu.Lock()
	if !l.state.ConnectedSince.IsZero() {
		l.state.Reconnects++
	}
	l.state.Connected = true
	l.state.ConnectedSince = time.Now()
	reconnects := l.state.Reconnects
	l.mu.Unlock()
	l.log().Info("notify: listening", "channels", slices.Clone(l.channels), "reconnects", reconnects)
}

// disconnected takes nil for an end that is no failure.
func (l *Listener) disconnected(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Connected = false
	if err != nil {
		l.state.LastError = err
	}
}

func (l *Listener) heartbeatAnswered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.LastHeartbeat = time.Now()
}

func (l *Listener) log() *slog.Logger {
	if l.Logger != nil {
		return l.Logger
	}
	return slog.Default()
}

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
