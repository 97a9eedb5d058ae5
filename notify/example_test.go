package notify_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/notify"
)

// waker turns notifications into wakes and never blocks: when the channel is full, the reader has
// not yet looked, and will find everything when it does.
type waker chan string

func (w waker) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	w.wake(n.Channel)
	return nil
}

// HandleBacklog makes it look at everything whenever notifications may have been missed.
func (w waker) HandleBacklog(_ context.Context, channel string, _ *pgx.Conn) error {
	w.wake(channel)
	return nil
}

func (w waker) wake(why string) {
	select {
	case w <- why:
	default:
	}
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	server, err := devpg.Start(ctx, devpg.Options{}) // your own server has a URL of its own
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	url := server.URL("postgres")

	wakes := make(waker, 1)
	l := &notify.Listener{Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, url) }}
	l.Handle("jobs", wakes)
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()

	fmt.Println("backlog of", <-wakes)
	if err := put(ctx, url); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("notified of", <-wakes)

	cancel()
	fmt.Println("ended:", errors.Is(<-ended, context.Canceled))
	// Output:
	// backlog of jobs
	// notified of jobs
	// ended: true
}

func put(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "notify jobs")
	return err
}
