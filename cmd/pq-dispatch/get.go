// get: takes jobs out of a queue and prints them.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

var errNoJob = errors.New("no job")

func (a *app) getCommand() *cobra.Command {
	timeout := delay{text: "0", mayBeForever: true}
	count := positive(1)
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get QUEUE",
		Short: "Take jobs out of a queue and print them",
		Long: `Takes the next due job out of the queue and prints its data as one line of JSON. While it waits for one
it sleeps: the database wakes it. When none came in time it says "no job" and exits with 4.

A job is gone when its line has been written; if that fails, it stays in the queue.`,
		Example: `  pq-dispatch get apples
  pq-dispatch get apples --timeout 5s
  pq-dispatch get apples --timeout forever --count 10 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirstQueue,
	}
	cmd.Flags().Var(&timeout, "timeout", "how long to wait for each job, such as 5s, or forever")
	cmd.Flags().Var(&count, "count", "how many jobs to get")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a job, with its id, times and so on")
	cmd.RunE = a.withPool(func(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, args []string) error {
		queue := jobs.Queue(args[0])
		if err := plainName(queue, args[0]); err != nil {
			return err
		}
		for n := range int(count) {
			got, err := a.getOne(ctx, pool, queue, timeout.Duration, asJSON)
			switch {
			case err != nil:
				return err
			case !got && n == 0:
				return errNoJob
			case !got:
				return nil
			}
		}
		return nil
	})
	return cmd
}

// patience is how long one transaction waits for a job. A longer wait is made of several: a transaction
// that stays open keeps its locks, and may meet idle_in_transaction_session_timeout.
const patience = 10 * time.Second

// getOne takes a job and prints it in one transaction, so that a job that could not be printed is not lost.
func (a *app) getOne(ctx context.Context, pool *pgxpool.Pool, queue *store.Queue, timeout time.Duration, asJSON bool) (got bool, err error) {
	deadline := time.Now().Add(timeout)
	for {
		wait := patience
		if timeout >= 0 {
			wait = min(wait, max(0, time.Until(deadline)))
		}
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			job, err := queue.With(tx).Get(ctx, wait)
			if job == nil || err != nil {
				return err
			}
			got = true
			return a.printJob(job, asJSON)
		})
		if err != nil || got || wait < patience {
			return got, err
		}
	}
}

type jobJSON struct {
	ID          int64           `json:"id"`
	Queue       string          `json:"queue"`
	Task        *string         `json:"task"`
	Data        json.RawMessage `json:"data"`
	Attempt     int             `json:"attempt"`
	MaxAttempts *int            `json:"max_attempts"` // null: the worker's
	EnqueuedAt  *time.Time      `json:"enqueued_at"`
	ScheduleAt  *time.Time      `json:"schedule_at"`
	ExpectedAt  *time.Time      `json:"expected_at"`
}

func (a *app) printJob(job *store.Job, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, jobJSON{
			ID: job.ID, Queue: job.Queue, Task: view.OrNull(job.Task), Data: job.Data,
			Attempt: job.Attempt, MaxAttempts: view.OrNull(job.MaxAttempts),
			EnqueuedAt: view.Instant(job.EnqueuedAt), ScheduleAt: view.Instant(job.ScheduleAt), ExpectedAt: view.Instant(job.ExpectedAt),
		})
	}
	var line bytes.Buffer
	if err := json.Compact(&line, job.Data); err != nil {
		return err // the server's jsonb is always JSON
	}
	line.WriteByte('\n')
	_, err := a.stdout.Write(line.Bytes())
	return err
}
