package store_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// Apple is what the examples put.
type Apple struct{ Kind string }

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/orchard")
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	jobs := store.New(pool, store.Options{})
	if err := jobs.Migrate(ctx); err != nil {
		panic(err)
	}
	apples := jobs.Queue("apples")
	if _, err := apples.Put(ctx, Apple{"Cox"}); err != nil {
		panic(err)
	}
	job, err := apples.Get(ctx, 10*time.Second)
	if err != nil {
		panic(err)
	}
	var apple Apple
	if err := job.Decode(&apple); err != nil {
		panic(err)
	}
	fmt.Println(job, apple.Kind)
}

func ExampleQueue_Put() {
	var ctx context.Context
	var apples *store.Queue

	apples.Put(ctx, Apple{"Cox"}, store.ScheduleAt(5*time.Minute))                       // in five minutes
	apples.Put(ctx, Apple{"Cox"}, store.ScheduleAt("1d12h"))                             // the same, as text
	apples.Put(ctx, Apple{"Cox"}, store.ExpectedAt(time.Now()))                          // before those expected later
	apples.Put(ctx, Apple{"Cox"}, store.MaxAttempts(1), store.ExpectedAt(0*time.Second)) // no retry
}

// What is put and got in a transaction is put and got if and only if it commits.
func ExampleQueue_With() {
	var ctx context.Context
	var pool *pgxpool.Pool
	var jobs *store.Store

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		job, err := jobs.Queue("apples").With(tx).Get(ctx, time.Second)
		if err != nil || job == nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into eaten (apple) values ($1)`, job.Data); err != nil {
			return err
		}
		_, err = jobs.Queue("cores").With(tx).Put(ctx, job.Data)
		return err
	})
	if err != nil {
		panic(err)
	}
}

func ExampleQueue_Jobs() {
	var ctx context.Context
	var apples *store.Queue

	for job, err := range apples.Jobs(ctx, store.Forever) {
		if err != nil {
			panic(err)
		}
		fmt.Println(job)
	}
}

func ExamplePutMany() {
	var ctx context.Context
	var apples *store.Queue

	kinds := []Apple{{"Cox"}, {"Elstar"}}
	ids, err := store.PutMany(ctx, apples, slices.Values(kinds), store.ScheduleAt("1h"))
	fmt.Println(ids, err)
}

func ExampleTask() {
	var ctx context.Context
	var jobs *store.Store

	eat := store.Task[Apple]{Queue: "apples", Name: "eat", MaxRetries: 3, RetryIn: time.Minute}
	id, err := eat.Put(ctx, jobs, Apple{"Cox"}, store.ScheduleAt("5m"))
	fmt.Println(id, err)
}

func ExampleParseDelay() {
	delay, err := store.ParseDelay("1d12h")
	fmt.Println(delay, err)
	_, err = store.ParseDelay("90")
	fmt.Println(err)
	// Output:
	// 36h0m0s <nil>
	// store: delay "90": the number "90" has no unit; write whole numbers with the units d, h, m, s, ms, largest first, as in "30s", "1h30m" or "1d12h"
}
