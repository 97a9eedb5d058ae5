package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/notify"
)

// waiters are the Gets of a store that wait for a job. The first one starts a listener, which the
// others share; the last one stops it and waits for its end.
type waiters struct {
	connect func(context.Context) (*pgx.Conn, error)
	channel string

	mu    sync.Mutex
	wakes map[chan struct{}]string // to the queue waited for
	stop  func()                   // nil: no listener runs
}

func newWaiters(connect func(context.Context) (*pgx.Conn, error), channel string) *waiters {
	return &waiters{connect: connect, channel: channel, wakes: map[chan struct{}]string{}}
}

// join returns a channel that is sent to whenever the queue may have a job, and once the listener
// listens. leave must be called when the wait is over.
func (w *waiters) join(queue string) (wake <-chan struct{}, leave func()) {
	mine := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop == nil {
		w.stop = w.listen()
	} else {
		mine <- struct{}{} // it may listen already, and then does not say so again
	}
	w.wakes[mine] = queue
	return mine, func() {
		w.mu.Lock()
		delete(w.wakes, mine)
		var stop func()
		if len(w.wakes) == 0 {
			stop, w.stop = w.stop, nil
		}
		w.mu.Unlock()
		if stop != nil {
			stop() // outside of the lock, which the listener's handler takes
		}
	}
}

// listen starts the listener. The function it returns stops it and waits for it.
func (w *waiters) listen() (stop func()) {
	listener := &notify.Listener{Connect: w.connect, Logger: slog.New(warnings{slog.Default().Handler()})}
	listener.Handle(w.channel, w)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := listener.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			panic("store: " + err.Error()) // Run ends with its context; anything else is a mistake above
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// warnings passes over what is no trouble: a line for each Get that waits would be too much.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

// HandleNotification wakes those who wait for the queue that the payload names.
func (w *waiters) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	_, queue, _ := strings.Cut(n.Payload, " ")
	w.wake(func(waitsFor string) bool { return waitsFor == queue })
	return nil
}

// HandleBacklog wakes all: what was put before the connection listened was not heard.
func (w *waiters) HandleBacklog(context.Context, string, *pgx.Conn) error {
	w.wake(func(string) bool { return true })
	return nil
}

func (w *waiters) wake(concerns func(queue string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wake, queue := range w.wakes {
		if concerns(queue) {
			select {
			case wake <- struct{}{}:
			default: // it has a wake waiting already
			}
		}
	}
}
