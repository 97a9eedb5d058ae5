package dispatcher

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// N9. Anyone may send anything on the channel. It may cost a look, no more: what is kept of it is bounded, and is
// about queues of ours.
func FuzzNotification(f *testing.F) {
	for _, payload := range []string{
		"0 apples", "1700000000000000 apples", "-1 apples", "9223372036854775807 apples", "99999999999999999999 apples", "x apples", " apples", "apples", "",
		"*", "* apples", "bucket 63", "bucket 64", "bucket -1", "bucket +1", "bucket 0x1", "pause apples", "pause pears", "pause", "cancel 1", "cancel -1",
		"cancel 9223372036854775808", "cancel 1 ", "0 two words", "0  apples", "0\napples", "\x00", "\xff", "bucket 1\x00", strings.Repeat("0", 7999),
	} {
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		apples, words := &queue{}, &queue{}
		h := newHints(map[string]*queue{"apples": apples, "two words": words})
		for range 3 {
			if err := h.HandleNotification(t.Context(), &pgconn.Notification{Payload: payload}, nil); err != nil {
				t.Fatalf("%q: got %v, want no error: it would end the listening session", payload, err)
			}
		}
		got := h.take()
		for _, about := range []map[*queue]bool{got.paused, keysOf(got.pending)} {
			for q := range about {
				if q != apples && q != words {
					t.Errorf("%q: got something about a queue that is not ours", payload)
				}
			}
		}
		for bucket := range got.buckets {
			if bucket < 0 || bucket > 63 {
				t.Errorf("%q: got the wake lock %d, want one of 64", payload, bucket)
			}
		}
		if len(got.cancelled) > 3 || len(got.buckets) > 1 || len(got.pending)+len(got.paused) > 1 {
			t.Errorf("%q: got %d cancelled, %d wake locks, %d due, %d paused; want one of them a notification",
				payload, len(got.cancelled), len(got.buckets), len(got.pending), len(got.paused))
		}
		for q, due := range got.pending {
			if !due.IsZero() && due.UnixMicro() <= 0 {
				t.Errorf("%q: got %v due at %v", payload, q, due)
			}
		}
		something := got.all || len(got.cancelled)+len(got.buckets)+len(got.pending)+len(got.paused) > 0
		select {
		case <-h.signal:
			if !something {
				t.Errorf("%q: got the loop woken for nothing", payload)
			}
		default:
			if something {
				t.Errorf("%q: got a hint that the loop does not hear of", payload)
			}
		}
	})
}

func keysOf[V any](m map[*queue]V) map[*queue]bool {
	keys := map[*queue]bool{}
	for q := range m {
		keys[q] = true
	}
	return keys
}

func TestAFloodOfNotificationsCostsNoMemory(t *testing.T) {
	h := newHints(map[string]*queue{"apples": {}})
	for n := range 100_000 {
		for _, kind := range []string{"cancel 1", "0 apples", "pause apples", "bucket 1", "0 nobody's", "*"} {
			if err := h.HandleNotification(t.Context(), &pgconn.Notification{Payload: kind}, nil); err != nil {
				t.Fatal(n, err)
			}
		}
	}
	got := h.take()
	if len(got.cancelled) != maxCancelled || len(got.pending) != 1 || len(got.paused) != 1 || len(got.buckets) != 1 {
		t.Errorf("got %d cancelled, %d due, %d paused, %d wake locks; want %d, 1, 1, 1", len(got.cancelled), len(got.pending), len(got.paused), len(got.buckets), maxCancelled)
	}
}
