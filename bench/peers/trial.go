// One run of one contender: a new database, workers, and what is found.

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// trialBound is for one run with all that belongs to it. None needs it, unless something hangs.
	trialBound = 90 * time.Second
	// pickUp bounds how long the first job of a drain may take to be picked up: pollers poll.
	pickUp = 6 * time.Second
	// glance is how often a table is asked whether all is done, when the handlers of all jobs have returned.
	glance = 2 * time.Millisecond
)

var errBound = errors.New("the bound was reached")

// outcome is what a run found.
type outcome struct {
	figures map[string]float64
	note    string
}

// figure adds a figure, unless there is none.
func (o *outcome) figure(name string, v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		o.figures[name] = v
	}
}

// cost adds what each of n jobs has cost.
func (o *outcome) cost(before, after usage, n int) {
	if n > 0 {
		o.figure("wal_bytes_per_job", (after.wal-before.wal)/float64(n))
		o.figure("server_cpu_us_per_job", (after.cpu-before.cpu)*1e6/float64(n))
		o.figure("queries_per_job", (after.queries-before.queries)/float64(n))
	}
}

// pickups adds the percentiles of delays.
func (o *outcome) pickups(d delays, names ...string) {
	for i, p := range []float64{50, 95, 99, 99.9} {
		if ms, ok := d.percentiles(p); ok && names[i] != "" {
			o.figure(names[i], ms[0])
		}
	}
}

// trial is a run: a new database, a pool for the producer, and workers.
type trial struct {
	c        *contender
	scale    scale
	settings settings // of the workers
	db       *database
	pool     *pgxpool.Pool
	producer
	workers *fleet
}

// try gives do a trial, and removes all that there was of it.
func (r *runner) try(ctx context.Context, c *contender, s settings, do func(ctx context.Context, t *trial) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, trialBound, fmt.Errorf("not over within %v", trialBound))
	defer cancel()
	t := &trial{c: c, scale: r.scale, settings: s}
	if t.db, err = r.server.create(ctx, r.templates[c.ID]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.db.drop()) }()
	if err = t.db.look(ctx); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(t.db.url)
	if err != nil {
		return err
	}
	config.MaxConns = putters
	if t.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	defer t.pool.Close()
	if t.producer, err = c.produce(ctx, t.pool); err != nil {
		return err
	}
	t.settings.DatabaseURL, t.settings.Settings = t.db.url, c.setting
	t.workers = newFleet(c.exec)
	stop := sync.OnceValue(t.workers.Stop)
	defer func() { err = errors.Join(err, stop()) }()
	return do(ctx, t)
}

// warm opens all connections of the pool: what that takes is not to be measured.
func (t *trial) warm(ctx context.Context) error {
	for range putters {
		conn, err := t.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // all of them at the end, else it would be the same one each time
	}
	return nil
}

// unfinished is how many jobs have not been run to their end, as the table says.
func (t *trial) unfinished(ctx context.Context) (n int, err error) {
	err = t.db.conn.QueryRow(ctx, `select count(*) `+t.c.unfinished).Scan(&n)
	return n, err
}

// finished waits until there are none.
func (t *trial) finished(ctx context.Context) error {
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		var some bool
		// Not cancelled: that would cost the connection. It has a statement_timeout.
		err := t.db.conn.QueryRow(context.WithoutCancel(ctx), `select exists (select `+t.c.unfinished+`)`).Scan(&some)
		if err != nil || !some {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// within is do with a bound of its own; to reach it is no error.
func within(ctx context.Context, bound time.Duration, do func(ctx context.Context) error) (reached bool, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, bound, errBound)
	defer cancel()
	err = do(bounded)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(bounded), errBound) {
		return true, nil
	}
	return false, err
}
