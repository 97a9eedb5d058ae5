// A job that kills its process, again and again, with real processes that die of it.

package dispatcher_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// workerEnv makes the test binary a process that runs jobs.
const workerEnv = "PQ_DISPATCH_QUARANTINE_TEST"

// workerSettings are what such a process is told.
type workerSettings struct {
	URL  string
	Slow time.Duration // how long an innocent job takes
}

// workerRan is what it says: which job has ended.
type workerRan struct{ ID int64 }

func init() {
	if os.Getenv(workerEnv) == "" {
		return
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// work is such a process.
func work() error {
	var s workerSettings
	ctx, cancel, err := child.Settings(context.Background(), os.Stdin, &s, nil)
	if err != nil {
		return err
	}
	defer cancel()
	pool, err := pgxpool.New(ctx, s.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	ran := make(chan workerRan)
	go func() {
		for r := range ran {
			_ = json.NewEncoder(os.Stdout).Encode(r)
		}
	}()
	d := dispatcher.New(store.New(pool, store.Options{}), quiet(dispatcher.Options{Concurrency: 30, Sweep: 500 * time.Millisecond}))
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		if string(job.Data) == `"poison"` {
			os.Exit(0) // no handler returns, and nothing is cleaned up
		}
		timer := time.NewTimer(s.Slow)
		defer timer.Stop()
		select {
		case <-timer.C:
			ran <- workerRan{job.ID}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
	return d.Run(ctx)
}

func TestAJobThatKillsItsProcessIsSetAsideAndTheOthersAreDone(t *testing.T) {
	for _, test := range []struct {
		name      string
		processes int
		poisons   int
	}{
		{"one process", 1, 1},
		{"three processes", 3, 1},
		{"two such jobs and two processes", 2, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			url := migrated.Database(t)
			pool := poolAt(t, url)
			apples := store.New(pool, store.Options{}).Queue("apples")
			const innocent, attempts = 20, 4
			var poisons, others []int64
			for i := range innocent + test.poisons {
				if i%(innocent/test.poisons) == 5 && len(poisons) < test.poisons {
					poisons = append(poisons, put(t, apples, "poison", store.MaxAttempts(attempts)))
				}
				if len(others) < innocent {
					others = append(others, put(t, apples, i, store.MaxAttempts(attempts)))
				}
			}
			// The attempts of a job that is done are gone with it.
			if _, err := pool.Exec(t.Context(), `
				create table finished (id bigint, attempt integer);
				create function finish() returns trigger language plpgsql as $$
				begin
				  insert into public.finished values (old.id, old.attempt);
				  return null;
				end $$;
				create trigger finish after delete on queue for each row execute function finish()`); err != nil {
				t.Fatal(err)
			}

			t.Setenv(workerEnv, "1")
			group := child.NewGroup[workerRan]([]string{os.Args[0]}, patience)
			settings := workerSettings{url, 300 * time.Millisecond}
			started := 0
			launch := func() {
				t.Helper()
				started++
				if _, err := group.Start(fmt.Sprint("process ", started), settings); err != nil {
					t.Fatal(err)
				}
			}
			defer func() {
				if err := group.Stop(func(child.Event[workerRan]) {}); err != nil {
					t.Error(err)
				}
			}()
			for range test.processes {
				launch()
			}
			// Each death is made good by another process, as a supervisor does.
			deaths, most := 0, 3*attempts*test.poisons
			until := func(what, none string, args ...any) {
				t.Helper()
				look := time.NewTicker(20 * time.Millisecond)
				defer look.Stop()
				tooLong := time.NewTimer(patience)
				defer tooLong.Stop()
				for left := -1; left != 0; {
					select {
					case e := <-group.Events:
						if !e.Ended {
							continue
						}
						if err := e.Process.Err(); err != nil {
							t.Fatal(e.Process.Failure())
						}
						if deaths++; deaths > most {
							t.Fatalf("%d processes have died, and it goes on", deaths)
						}
						launch()
					case <-look.C:
						if err := pool.QueryRow(t.Context(), `select count(*) from `+none, args...).Scan(&left); err != nil {
							t.Fatal(err)
						}
					case <-tooLong.C:
						t.Fatalf("waited in vain until %s: after %d deaths there are %d of %s", what, deaths, left, none)
					}
				}
			}
			until("each job is done or set aside", `queue where not set_aside`)
			for _, id := range poisons {
				if r, exists := rowOf(t, pool, id); !exists || !r.SetAside || r.Attempt != attempts || !strings.Contains(r.LastError, "died") {
					t.Errorf("job %d, which kills its process: got %+v, want it set aside at attempt %d, for that reason", id, r, attempts)
				}
			}
			counted := 0
			for _, id := range others {
				var attempt int
				if err := pool.QueryRow(t.Context(), `select attempt from finished where id = $1`, id).Scan(&attempt); err != nil {
					r, _ := rowOf(t, pool, id)
					t.Errorf("job %d, innocent, was not done, %v: got %+v", id, err, r)
					continue
				}
				counted += attempt - 1
				if most := 2 + test.poisons; attempt > most {
					t.Errorf("job %d, innocent, was done at attempt %d, want %d at most: counted twice, and once more for each other poison", id, attempt, most)
				}
			}
			t.Logf("%d deaths, for which %d attempts of %d innocent jobs were counted", deaths, counted, innocent)
			if deaths < attempts {
				t.Errorf("%d processes died, want %d at least: the test has shown nothing", deaths, attempts)
			}
			// It goes on.
			until("a job that is put now is done", `queue where id = $1`, put(t, apples, "late"))
			until("nothing is kept of the dead", `pq_dispatch.ledger`)
		})
	}
}
