package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/notify"
)

// waiters are the Gets of a store that wait for a job. The first one opens a post, which the others
// share; the last one closes it.
type waiters struct {
	store *Store // for its names and its way to connect

	mu    sync.Mutex
	wakes map[chan struct{}]string // to the queue waited for
	post  *post                    // nil: nobody waits
}

func newWaiters(s *Store) *waiters { return &waiters{store: s, wakes: map[chan struct{}]string{}} }

// join returns a channel that is sent to whenever the queue may have a job. leave must be called
// when the wait is over.
func (w *waiters) join(queue string) (wake <-chan struct{}, leave func()) {
	mine := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakes[mine] = queue
	if w.post == nil {
		w.post = openPost(w) // which parks what is waited for
	} else {
		w.post.park(queue, time.Millisecond)
	}
	return mine, func() {
		w.mu.Lock()
		delete(w.wakes, mine)
		var close *post
		if len(w.wakes) == 0 {
			close, w.post = w.post, nil
		}
		w.mu.Unlock()
		if close != nil {
			close.close() // outside of the lock, which the post's handlers take
		}
	}
}

// queues are those that are waited for.
func (w *waiters) queues() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	queues := map[string]bool{}
	for _, queue := range w.wakes {
		queues[queue] = true
	}
	return queues
}

func (w *waiters) wake(queue string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wake, waitsFor := range w.wakes {
		if waitsFor == queue {
			select {
			case wake <- struct{}{}:
			default: // it has a wake waiting already
			}
		}
	}
}

// post is a listening session. A queue that is waited for must be parked, or puts into it do not notify
// (see park in sql/functions.sql). The session does that, and wakes the queue's Gets after each attempt:
// what was put before was not announced.
type post struct {
	waiters  *waiters
	listener *notify.Listener
	cancel   context.CancelFunc
	running  sync.WaitGroup

	// Of the listener's goroutine.
	buckets map[string]int32 // of the queues parked
	held    map[int32]bool   // wake locks that are ours, not a peer's
}

func openPost(w *waiters) *post {
	p := &post{waiters: w, listener: &notify.Listener{Connect: w.store.connect}}
	p.listener.Handle(w.store.Channel(), p)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.running.Go(func() {
		if err := p.listener.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			panic("store: " + err.Error()) // Run ends with its context; anything else is a mistake above
		}
	})
	return p
}

// close gives up the wake locks, so that others who sleep by them are told, and ends the session.
func (p *post) close() {
	done := make(chan struct{})
	p.listener.Do(func(ctx context.Context, conn *pgx.Conn) error {
		defer close(done)
		for bucket := range p.held {
			if _, err := conn.Exec(ctx, `select `+p.waiters.store.function("unpark")+`($1)`, bucket); err != nil {
				return err
			}
		}
		return nil
	})
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // it is not connected, and holds none
	}
	p.cancel()
	p.running.Wait()
}

const slowestPark = 100 * time.Millisecond

// park has the session take a queue's wake lock. While puts that do not notify are under way it tries
// again, at first after the time given, then at growing intervals.
func (p *post) park(queue string, again time.Duration) {
	p.listener.Do(func(ctx context.Context, conn *pgx.Conn) error {
		if !p.waiters.queues()[queue] {
			return nil
		}
		return p.parkOn(ctx, conn, queue, again)
	})
}

func (p *post) parkOn(ctx context.Context, conn *pgx.Conn, queue string, again time.Duration) error {
	if bucket, known := p.buckets[queue]; !known || !p.held[bucket] {
		var parking Parking
		err := conn.QueryRow(ctx, `select bucket, `+p.waiters.store.function("park")+`(bucket) from `+p.waiters.store.function("bucket")+`($1) bucket`, queue).
			Scan(&bucket, &parking)
		if err != nil {
			return fmt.Errorf("park %s: %w", queue, err)
		}
		switch parking {
		case Busy: // one silent put is under way, and another may have ended: look, and try again
			time.AfterFunc(again, func() { p.park(queue, min(2*again, slowestPark)) })
		case Parked:
			p.held[bucket] = true
			fallthrough
		default:
			p.buckets[queue] = bucket
		}
	}
	p.waiters.wake(queue)
	return nil
}

// HandleBacklog begins the life of a session, which holds no lock yet.
func (p *post) HandleBacklog(ctx context.Context, _ string, conn *pgx.Conn) error {
	p.buckets, p.held = map[string]int32{}, map[int32]bool{}
	return p.parkAll(ctx, conn)
}

// HandleNotification wakes those who wait for the queue that the payload names, or parks again if the
// lock may be free that they slept by.
func (p *post) HandleNotification(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
	kind, queue, _ := strings.Cut(n.Payload, " ")
	if kind == "bucket" || kind == "*" {
		return p.parkAll(ctx, conn)
	}
	p.waiters.wake(queue)
	return nil
}

func (p *post) parkAll(ctx context.Context, conn *pgx.Conn) error {
	for queue := range p.waiters.queues() {
		if err := p.parkOn(ctx, conn, queue, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
