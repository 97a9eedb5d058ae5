package store_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

type meal struct {
	Kind  string
	Notes map[string]any
}

type label string

func nested(depth int) any {
	var v any = 1
	for range depth {
		v = []any{v}
	}
	return v
}

func TestDataThatTheDatabaseCannotHoldIsRefusedBeforeItIsSent(t *testing.T) {
	pool, jobs := open(t)
	tx := begin(t, pool)
	small := store.New(tx, store.Options{MaxSize: 1000}).Queue("apples")
	cyclic := &meal{Notes: map[string]any{}}
	cyclic.Notes["self"] = cyclic
	for name, c := range map[string]struct {
		data any
		want error
	}{
		"NUL in a string":               {"a\x00b", store.ErrData},
		"NUL in a field":                {meal{Kind: "\x00"}, store.ErrData},
		"NUL in a key":                  {map[string]int{"\x00": 1}, store.ErrData},
		"NUL in raw JSON":               {json.RawMessage(`{"a":"\u0000"}`), store.ErrData},
		"invalid UTF-8":                 {"a\xff", store.ErrData},
		"invalid UTF-8 in a field":      {&meal{Kind: "\xff"}, store.ErrData},
		"invalid UTF-8 deep in a field": {[]any{meal{Notes: map[string]any{"a": []label{"\xff"}}}}, store.ErrData},
		"invalid UTF-8 in a key":        {map[label]int{"\xff": 1}, store.ErrData},
		"invalid UTF-8 in raw JSON":     {json.RawMessage("\"\xff\""), store.ErrData},
		"a surrogate in a string":       {"\xed\xa0\x80", store.ErrData},
		"half a pair in raw JSON":       {json.RawMessage(`"\ud800"`), store.ErrData},
		"a key twice":                   {json.RawMessage(`{"a":1,"a":2}`), store.ErrData},
		"a key twice, within a field":   {map[string]any{"raw": json.RawMessage(`{"a":1,"a":2}`)}, store.ErrData},
		"malformed raw JSON":            {json.RawMessage(`{"a":`), store.ErrData},
		"NaN":                           {math.NaN(), store.ErrData},
		"infinity":                      {[]float64{1, math.Inf(-1)}, store.ErrData},
		"a channel":                     {make(chan int), store.ErrData},
		"a cycle":                       {cyclic, store.ErrData},
		"1001 deep":                     {nested(1001), store.ErrTooLarge}, // here; see below
		"20000 deep":                    {json.RawMessage(strings.Repeat("[", 20000) + strings.Repeat("]", 20000)), store.ErrData},
		"a huge exponent":               {json.RawMessage(`1e131073`), store.ErrData},
		"a huge negative exponent":      {json.RawMessage(`1e-131073`), store.ErrData},
		"exponents that grow":           {json.RawMessage(`[1e999,1e999]`), store.ErrTooLarge},
		"too large":                     {strings.Repeat("x", 999), store.ErrTooLarge},
		"too large once encoded":        {strings.Repeat("<", 200), store.ErrTooLarge},
	} {
		if id, err := small.Put(t.Context(), c.data); !errors.Is(err, c.want) || id != 0 {
			t.Errorf("put %s: got %d, %v, want %v", name, id, err, c.want)
		}
		if _, err := store.PutMany(t.Context(), small, slices.Values([]any{1, c.data})); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "job 2") {
			t.Errorf("put many, with %s: got %v, want %v and the position", name, err, c.want)
		}
	}
	large := jobs.With(tx).Queue("apples")
	_, err := large.Put(t.Context(), nested(1001))
	wantError(t, err, store.ErrData)
	_, err = large.Put(t.Context(), json.RawMessage(strings.Repeat("9", 10_000)))
	wantError(t, err, store.ErrData)
	_, err = large.Put(t.Context(), strings.Repeat("x", 1<<20))
	wantError(t, err, store.ErrTooLarge)
	put(t, large, nested(1000)) // the transaction is usable still
	put(t, large, strings.Repeat("x", 1<<20-2))
	check(t, tx.Commit(t.Context()))
	wantCount(t, pool, 2)
}

func TestTimesThatTheDatabaseCannotHoldAreRefused(t *testing.T) {
	pool, jobs := open(t)
	tx := begin(t, pool)
	apples := jobs.With(tx).Queue("apples")
	for _, at := range []time.Time{
		time.Date(294276, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(-4713, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Unix(math.MaxInt64>>1, 0), time.Unix(math.MinInt64>>1, 0),
	} {
		for _, option := range []store.PutOption{store.ScheduleAt(at), store.ExpectedAt(at)} {
			_, err := apples.Put(t.Context(), 1, option)
			wantError(t, err, store.ErrTime)
		}
	}
	for _, spec := range []string{"", "5", "soon", "-5s", "1.5h", "\x00", "5m ", "106752d"} {
		_, err := apples.Put(t.Context(), 1, store.ScheduleAt(spec))
		if _, ok := errors.AsType[*store.DelayError](err); !ok {
			t.Errorf("ScheduleAt(%q): got %v, want a *DelayError", spec, err)
		}
	}
	for _, n := range []int{0, -1, math.MinInt, math.MaxInt} {
		if _, err := apples.Put(t.Context(), 1, store.MaxAttempts(n)); err == nil {
			t.Errorf("MaxAttempts(%d): got no error", n)
		}
	}
	wantCount(t, tx, 0)
	for _, mode := range []string{"cache_statement", "exec"} {
		pool := connectPool(t, withMode(pool, mode))
		oranges := store.New(pool, store.Options{}).Queue("oranges")
		for _, at := range []time.Time{
			time.Date(294275, 12, 31, 23, 59, 59, 999999000, time.UTC), time.Date(-4711, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(12026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)), time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC),
		} {
			id := put(t, oranges, 1, store.ScheduleAt(at), store.ExpectedAt(at))
			var schedule, expected time.Time
			check(t, pool.QueryRow(t.Context(), `select schedule_at, expected_at from queue where id = $1`, id).Scan(&schedule, &expected))
			if !schedule.Equal(at) || !expected.Equal(at) {
				t.Errorf("%s: put %v, got %v and %v", mode, at, schedule, expected)
			}
		}
		put(t, oranges, 1, store.ScheduleAt(time.Duration(math.MaxInt64)), store.ExpectedAt(time.Duration(math.MinInt64)))
	}
}

// withMode is the pool's database, spoken to in another of pgx's modes.
func withMode(pool *pgxpool.Pool, mode string) string {
	return pool.Config().ConnString() + "&default_query_exec_mode=" + mode
}

func TestQueueNames(t *testing.T) {
	pool, jobs := open(t)
	for _, name := range []string{"", "/gob", "a\x00b", "a\xff", strings.Repeat("a", 201), strings.Repeat("é", 101)} {
		q := jobs.Queue(name)
		_, putErr := q.Put(t.Context(), 1)
		_, manyErr := store.PutMany(t.Context(), q, slices.Values([]int{1}))
		_, getErr := q.Get(t.Context(), store.Forever)
		_, lenErr := q.Len(t.Context())
		_, clearErr := q.Clear(t.Context())
		_, countsErr := q.Counts(t.Context())
		for call, err := range map[string]error{"Err": q.Err(), "Put": putErr, "PutMany": manyErr, "Get": getErr, "Len": lenErr,
			"Clear": clearErr, "Counts": countsErr, "Update": q.Update(t.Context(), 1, 1), "Wake": q.Wake(t.Context())} {
			if !errors.Is(err, store.ErrQueueName) {
				t.Errorf("%s of the queue %q: got %v, want ErrQueueName", call, name, err)
			}
		}
	}
	wantCount(t, pool, 0)
	for _, name := range []string{"a", " ", "'; drop table queue --", `"$1\`, "käse 🧀", "a:b c", "\n", strings.Repeat("é", 100)} {
		q := jobs.Queue(name)
		id := put(t, q, strings.Repeat("long ", 10_000)) // N3: no payload grows with the data
		check(t, q.Wake(t.Context()))
		job := get(t, q)
		if job == nil || job.ID != id || job.Queue != name {
			t.Errorf("got %v from the queue %q, want job %d", job, name, id)
		}
	}
}

func TestTheSimpleProtocolIsRefused(t *testing.T) {
	url := pgtest.Database(t) + "&default_query_exec_mode=simple_protocol"
	pool := connectPool(t, url)
	conn, err := pgx.Connect(t.Context(), url)
	check(t, err)
	defer conn.Close(t.Context())
	for _, db := range []store.DB{pool, conn, begin(t, pool)} {
		_, err = store.New(db, store.Options{}).Queue("apples").Put(t.Context(), 1)
		wantError(t, err, store.ErrProtocol)
	}
}

func TestANegativeMaxSizeIsRefused(t *testing.T) {
	if _, err := store.New(nil, store.Options{MaxSize: -1}).Queue("apples").Put(t.Context(), 1); err == nil {
		t.Error("got no error")
	}
}
