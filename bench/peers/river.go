// River, riverqueue.com.

package main

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// riverFill is how many jobs one InsertManyFast is given: as many as River's bench gives its InsertMany.
const riverFill = 5000

func rivers() []*contender {
	usual := riverContender(100, river.Config{})
	usual.ID, usual.Name, usual.setting = "river-default", "River, default settings", "default"
	usual.Settings = []string{"MaxWorkers 100", "FetchCooldown 100ms (default)", "FetchPollInterval 1s (default)", "pgxpool default"}
	usual.Source = "https://pkg.go.dev/github.com/riverqueue/river#hdr-Starting_a_client: its example has MaxWorkers 100"

	tuned := riverContender(2000, river.Config{FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond})
	tuned.ID, tuned.Name, tuned.setting = "river-tuned", "River, its own benchmark's settings", "tuned"
	tuned.Settings = []string{"MaxWorkers 2000", "FetchCooldown 2ms", "FetchPollInterval 20ms", "pgxpool default"}
	tuned.Source = "https://github.com/riverqueue/river/blob/master/cmd/river/riverbench/river_bench.go: the settings of `river bench`"
	return []*contender{usual, tuned}
}

// Kind makes job the arguments of a job of River's.
func (job) Kind() string { return "bench" }

type riverWorker struct {
	river.WorkerDefaults[job]
	w *worker
}

func (r *riverWorker) Work(ctx context.Context, j *river.Job[job]) error {
	return r.w.handleJob(ctx, j.Args)
}

func riverContender(maxWorkers int, config river.Config) *contender {
	config.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})) // its default is stdout
	return &contender{
		Contender: result.Contender{Version: moduleVersion("github.com/riverqueue/river")},
		prepare: func(ctx context.Context, url string) error {
			pool, err := pgxpool.New(ctx, url)
			if err != nil {
				return err
			}
			defer pool.Close()
			migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: config.Logger})
			if err != nil {
				return err
			}
			_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
			return err
		},
		produce: func(_ context.Context, pool *pgxpool.Pool) (producer, error) {
			c := config                              // FetchCooldown also limits how often an inserting client notifies
			c.Logger = slog.New(slog.DiscardHandler) // errors are returned, too
			client, err := river.NewClient(riverpgxv5.New(pool), &c)
			if err != nil {
				return producer{}, err
			}
			return producer{
				put: func(ctx context.Context, j job, due time.Time) error {
					_, err := client.Insert(ctx, j, &river.InsertOpts{ScheduledAt: due})
					return err
				},
				fill: func(ctx context.Context, tx pgx.Tx, first int64, n int) error {
					params := make([]river.InsertManyParams, 0, n)
					for j := range jobsFrom(first, n) {
						params = append(params, river.InsertManyParams{Args: j})
					}
					for chunk := range slices.Chunk(params, riverFill) {
						if _, err := client.InsertManyFastTx(ctx, tx, chunk); err != nil {
							return err
						}
					}
					return nil
				},
			}, nil
		},
		work: func(ctx context.Context, w *worker) error {
			// Not that of the process: it would end before the client has stopped.
			pool, err := pgxpool.New(context.WithoutCancel(ctx), w.DatabaseURL)
			if err != nil {
				return err
			}
			defer pool.Close()
			c := config
			c.Workers = river.NewWorkers()
			river.AddWorker(c.Workers, &riverWorker{w: w})
			if w.Concurrency > 0 {
				maxWorkers = w.Concurrency
			}
			c.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}}
			client, err := river.NewClient(riverpgxv5.New(pool), &c)
			if err != nil {
				return err
			}
			if err := client.Start(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			w.Works()
			<-ctx.Done()
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
			defer cancel()
			return client.Stop(stop)
		},
		table:      "river_job",
		unfinished: "from river_job where state not in ('completed', 'cancelled', 'discarded')",
	}
}
