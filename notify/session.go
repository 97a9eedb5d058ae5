// The life of one listening connection: connect, listen, backlog, then wait, with a heartbeat in
// every silence. It runs in the goroutine of Run and starts no other.

package notify

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// closeTimeout bounds what closing a connection may take.
const closeTimeout = time.Second

// heartbeat is a statement that the server itself has to run: a pooler may answer an empty one.
const heartbeat = "select 1"

// session listens on one connection until it fails or ctx ends, and never returns nil. It calls
// ready when the connection is complete, that is after the backlog.
func (l *Listener) session(ctx context.Context, ready func()) error {
	conn, err := l.listen(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if err := l.backlog(ctx, conn); err != nil {
		return err
	}
	ready()
	return l.receive(ctx, conn)
}

func (l *Listener) listen(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, positive(l.ConnectTimeout, defaultConnectTimeout))
	defer cancel()
	conn, err := l.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("notify: connect: %w", err)
	}
	if conn == nil {
		return nil, errors.New("notify: Connect returned neither a connection nor an error")
	}
	var sql strings.Builder
	for _, channel := range l.channels {
		sql.WriteString("listen " + pgx.Identifier{channel}.Sanitize() + ";")
	}
	err = exec(ctx, conn, sql.String())
	if err == nil {
		err = idle(conn)
	}
	if err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("notify: listen: %w", err)
	}
	return conn, nil
}

func (l *Listener) backlog(ctx context.Context, conn *pgx.Conn) error {
	for _, channel := range l.channels {
		h, ok := l.handlers[channel].(BacklogHandler)
		if !ok {
			continue
		}
		err := l.call(ctx, func(ctx context.Context) error { return h.HandleBacklog(ctx, channel, conn) })
		if err == nil {
			err = idle(conn)
		}
		if err != nil {
			return fmt.Errorf("notify: backlog of channel %q: %w", channel, err)
		}
	}
	return nil
}

// receive waits for notifications. pgx keeps those that arrive while a statement runs, a heartbeat or
// one of a handler, and WaitForNotification returns them first. When its context ends it has closed
// nothing and lost nothing, not even a message received in part, so it can wait again.
func (l *Listener) receive(ctx context.Context, conn *pgx.Conn) error {
	silence := positive(l.Heartbeat, defaultHeartbeat)
	for {
		if err := l.runErrands(ctx, conn); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, silence)
		l.waiting(cancel)
		n, err := conn.WaitForNotification(wait)
		l.waiting(nil)
		silent, hurried := wait.Err() == context.DeadlineExceeded, wait.Err() == context.Canceled
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n != nil:
			err = l.deliver(ctx, conn, n)
		case hurried && !conn.IsClosed():
			err = nil
		case err == nil:
			err = errors.New("notify: a notification was lost: Connect must leave OnNotification in the configuration nil")
		case silent && !conn.IsClosed():
			err = l.beat(ctx, conn)
		default:
			err = fmt.Errorf("notify: wait: %w", err)
		}
		if err != nil {
			return err
		}
	}
}

// waiting says how to end the wait that follows: at once, if there are errands already.
func (l *Listener) waiting(cancel context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hurry = cancel
	if cancel != nil && len(l.errands) > 0 {
		cancel()
	}
}

func (l *Listener) runErrands(ctx context.Context, conn *pgx.Conn) error {
	l.mu.Lock()
	errands := l.errands
	l.errands = nil
	l.mu.Unlock()
	for _, f := range errands {
		err := l.call(ctx, func(ctx context.Context) error { return f(ctx, conn) })
		if err == nil {
			err = idle(conn)
		}
		if err != nil {
			return fmt.Errorf("notify: errand: %w", err)
		}
	}
	return nil
}

// deliver returns an error only if the connection cannot be used after the handler.
func (l *Listener) deliver(ctx context.Context, conn *pgx.Conn, n *pgconn.Notification) error {
	h, ok := l.handlers[n.Channel]
	if !ok { // a handler may have listened on a channel of its own
		l.log().Debug("notify: notification on a channel without a handler", "channel", n.Channel)
		return nil
	}
	err := l.call(ctx, func(ctx context.Context) error { return h.HandleNotification(ctx, n, conn) })
	if err != nil && ctx.Err() == nil {
		l.log().Error("notify: handler failed", "channel", n.Channel, "error", err)
	}
	if err := idle(conn); err != nil {
		return fmt.Errorf("notify: after the handler of channel %q: %w", n.Channel, err)
	}
	return nil
}

// call bounds a handler and turns its panic into an error: the other channels must not go deaf.
func (l *Listener) call(ctx context.Context, handler func(ctx context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, positive(l.HandlerTimeout, defaultHandlerTimeout))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return handler(ctx)
}

// beat finds the half-open socket, the stalled server and the frozen proxy, none of which ever end
// a read.
func (l *Listener) beat(ctx context.Context, conn *pgx.Conn) error {
	timeout := positive(l.HeartbeatTimeout, defaultHeartbeatTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := exec(ctx, conn, heartbeat); err != nil {
		return fmt.Errorf("notify: no heartbeat (limit %v): %w", timeout, err)
	}
	l.heartbeatAnswered()
	return nil
}

// idle reports as an error what would keep the session from listening on.
func idle(conn *pgx.Conn) error {
	switch pg := conn.PgConn(); {
	case pg.IsClosed():
		return errors.New("the connection is closed")
	case pg.IsBusy():
		return errors.New("a query on the connection was not read to its end: close its rows")
	case pg.TxStatus() != 'I':
		return errors.New("the session is in a transaction: end it, a listener there fills the server's notification queue")
	}
	return nil
}

// exec runs statements and drops their rows. After an error the connection must be closed.
//
// Not conn.Exec: when its context ends, pgx hands the connection to a goroutine that dials the server
// anew to cancel the statement and then waits for its answer, up to 15 s in all. That is the right
// thing for a slow query and the wrong one for a peer presumed dead, all the more when Run has to
// return. ReceiveMessage leaves the connection alone when its context ends.
func exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	pg := conn.PgConn()
	stop := context.AfterFunc(ctx, func() { pg.Conn().SetWriteDeadline(time.Unix(1, 0)) })
	pg.Frontend().SendQuery(&pgproto3.Query{String: sql})
	err := pg.Frontend().Flush()
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	var refused error
	for {
		msg, err := pg.ReceiveMessage(ctx)
		if err != nil {
			return errors.Join(refused, err)
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			refused = pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.ReadyForQuery:
			return refused
		}
	}
}

// closeConn closes conn without waiting for the server. Where a statement of a handler was interrupted
// or a read failed, pgx is closing it already in a goroutine of its own: it sends a cancel request,
// which is left to it for a second, and would then read on until the server ends the session, for up
// to 15 s. Closing the socket under it spares that.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	conn.Close(ctx)
	conn.PgConn().Conn().Close()
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}
