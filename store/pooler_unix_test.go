//go:build unix

package store_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// A8.
func TestBehindAPoolerInTransactionMode(t *testing.T) {
	direct, straight := open(t)
	pool := connectPool(t, pgtest.Pooler(t, direct.Config().ConnString())+"&default_query_exec_mode=exec")
	pooled := store.New(pool, store.Options{})
	_, err := pooled.OpenSession(t.Context())
	wantError(t, err, store.ErrPooled)

	traced := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	apples := pooled.Queue("apples")
	for range 20 { // whichever server connection it is
		id, err := apples.Put(traced, map[string]any{"kind": "Cox"}, store.ScheduleAt(-time.Second), store.ExpectedAt("1h"), store.MaxAttempts(3))
		check(t, err)
		job := get(t, apples)
		if job == nil || job.ID != id || job.Metadata["traceparent"] == "" || job.MaxAttempts != 3 || string(job.Data) != `{"kind": "Cox"}` {
			t.Fatalf("got %+v, want job %d", job, id)
		}
	}
	ids, err := store.PutMany(traced, apples, count(3))
	check(t, err)
	check(t, apples.Update(t.Context(), ids[0], "new"))
	settle(t, pooled, []store.Run{{ID: ids[0], Attempt: 1}}, store.Return{Run: store.Run{ID: ids[1], Attempt: 1}, Reason: "no", SetAside: true})
	left, err := pooled.Uncompleted(t.Context(), []store.Run{{ID: ids[0], Attempt: 1}, {ID: ids[2], Attempt: 1}})
	check(t, err)
	wantIDs(t, "uncompleted", left, ids[2])
	if counts, err := apples.Counts(t.Context()); counts.Ready != 1 || counts.SetAside != 1 || err != nil {
		t.Errorf("got %+v, %v", counts, err)
	}
	if n, err := apples.Clear(t.Context()); n != 2 || err != nil {
		t.Errorf("clear: got %d, %v", n, err)
	}
	if _, _, err := pooled.Bury(t.Context(), 1, 3); err != nil {
		t.Error(err)
	}

	// With a direct connection for what has to last, all of it works.
	both := store.New(pool, store.Options{Connect: straight.Connect})
	openSession(t, both)
	get := startGet(t.Context(), both.Queue("apples"), store.Forever)
	eventually(t, direct, `select exists (select `+listening+`)`)
	get.want(t, put(t, apples, 1))
}
