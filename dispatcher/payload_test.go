package dispatcher_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// text is a string whose JSON is so many bytes long. Random text is stored as it is; repeated text is compressed.
func text(size int, repeated bool) string {
	size -= len(`""`)
	if repeated {
		return strings.Repeat("apple ", size/6+1)[:size]
	}
	random := make([]byte, base64.StdEncoding.DecodedLen(size)+3)
	rand.Read(random)
	return base64.StdEncoding.EncodeToString(random)[:size]
}

func TestPayloadsOfAllSizesArriveIntact(t *testing.T) {
	const largest = 30 << 20
	jobs := store.New(poolAt(t, migrated.Database(t)), store.Options{MaxSize: largest})
	apples := jobs.Queue("apples")
	type arrived struct {
		id   int64
		size int
		sum  [sha256.Size]byte
	}
	got := make(chan arrived, 1000)
	handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 20}, func(_ context.Context, job *dispatcher.Job) error {
		var text string
		err := job.Decode(&text)
		got <- arrived{job.ID, len(job.Data), sha256.Sum256([]byte(text))}
		return err
	})

	var mu sync.Mutex
	want := map[int64]arrived{}
	expect := func(id int64, text string) {
		mu.Lock()
		defer mu.Unlock()
		want[id] = arrived{id, len(text) + len(`""`), sha256.Sum256([]byte(text))}
	}
	var putters sync.WaitGroup
	for _, size := range []int{100, 2000, 2100, 8 << 10, 100_000, 1 << 20} { // to both sides of where PostgreSQL moves data out of line
		for _, repeated := range []bool{false, true} {
			putters.Go(func() {
				for range 5 {
					text := text(size, repeated)
					id, err := apples.Put(t.Context(), text)
					if err != nil {
						t.Error(err)
						return
					}
					expect(id, text)
				}
				texts := []string{text(size, repeated), text(size-1, repeated), text(size, repeated)}
				ids, err := store.PutMany(t.Context(), apples, slices.Values(texts))
				if err != nil {
					t.Error(err)
					return
				}
				for i, id := range ids {
					expect(id, texts[i])
				}
			})
		}
	}
	putters.Go(func() {
		text := text(largest, false)
		id, err := apples.Put(t.Context(), text)
		if err != nil {
			t.Error(err)
			return
		}
		expect(id, text)
	})
	putters.Wait()
	for range want {
		a := receive(t, got, "a job")
		if a != want[a.id] {
			t.Errorf("job %d: %d bytes arrived, SHA-256 %x, want %d bytes, %x", a.id, a.size, a.sum, want[a.id].size, want[a.id].sum)
		}
	}
}

// BenchmarkMemoryOfLargeJobs has jobs of 1 MiB follow thousands of small ones, by whose rate they are claimed
// ahead, with handlers that hold all of them up. It tells how many are claimed then, and the largest heap.
func BenchmarkMemoryOfLargeJobs(b *testing.B) {
	const small, large, slots = 30_000, 1200, 100
	check := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	for b.Loop() {
		b.StopTimer()
		pool, err := pgxpool.New(b.Context(), migrated.Database(b))
		check(err)
		b.Cleanup(pool.Close)
		_, err = pool.Exec(b.Context(), `insert into queue (q_name, data) select 'apples', '1' from generate_series(1, $1)`, small)
		check(err)
		_, err = pool.Exec(b.Context(), `insert into queue (q_name, data) select 'apples', to_jsonb($1::text) from generate_series(1, $2)`, text(1<<20, false), large)
		check(err)
		runtime.GC()
		b.StartTimer()

		ctx, stop := context.WithCancel(b.Context())
		entered, proceed := make(chan struct{}, large), make(chan struct{})
		d := dispatcher.New(store.New(pool, store.Options{}), quiet(dispatcher.Options{Concurrency: slots}))
		d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
			if job.Size() > 1 {
				entered <- struct{}{}
				<-proceed
			}
			return nil
		}))
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		var memory runtime.MemStats
		var claimed int
		var peak uint64
		sample := time.NewTicker(10 * time.Millisecond)
		for held := 0; held < 100; { // for a second, in which what is being claimed arrives
			<-sample.C
			runtime.ReadMemStats(&memory)
			peak = max(peak, memory.HeapInuse)
			if len(entered) == slots {
				held++
			}
		}
		check(pool.QueryRow(b.Context(), `select count(*) from pg_locks where locktype = 'advisory' and classid = 'queue'::regclass::oid and objsubid = 2`).Scan(&claimed))
		sample.Stop()
		stop()
		close(proceed)
		check(<-ended)
		b.ReportMetric(0, "ns/op") // it says nothing
		b.ReportMetric(float64(claimed), "claimed")
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	}
}
