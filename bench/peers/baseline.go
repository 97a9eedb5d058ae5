// Plain queues of a few lines, as one would write them without a library: what the others have to be better than.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

const (
	// baselineLoops take jobs at once in one process, each on a connection of its own: as many as pgxpool has by default
	// on up to four cores, which is what the Go contenders have.
	baselineLoops = 4

	baselineChannel = "jobs"
)

// baseline is one of them: jobs are taken by DELETE of rows locked by SKIP LOCKED, in a transaction that lasts until
// their handlers have returned. If the process dies, they are there again.
type baseline struct {
	batch  int           // jobs of a transaction
	poll   time.Duration // between two looks at an empty queue
	notify bool          // a trigger notifies of each insert, and a process listens
}

func baselines() []*contender {
	all := []*contender{}
	for _, b := range []struct {
		baseline
		id, name string
	}{
		{baseline{batch: 1, poll: 100 * time.Millisecond}, "skip-locked-1", "SKIP LOCKED, one at a time, polling every 100 ms"},
		{baseline{batch: 100, poll: 100 * time.Millisecond}, "skip-locked-100", "SKIP LOCKED, 100 at a time, polling every 100 ms"},
		{baseline{batch: 100, poll: time.Second, notify: true}, "always-notify", "SKIP LOCKED, 100 at a time, a NOTIFY for each insert"},
	} {
		settings := []string{fmt.Sprintf("%d connections", baselineLoops), fmt.Sprintf("batch %d", b.batch), fmt.Sprintf("poll %v", b.poll)}
		if b.notify {
			settings = append(settings, "trigger for each row that notifies, and a connection that listens")
		}
		all = append(all, &contender{
			Contender: result.Contender{ID: b.id, Name: b.name, Version: "-", Baseline: true, Settings: settings, Source: "written here: bench/peers/baseline.go"},
			setting:   "default",
			prepare:   b.prepare,
			produce:   b.produce,
			work:      b.work,
			table:     "jobs", unfinished: "from jobs",
		})
	}
	return all
}

func (b baseline) prepare(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `
		create table jobs (
		  id bigint generated always as identity primary key,
		  data jsonb not null,
		  due_at timestamptz not null default now()
		);
		create index on jobs (due_at, id)`)
	if err == nil && b.notify {
		_, err = conn.Exec(ctx, `
			create function tell() returns trigger language plpgsql as $$
			begin
			  perform pg_notify('`+baselineChannel+`', '');
			  return null;
			end $$;
			create trigger tell after insert on jobs for each row execute function tell()`)
	}
	return err
}

func (b baseline) produce(_ context.Context, pool *pgxpool.Pool) (producer, error) {
	return producer{
		put: func(ctx context.Context, j job, due time.Time) error {
			data, err := json.Marshal(j)
			if err != nil {
				return err
			}
			if due.IsZero() {
				_, err = pool.Exec(ctx, `insert into jobs (data) values ($1::jsonb)`, data)
			} else {
				_, err = pool.Exec(ctx, `insert into jobs (data, due_at) values ($1::jsonb, $2)`, data, due)
			}
			return err
		},
		fill: func(ctx context.Context, tx pgx.Tx, first int64, n int) error {
			_, err := tx.Exec(ctx, `
				insert into jobs (data)
				select jsonb_build_object('id', i, 'stamp', 0)
				from generate_series($1::bigint, $1::bigint + $2::bigint - 1) i`, first, n)
			return err
		},
	}, nil
}

func (b baseline) work(ctx context.Context, w *worker) error {
	config, err := pgxpool.ParseConfig(w.DatabaseURL)
	if err != nil {
		return err
	}
	loops := baselineLoops
	if w.Concurrency > 0 {
		loops = max(1, w.Concurrency/b.batch)
	}
	config.MaxConns = int32(loops)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	woken := make(chan struct{}, loops) // one for each loop that a notification is to wake
	var all sync.WaitGroup
	if b.notify {
		conn, err := pgx.Connect(ctx, w.DatabaseURL)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `listen `+baselineChannel); err != nil {
			return err
		}
		all.Go(func() {
			defer conn.Close(context.WithoutCancel(ctx))
			for {
				if _, err := conn.WaitForNotification(ctx); err != nil {
					cancel(err)
					return
				}
				select {
				case woken <- struct{}{}:
				default: // all are to wake
				}
			}
		})
	}
	for range loops {
		all.Go(func() {
			if err := b.loop(ctx, w, pool, woken); err != nil {
				cancel(err)
			}
		})
	}
	w.Works()
	all.Wait()
	select {
	case <-w.stopping:
		return nil
	default:
		return context.Cause(ctx)
	}
}

// loop takes jobs until ctx ends.
func (b baseline) loop(ctx context.Context, w *worker, pool *pgxpool.Pool, woken <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		n, err := b.take(ctx, w, pool)
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		timer.Reset(b.poll)
		select {
		case <-timer.C:
		case <-woken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take runs a batch of jobs, all of them at once, and returns how many there were.
func (b baseline) take(ctx context.Context, w *worker, pool *pgxpool.Pool) (n int, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			with next as (
			  select id
			  from jobs
			  where due_at <= now()
			  order by due_at, id
			  limit $1
			  for update skip locked
			)
			delete from jobs
			using next
			where jobs.id = next.id
			returning jobs.data`, b.batch)
		if err != nil {
			return err
		}
		batch, err := pgx.CollectRows(rows, pgx.RowTo[json.RawMessage])
		if err != nil {
			return err
		}
		n = len(batch)
		failed := make([]error, n)
		var all sync.WaitGroup
		for i, data := range batch {
			all.Go(func() { failed[i] = w.handle(ctx, data) })
		}
		all.Wait()
		for _, err := range failed {
			if err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}
