package dispatcher_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

var errSour = errors.New("sour")

// handleApples runs a dispatcher whose only handler is this one.
func handleApples(t *testing.T, jobs *store.Store, o dispatcher.QueueOptions, h dispatcher.HandlerFunc) *running {
	t.Helper()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Queue: o}))
	d.Handle("apples", h)
	return start(t, d)
}

func TestAnOutcomeFollowsFromWhatTheHandlerReturns(t *testing.T) {
	soon := retry.Fixed(0)
	for name, test := range map[string]struct {
		options  dispatcher.QueueOptions
		put      []store.PutOption
		handle   func(ctx context.Context, job *dispatcher.Job) error
		runs     int  // how often it runs before it comes to rest
		gone     bool // the row is deleted
		attempt  int
		setAside bool
		says     string // of last_error
	}{
		"nil is done": {
			handle: func(context.Context, *dispatcher.Job) error { return nil },
			runs:   1, gone: true,
		},
		"an error is retried until the attempts are used up": {
			options: dispatcher.QueueOptions{Retry: soon, MaxAttempts: 3},
			handle:  func(context.Context, *dispatcher.Job) error { return errSour },
			runs:    3, attempt: 3, setAside: true, says: "sour",
		},
		"the job's own max_attempts comes first": {
			options: dispatcher.QueueOptions{Retry: soon, MaxAttempts: 3},
			put:     []store.PutOption{store.MaxAttempts(2)},
			handle:  func(context.Context, *dispatcher.Job) error { return errSour },
			runs:    2, attempt: 2, setAside: true, says: "sour",
		},
		"a later attempt may succeed": {
			options: dispatcher.QueueOptions{Retry: soon},
			handle: func(_ context.Context, job *dispatcher.Job) error {
				if job.Attempt < 3 {
					return errSour
				}
				return nil
			},
			runs: 3, gone: true,
		},
		"a permanent error is not retried": {
			options: dispatcher.QueueOptions{Retry: soon},
			handle:  func(context.Context, *dispatcher.Job) error { return retry.Permanent(errSour) },
			runs:    1, attempt: 1, setAside: true, says: "sour",
		},
		"an error carries its own delay": {
			options: dispatcher.QueueOptions{Retry: retry.Fixed(time.Hour), MaxAttempts: 2},
			handle:  func(context.Context, *dispatcher.Job) error { return retry.After(0, errSour) },
			runs:    2, attempt: 2, setAside: true, says: "sour",
		},
		"a panic is a failure with its stack": {
			options: dispatcher.QueueOptions{Retry: soon, MaxAttempts: 2},
			handle:  func(context.Context, *dispatcher.Job) error { panic("worm") },
			runs:    2, attempt: 2, setAside: true, says: "outcome_test.go",
		},
		"a handler that ends its goroutine has failed": {
			options: dispatcher.QueueOptions{Retry: soon, MaxAttempts: 2},
			handle:  func(context.Context, *dispatcher.Job) error { runtime.Goexit(); return nil },
			runs:    2, attempt: 2, setAside: true, says: "Goexit",
		},
		"a timeout is a failure": {
			options: dispatcher.QueueOptions{Retry: soon, MaxAttempts: 1, Timeout: 10 * time.Millisecond},
			handle: func(ctx context.Context, _ *dispatcher.Job) error {
				<-ctx.Done()
				return ctx.Err()
			},
			runs: 1, attempt: 1, setAside: true, says: "timeout has passed (10ms)",
		},
		"a discarded job is deleted": {
			options: dispatcher.QueueOptions{Retry: soon},
			handle:  func(context.Context, *dispatcher.Job) error { return dispatcher.Discard("rotten") },
			runs:    1, gone: true,
		},
		"an error of any bytes and size is kept as far as it can be": {
			options: dispatcher.QueueOptions{Retry: soon},
			handle: func(context.Context, *dispatcher.Job) error {
				return retry.Permanent(errors.New("a\x00b\xffc" + strings.Repeat("x", 1<<20)))
			},
			runs: 1, attempt: 1, setAside: true, says: "ab\uFFFDcxxx",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := poolAt(t, migrated.Database(t))
			jobs := store.New(pool, store.Options{})
			id := put(t, jobs.Queue("apples"), "Cox", test.put...)
			ran := make(chan int, 100)
			r := handleApples(t, jobs, test.options, func(ctx context.Context, job *dispatcher.Job) error {
				ran <- job.Attempt
				return test.handle(ctx, job)
			})
			for i := range test.runs {
				if attempt := receive(t, ran, "a run"); attempt != i+1 {
					t.Errorf("run %d: got attempt %d", i+1, attempt)
				}
			}
			eventually(t, "the job is at rest", func() bool {
				row, exists := rowOf(t, pool, id)
				return !exists || row.SetAside
			})
			if err := r.end(); err != nil {
				t.Error(err)
			}
			if len(ran) > 0 {
				t.Errorf("got %d more runs, want %d", len(ran), test.runs)
			}
			row, exists := rowOf(t, pool, id)
			if exists == test.gone {
				t.Fatalf("the row exists: %v, want %v", exists, !test.gone)
			}
			if row.Attempt != test.attempt || row.SetAside != test.setAside || !strings.Contains(row.LastError, test.says) {
				t.Errorf("got %.300v, want attempt %d, set aside %v, an error that says %q", row, test.attempt, test.setAside, test.says)
			}
		})
	}
}

func TestSnoozeRepeatsTheSameAttempt(t *testing.T) {
	jobs := newStore(t)
	put(t, jobs.Queue("apples"), "Cox")
	attempts := make(chan int, 10)
	n := 0
	handleApples(t, jobs, dispatcher.QueueOptions{Concurrency: 1, MaxAttempts: 1}, func(_ context.Context, job *dispatcher.Job) error {
		attempts <- job.Attempt
		if n++; n < 4 {
			return dispatcher.Snooze(time.Millisecond)
		}
		return nil
	})
	for range 4 {
		if attempt := receive(t, attempts, "a run"); attempt != 1 {
			t.Errorf("got attempt %d, want 1", attempt)
		}
	}
}

type meal struct{ Apple string }

func TestTasksGetTheirArguments(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	for _, queue := range []string{"apples", "pears/gob"} {
		t.Run(queue, func(t *testing.T) {
			eat := store.Task[meal]{Queue: queue, Name: "eat", MaxRetries: 1, RetryIn: time.Millisecond}
			peel := store.Task[int]{Queue: queue, Name: "peel"}
			got := make(chan any, 10)
			d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
			dispatcher.HandleTask(d, eat, func(_ context.Context, job *dispatcher.Job, m meal) error {
				got <- m
				return errSour
			})
			dispatcher.HandleTask(d, peel, func(_ context.Context, job *dispatcher.Job, n int) error {
				got <- n
				return nil
			})
			start(t, d)
			id, err := eat.Put(t.Context(), jobs, meal{"Cox"})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // once, and one retry
				if m := receive(t, got, "eat"); m != (meal{"Cox"}) {
					t.Errorf("got %v, want the meal that was put", m)
				}
			}
			if _, err := peel.Put(t.Context(), jobs, 7); err != nil {
				t.Fatal(err)
			}
			if n := receive(t, got, "peel"); n != 7 {
				t.Errorf("got %v, want 7", n)
			}
			eventually(t, "the failed task is set aside", func() bool {
				row, _ := rowOf(t, pool, id)
				return row.SetAside && row.LastError == "sour" && row.Attempt == 2
			})
		})
	}
}

func TestAJobThatCannotBeRunIsSetAsideAlone(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	eat := store.Task[meal]{Queue: "apples", Name: "eat"}

	undecodable, err := store.Task[[]int]{Queue: "apples", Name: "eat"}.Put(t.Context(), jobs, []int{1})
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := store.Task[int]{Queue: "apples", Name: "cook"}.Put(t.Context(), jobs, 1)
	if err != nil {
		t.Fatal(err)
	}
	plain := put(t, apples, 1)
	good, err := eat.Put(t.Context(), jobs, meal{"Cox"})
	if err != nil {
		t.Fatal(err)
	}
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	ate := make(chan int64, 1)
	dispatcher.HandleTask(d, eat, func(_ context.Context, job *dispatcher.Job, _ meal) error {
		ate <- job.ID
		return nil
	})
	start(t, d)
	if id := receive(t, ate, "the good one"); id != good {
		t.Errorf("ate job %d, want %d", id, good)
	}
	for id, says := range map[int64]string{
		undecodable: "cannot decode job data",
		unknown:     `no handler for task "cook" is registered on queue "apples"; known are eat`,
		plain:       "no handler for jobs without a task",
	} {
		eventually(t, says, func() bool {
			row, _ := rowOf(t, pool, id)
			return row.SetAside && strings.Contains(row.LastError, says)
		})
	}
}

func TestCompleteTxJoinsTheEffectAndTheCompletion(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	if _, err := pool.Exec(t.Context(), `create table eaten (job bigint)`); err != nil {
		t.Fatal(err)
	}
	runs := make(chan int, 10)
	handleApples(t, jobs, dispatcher.QueueOptions{Retry: retry.Fixed(0), MaxAttempts: 5}, func(ctx context.Context, job *dispatcher.Job) error {
		defer func() { runs <- job.Attempt }()
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, `insert into eaten values ($1)`, job.ID); err != nil {
			return err
		}
		if err := job.CompleteTx(ctx, tx); err != nil {
			return err
		}
		switch job.Attempt {
		case 1:
			return errSour // an error after CompleteTx: both are undone
		case 2:
			return nil // forgot to commit: so has the run failed
		}
		return tx.Commit(ctx)
	})
	id := put(t, apples, "Cox")
	for want := 1; want <= 3; want++ {
		if attempt := receive(t, runs, "a run"); attempt != want {
			t.Errorf("got attempt %d, want %d", attempt, want)
		}
	}
	eventually(t, "the job is gone", func() bool {
		_, exists := rowOf(t, pool, id)
		return !exists
	})
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from eaten where job = $1`, id).Scan(&n); err != nil || n != 1 {
		t.Errorf("got the effect %d times, %v, want once", n, err)
	}
}

func TestCompleteTxFailsWhenTheJobIsGone(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	apples := jobs.Queue("apples")
	got := make(chan error, 1)
	handleApples(t, jobs, dispatcher.QueueOptions{}, func(ctx context.Context, job *dispatcher.Job) error {
		if _, err := apples.Clear(ctx); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return job.CompleteTx(ctx, tx) })
		got <- err
		return err
	})
	put(t, apples, "Cox")
	if err := receive(t, got, "CompleteTx"); !errors.Is(err, store.ErrGone) {
		t.Errorf("got %v, want %v", err, store.ErrGone)
	}
}
