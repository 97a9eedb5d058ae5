package dispatcher

import (
	"context"
	"maps"
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
	signal chan struct{} // of capacity 1: something is pending

	mu      sync.Mutex
	known   map[string]*queue
	pending map[*queue]time.Time // when the earliest new job is due, by the database's clock; zero: now
	buckets map[int32]bool       // wake locks that others have given up
	all     bool                 // look at everything
	members bool                 // who else lives may have changed

	cancelled []int64 // jobs
	paused    map[*queue]bool
}

func newHints(known map[string]*queue) *hints {
	h := &hints{signal: make(chan struct{}, 1), pending: map[*queue]time.Time{}, buckets: map[int32]bool{}, paused: map[*queue]bool{}}
	h.know(known)
	return h
}

// know tells which queues are ours now.
func (h *hints) know(queues map[string]*queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = maps.Clone(queues)
}

// maxCancelled is how many cancelled jobs are remembered until the loop looks; who floods the channel costs
// no more.
const maxCancelled = 10_000

// HandleNotification reads "<due in microseconds since 1970, or 0> <queue>" of a put, "bucket <number>" of a
// wake lock that was given up, "pause <queue>" and "cancel <id>" of an operator, and "*" of all else. Anyone may send anything on the channel: what does not
// name one of our queues is ignored, and a false hint costs a look.
func (h *hints) HandleNotification(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
	micros, name, _ := strings.Cut(n.Payload, " ")
	switch micros {
	case "*":
		return h.HandleBacklog(ctx, n.Channel, conn)
	case "bucket":
		if number, err := strconv.ParseUint(name, 10, 6); err == nil {
			h.mu.Lock()
			h.buckets[int32(number)] = true
			h.mu.Unlock()
			h.wake()
		}
		return nil
	case "cancel":
		if id, err := strconv.ParseInt(name, 10, 64); err == nil {
			h.mu.Lock()
			if len(h.cancelled) < maxCancelled {
				h.cancelled = append(h.cancelled, id)
			}
			h.mu.Unlock()
			h.wake()
		}
		return nil
	}
	h.mu.Lock()
	q := h.known[name]
	if q != nil && micros == "pause" {
		h.paused[q] = true
	}
	h.mu.Unlock()
	if q == nil {
		return nil
	}
	if micros == "pause" {
		h.wake()
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
	h.all, h.members = true, true
	h.mu.Unlock()
	h.wake()
	return nil
}

// lookAtAll is for the ring, which has seen who else lives.
func (h *hints) lookAtAll() {
	h.mu.Lock()
	h.all = true
	h.mu.Unlock()
	h.wake()
}

func (h *hints) wake() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// take empties the hints and returns what was in them.
func (h *hints) take() *hints {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken := &hints{pending: h.pending, buckets: h.buckets, all: h.all, members: h.members, cancelled: h.cancelled, paused: h.paused}
	h.pending, h.buckets, h.all, h.members = map[*queue]time.Time{}, map[int32]bool{}, false, false
	h.cancelled, h.paused = nil, map[*queue]bool{}
	return taken
}
