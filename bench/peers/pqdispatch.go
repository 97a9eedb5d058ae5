// This project.

package main

import (
	"context"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// queueName is the queue that jobs are put into, where a contender has named ones.
const queueName = "bench"

func pqDispatch() *contender {
	c := &contender{
		Contender: result.Contender{
			ID: "pq-dispatch", Name: "pq-dispatch, default settings",
			Settings: []string{"dispatcher.Options{} (Concurrency 100)", "pgxpool default (4 connections on up to 4 cores), and its 2 to 3 sessions"},
			Source:   "README.md; no other settings are documented as faster",
		},
		setting: "default",
		prepare: func(ctx context.Context, url string) error {
			pool, err := pgxpool.New(ctx, url)
			if err != nil {
				return err
			}
			defer pool.Close()
			return store.New(pool, store.Options{}).Migrate(ctx)
		},
		produce: func(_ context.Context, pool *pgxpool.Pool) (producer, error) {
			queue := store.New(pool, store.Options{}).Queue(queueName)
			return producer{
				put: func(ctx context.Context, j job, due time.Time) error {
					var options []store.PutOption
					if !due.IsZero() {
						options = append(options, store.ScheduleAt(due))
					}
					_, err := queue.Put(ctx, j, options...)
					return err
				},
				fill: func(ctx context.Context, tx pgx.Tx, first int64, n int) error {
					_, err := store.PutMany(ctx, queue.With(tx), jobsFrom(first, n))
					return err
				},
			}, nil
		},
		work: func(ctx context.Context, w *worker) error {
			pool, err := pgxpool.New(ctx, w.DatabaseURL)
			if err != nil {
				return err
			}
			defer pool.Close()
			d := dispatcher.New(store.New(pool, store.Options{}), dispatcher.Options{
				Concurrency: w.Concurrency,
				Grace:       100 * time.Millisecond, // how long it takes to stop is not measured
				Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
			d.Handle(queueName, dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
				return w.handle(ctx, job.Data)
			}))
			ended := make(chan error, 1)
			go func() { ended <- d.Run(ctx) }()
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for {
				if state, err := d.State(ctx); err == nil && state.Listening && state.Holding {
					w.Works()
					return <-ended
				}
				select {
				case <-look.C:
				case err := <-ended:
					return err
				}
			}
		},
		table:      "queue",
		unfinished: "from queue",
	}
	c.describe = func() error {
		c.Version = ownVersion()
		return nil
	}
	return c
}

// jobsFrom are n jobs whose delay does not count.
func jobsFrom(first int64, n int) iter.Seq[job] {
	return func(yield func(job) bool) {
		for i := range int64(n) {
			if !yield(job{ID: first + i}) {
				return
			}
		}
	}
}

// ownVersion is the commit of the checkout, as it is built from there.
func ownVersion() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--tags").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
