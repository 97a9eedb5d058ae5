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
// wake lock that was given up, "pause <queue>" and "cancel <id>" of an operator, and "*" of all else. Anyone may
// send anything on the channel: what does not name one of our queues is ignored, and a false hint costs a look.
func (h *hints) HandleNotification(ctx context.Context, n *pgconn.Notification, conn *pgx.Conn) error {
	kind, of, _ := strings.Cut(n.Payload, " ")
	if kind == "*" {
		return h.HandleBacklog(ctx, n.Channel, conn)
	}
	h.mu.Lock()
	news := h.note(kind, of)
	h.mu.Unlock()
	if news {
		h.wake()
	}
	return nil
}

// note tells whether there was anything in it. The caller holds the lock.
func (h *hints) note(kind, of string) bool {
	switch kind {
	case "bucket":
		number, err := strconv.ParseUint(of, 10, 6)
		if err != nil {
			return false
		}
		h.buckets[int32(number)] = true
		return true
	case "cancel":
		id, err := strconv.ParseInt(of, 10, 64)
		if err != nil || len(h.cancelled) == maxCancelled {
			return false
		}
		h.cancelled = append(h.cancelled, id)
		return true
	}
	q := h.known[of]
	if q == nil {
		return false
	}
	if kind == "pause" {
		h.paused[q] = true
		return true
	}
	var due time.Time
	if micros, err := strconv.ParseInt(kind, 10, 64); err == nil && micros > 0 {
		due = time.UnixMicro(micros)
	}
	if earlier, pending := h.pending[q]; !pending || due.Before(earlier) {
		h.pending[q] = due
	}
	return true
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
