package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestPutReturnsTheIDAndGetTheValue(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	type apple struct {
		Kind  string
		Grams float64
		Tags  []string `json:",omitempty"`
	}
	for _, want := range []any{
		nil, true, 1.5, "text", "käse \U0001F9C0 \u2028 </script>", "", []any{}, map[string]any{"a": []any{nil}}, apple{"Cox", 120, nil}, &apple{"Elstar", 1, []string{"a"}},
		json.RawMessage(`{"a": [1, 2.50, 1e3]}`),
	} {
		id := put(t, apples, want)
		job := get(t, apples)
		if job == nil || job.ID != id || job.Attempt != 1 || job.Queue != "apples" || job.EnqueuedAt.IsZero() || !job.ScheduleAt.IsZero() || job.Metadata != nil {
			t.Fatalf("put %v as job %d, got %+v", want, id, job)
		}
		encoded, err := json.Marshal(want)
		check(t, err)
		var wantAny, got any
		check(t, json.Unmarshal(encoded, &wantAny))
		check(t, job.Decode(&got))
		if diff := cmp.Diff(wantAny, got); diff != "" {
			t.Errorf("(-put +got):\n%s", diff)
		}
		if job.Size() != len(job.Data) || job.Size() == 0 {
			t.Errorf("got size %d of %s", job.Size(), job.Data)
		}
	}
}

func TestTimesAreInstantsDurationsAndTexts(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	instant := time.Date(2100, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 7200))
	for name, c := range map[string]struct {
		options []store.PutOption
		want    string // of schedule_at and expected_at, in SQL
	}{
		"none":      {nil, `schedule_at is null and expected_at is null`},
		"zero":      {[]store.PutOption{store.ScheduleAt(time.Time{}), store.ExpectedAt(time.Time{})}, `schedule_at is null and expected_at is null`},
		"instants":  {[]store.PutOption{store.ScheduleAt(instant), store.ExpectedAt(instant.Add(time.Second))}, `schedule_at = '2100-01-02 03:04:05.000006+02' and expected_at = '2100-01-02 03:04:06.000006+02'`},
		"durations": {[]store.PutOption{store.ScheduleAt(time.Hour), store.ExpectedAt(-time.Hour)}, `schedule_at - enqueued_at between '1h' and '1h1m' and expected_at - enqueued_at between '-1h' and '-59m'`},
		"texts":     {[]store.PutOption{store.ScheduleAt("1d12h"), store.ExpectedAt("250ms")}, `schedule_at - enqueued_at between '36h' and '36h1m' and expected_at - enqueued_at between '250ms' and '1m'`},
		"the last":  {[]store.PutOption{store.ScheduleAt("1d"), store.ScheduleAt(time.Time{})}, `schedule_at is null`},
	} {
		ids, err := store.PutMany(t.Context(), apples, slices.Values([]int{1, 2}), c.options...)
		check(t, err)
		for _, id := range append(ids, put(t, apples, 1, c.options...)) {
			if !one[bool](t, pool, `select `+c.want+` from queue where id = $1`, id) {
				t.Errorf("%s: job %d does not satisfy %s", name, id, c.want)
			}
		}
	}
}

func TestPutManyReturnsIDsInOrder(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples/json")
	const n = 20_001 // three chunks
	ids, err := store.PutMany(t.Context(), apples, count(n), store.ScheduleAt(-time.Second), store.ExpectedAt("1h"), store.MaxAttempts(7))
	check(t, err)
	if len(ids) != n || !slices.IsSorted(ids) {
		t.Fatalf("got %d ids (sorted: %v), want %d in order", len(ids), slices.IsSorted(ids), n)
	}
	if got := column[int](t, pool, `select data::int from queue order by id`); !slices.Equal(got, slices.Collect(count(n))) {
		t.Error("the data is not in the order of the ids")
	}
	if got := column[int64](t, pool, `select id from queue where q_name = 'apples' and schedule_at < now() and expected_at > now() and max_attempts = 7 and metadata is null order by id`); !slices.Equal(got, ids) {
		t.Errorf("the options hold for %d of %d jobs", len(got), n)
	}
	if ids, err := store.PutMany(t.Context(), apples, count(0)); err != nil || len(ids) > 0 {
		t.Errorf("put none: got %v, %v", ids, err)
	}
}

func count(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestPutManyPutsAllOrNone(t *testing.T) {
	pool, jobs := open(t)
	tx := begin(t, pool)
	put(t, jobs.With(tx).Queue("apples"), "before")
	bad := func(yield func(any) bool) {
		for i := range 10_000 {
			var v any = i
			if i == 4999 {
				v = "\x00"
			}
			if !yield(v) {
				return
			}
		}
	}
	_, err := store.PutMany(t.Context(), jobs.With(tx).Queue("apples"), bad)
	wantError(t, err, store.ErrData)
	if !strings.Contains(err.Error(), "job 5000:") {
		t.Errorf("got %v, want the position, job 5000", err)
	}
	wantCount(t, tx, 1) // and the transaction is usable
	check(t, tx.Commit(t.Context()))

	_, err = store.PutMany(t.Context(), jobs.Queue("apples"), bad)
	wantError(t, err, store.ErrData)
	wantCount(t, pool, 1)

	tx = begin(t, pool)
	_, err = store.PutMany(t.Context(), jobs.With(tx).Queue("apples"), count(3000))
	check(t, err)
	check(t, tx.Rollback(t.Context()))
	wantCount(t, pool, 1)
}

func TestPutManyDoesNotPileUpItsData(t *testing.T) {
	for _, c := range []struct {
		jobs, size, every int
		limit             uint64
	}{
		{100_000, 500, 5_000, 100 << 20},
		{64, 1<<20 - 100, 1, 64 << 20}, // it is 64 MiB in all
	} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			_, jobs := open(t)
			payload := strings.Repeat("x", c.size)
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var peak uint64
			ids, err := store.PutMany(t.Context(), jobs.Queue("apples"), func(yield func(string) bool) {
				for i := range c.jobs {
					if i%c.every == 0 {
						runtime.GC() // so that what counts is what is held, not what waits for collection
						runtime.ReadMemStats(&now)
						peak = max(peak, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
					}
					if !yield(payload) {
						return
					}
				}
			})
			check(t, err)
			if len(ids) != c.jobs {
				t.Fatalf("got %d ids, want %d", len(ids), c.jobs)
			}
			if peak > c.limit/2 {
				t.Errorf("PutMany held up to %d MiB, want it well below %d", peak>>20, c.limit>>20)
			}
		})
	}
}

func TestLenCountsClear(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	if counts, err := apples.Counts(t.Context()); err != nil || counts != (store.Counts{Queue: "apples"}) {
		t.Errorf("an empty queue: got %+v, %v", counts, err)
	}
	running := put(t, apples, 1, store.ExpectedAt(-time.Hour))
	session := openSession(t, jobs)
	claims := claim(t, session, apples, 1)
	wantClaims(t, claims, running)
	put(t, apples, 2)
	put(t, apples, 3, store.ScheduleAt(-time.Hour))
	put(t, apples, 4, store.ScheduleAt("1h"))
	aside := put(t, apples, 5)
	settle(t, jobs, nil, store.Return{Run: store.Run{ID: aside, Attempt: 1}, SetAside: true})
	taken := put(t, apples, 6)
	exec(t, pool, `update queue set dequeued_at = now() where id = $1`, taken)
	put(t, jobs.Queue("pears"), 1)

	all, err := jobs.Counts(t.Context())
	check(t, err)
	want := []store.Counts{
		{Queue: "apples", Ready: 2, Scheduled: 1, Running: 1, SetAside: 1, Taken: 1},
		{Queue: "pears", Ready: 1},
	}
	for i := range all {
		if all[i].Oldest < 0 || all[i].Oldest > 30*time.Minute {
			t.Errorf("the oldest job of %s: got %v, want the time since it could run", all[i].Queue, all[i].Oldest)
		}
		all[i].Oldest = 0
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if n, err := apples.Len(t.Context()); n != 3 || err != nil {
		t.Errorf("Len: got %d, %v, want 3", n, err)
	}
	release(t, session, claims)
	if counts, err := apples.Counts(t.Context()); counts.Running != 0 || counts.Ready != 3 || err != nil {
		t.Errorf("after the release: got %+v, %v", counts, err)
	}
	if n, err := apples.Clear(t.Context()); n != 6 || err != nil {
		t.Errorf("Clear: got %d, %v, want 6", n, err)
	}
	wantCount(t, pool, 1)
}

func TestUpdate(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	id := put(t, apples, "old")
	check(t, apples.Update(t.Context(), id, "new"))
	wantError(t, jobs.Queue("pears").Update(t.Context(), id, "other"), store.ErrGone)
	wantError(t, apples.Update(t.Context(), id+1, "other"), store.ErrGone)
	wantError(t, apples.Update(t.Context(), id, "\x00"), store.ErrData)
	tx := begin(t, pool)
	check(t, apples.With(tx).Update(t.Context(), id, "rolled back"))
	check(t, tx.Rollback(t.Context()))
	if job := get(t, apples); string(job.Data) != `"new"` {
		t.Errorf("got %s, want the new data", job.Data)
	}
	wantError(t, apples.Update(t.Context(), id, "late"), store.ErrGone)
}

type order struct{ Pieces int }

func TestATaskPutsWithItsDefaults(t *testing.T) {
	pool, jobs := open(t)
	ship := store.Task[order]{Queue: "orders", Name: "ship", MaxRetries: 2, Defaults: []store.PutOption{store.ExpectedAt("1h"), store.ScheduleAt(-time.Minute)}}
	_, err := ship.Put(t.Context(), jobs, order{3})
	check(t, err)
	_, err = ship.Put(t.Context(), jobs, order{4}, store.ScheduleAt(time.Time{}), store.ExpectedAt(-time.Hour), store.MaxAttempts(9))
	check(t, err)
	overridden, defaults := get(t, jobs.Queue("orders")), get(t, jobs.Queue("orders"))
	if overridden.Task != "ship" || overridden.MaxAttempts != 9 || !overridden.ScheduleAt.IsZero() {
		t.Errorf("got %+v, want the options of the call", overridden)
	}
	var args order
	check(t, defaults.Decode(&args))
	if args.Pieces != 3 || defaults.Task != "ship" || defaults.MaxAttempts != 3 || defaults.ScheduleAt.IsZero() || defaults.ExpectedAt.IsZero() {
		t.Errorf("got %+v with %+v, want the task's defaults", defaults, args)
	}
	for _, bad := range []store.Task[order]{{Queue: "orders", Name: "ship", MaxRetries: -1}, {Queue: "orders"}, {Queue: "orders", Name: "\x00"}, {Name: "ship"}} {
		if _, err := bad.Put(t.Context(), jobs, order{}); err == nil {
			t.Errorf("%+v: got no error", bad)
		}
	}
	wantCount(t, pool, 0)
}

func TestAJobDescribesItselfWithoutItsData(t *testing.T) {
	_, jobs := open(t)
	task := store.Task[string]{Queue: "apples", Name: "eat"}
	id, err := task.Put(t.Context(), jobs, "secret", store.ScheduleAt(time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)), store.ExpectedAt(time.Date(2002, 2, 3, 4, 5, 6, 0, time.UTC)))
	check(t, err)
	got := get(t, jobs.Queue("apples")).String()
	for _, want := range []string{fmt.Sprintf("job %d ", id), `queue="apples"`, `task="eat"`, "size=8", "attempt=1", "schedule_at=2001-02-03T04:05:06Z", "expected_at=2002-02-03T04:05:06Z"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
	if strings.Contains(got, "secret") {
		t.Errorf("got %s, with the data", got)
	}
}

// upper is a codec that can be told from the others.
type upper struct{}

func (upper) Marshal(v any) ([]byte, error) { return []byte(strings.ToUpper(v.(string))), nil }
func (upper) Unmarshal(data []byte, v any) error {
	*v.(*string) = string(data)
	return nil
}

func TestCodecs(t *testing.T) {
	pool, _ := open(t)
	jobs := store.New(pool, store.Options{Codecs: map[string]store.Codec{"upper": upper{}}})
	put(t, jobs.Queue("apples/gob"), order{3})
	var o order
	check(t, get(t, jobs.Queue("apples/gob")).Decode(&o))
	if o.Pieces != 3 {
		t.Errorf("gob: got %+v", o)
	}
	put(t, jobs.Queue("apples/upper"), "cox\x00")
	var text string
	check(t, get(t, jobs.Queue("apples/upper")).Decode(&text))
	if text != "COX\x00" {
		t.Errorf("registered codec: got %q", text)
	}
	for _, plain := range []string{"apples", "apples/json"} {
		put(t, jobs.Queue(plain), order{4})
		if job := get(t, jobs.Queue("apples")); string(job.Data) != `{"Pieces": 4}` {
			t.Errorf("%s: got %s, want plain JSON", plain, job.Data)
		}
	}
	_, err := jobs.Queue("apples/yaml").Put(t.Context(), 1)
	wantError(t, err, store.ErrCodec)
	if !strings.Contains(err.Error(), "gob, json, upper") {
		t.Errorf("got %v, want the codecs that are known", err)
	}
	for _, c := range []struct {
		data any
		into any
	}{
		{"text", new(order)}, {order{1}, new(string)}, {300, new(int8)}, {"!", new(order)}, {nil, (*order)(nil)},
	} {
		for _, name := range []string{"apples", "apples/gob"} {
			put(t, jobs.Queue("apples"), c.data)
			if err := get(t, jobs.Queue(name)).Decode(c.into); !errors.Is(err, store.ErrDecode) {
				t.Errorf("%v read as %T from %s: got %v, want ErrDecode", c.data, c.into, name, err)
			}
		}
	}
	put(t, jobs.Queue("a/b/gob"), 1) // only the last part is the codec
	if got := one[string](t, pool, `select q_name from queue`); got != "a/b" {
		t.Errorf("got the queue %q, want a/b", got)
	}
}

func TestMetadataIsKeptBesideTheTraceContext(t *testing.T) {
	_, jobs := open(t)
	apples := jobs.Queue("apples")
	tags := map[string]string{"tenant": "a", "": "é\n"}
	put(t, apples, 1, store.Metadata(tags))
	if job := get(t, apples); !maps.Equal(job.Metadata, tags) {
		t.Errorf("got %v, want %v", job.Metadata, tags)
	}
	for _, bad := range []string{"\x00", "\xff"} {
		if _, err := apples.Put(t.Context(), 1, store.Metadata(map[string]string{"a": bad})); !errors.Is(err, store.ErrData) {
			t.Errorf("%q: got %v, want an error that matches ErrData", bad, err)
		}
	}
}
