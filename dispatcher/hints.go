package dispatcher

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// hints carries what the listener hears to the loop. However much is heard while the loop is busy,
// it is one pending wake and at most one entry a queue: who floods the channel costs no memory.
type hints struct {
	known  map[string]*queue // only read
	signal chan struct{}     // of capacity 1: something is pending

	mu      sync.Mutex
	pending map[*queue]time.Time // when the earliest new job is due, by the database's clock; zero: now
	all     bool
}

func newHints(known map[string]*queue) *hints {
	return &hints{known: known, signal: make(chan struct{}, 1), pending: map[*queue]time.Time{}}
}

// HandleNotification reads "<due in microseconds since 1970, or 0> <queue>". Anyone may send anything on the
// channel: what does not name one of our queues is ignored, and a false hint costs a look.
func (h *hints) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	micros, name, _ := strings.Cut(n.Payload, " ")
	q := h.known[name]
	if q == nil {
		return nil
	}
	var due time.Time
	if micros, err := strconv.ParseInt(micros, 10, 64); err == nil && micros > 0 {
		due = time.UnixMicro(micros)
	}
	h.mu.Lock()
	if earlier, pending := h.pending[q]; !pending || due.Before(earlier) {
		h.pending[q] = due
	}
	h.mu.Unlock()
	h.wake()
	return nil
}

// HandleBacklog is called when the listener listens, again: anything may have been missed.
func (h *hints) HandleBacklog(context.Context, string, *pgx.Conn) error {
	h.mu.Lock()
	h.all = true
	h.mu.Unlock()
	h.wake()
	return nil
}

func (h *hints) wake() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// take empties the hints.
func (h *hints) take() (pending map[*queue]time.Time, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pending, all = h.pending, h.all
	h.pending, h.all = map[*queue]time.Time{}, false
	return pending, all
}
