// The role of a dispatcher: the library with handlers that write down what they do.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// hands is how many handlers run at once in a dispatcher.
const hands = 30

// A dispatcher that is told one of these kills itself the next time that it comes there.
const (
	dieClaimed = "claimed" // it has been given jobs, and started none of them
	dieHandler = "handler" // in the middle of a handler
	dieEffect  = "effect"  // a handler's effect is committed, and the job not yet completed
	dieSettle  = "settle"  // outcomes are about to be sent
	dieSettled = "settled" // outcomes are committed, and the locks not yet given up
)

// death is told to a dispatcher.
type death struct{ Die string }

type worker struct {
	settings
	journal *journal.Writer
	pool    *pgxpool.Pool
	die     atomic.Pointer[string]
	done    atomic.Int64

	mu      sync.Mutex
	snoozed map[int64]bool // under mu: jobs that this process has put off
}

func dispatch(ctx context.Context, s settings, j *journal.Writer, heard <-chan json.RawMessage, out io.Writer) error {
	goroutines := runtime.NumGoroutine()
	w := &worker{settings: s, journal: j, snoozed: map[int64]bool{}}
	err := w.run(ctx, heard, out)
	// What is ending needs a moment for it.
	left := runtime.NumGoroutine() - goroutines
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for tries := 0; left > 0 && tries < 200; tries++ {
		<-tick.C
		left = runtime.NumGoroutine() - goroutines
	}
	if left > 0 {
		stacks := make([]byte, 1<<16)
		fmt.Fprintf(os.Stderr, "%d goroutines left:\n%s\n", left, stacks[:runtime.Stack(stacks, true)])
	}
	e := journal.Event{Kind: journal.Exit, Attempt: max(0, left)}
	if err != nil {
		e.Text = err.Error()
	}
	j.Write(e)
	return err
}

func (w *worker) run(ctx context.Context, heard <-chan json.RawMessage, out io.Writer) (err error) {
	if w.pool, err = connect(ctx, w.settings, w.trace); err != nil {
		return err
	}
	defer w.pool.Close()
	d := dispatcher.New(store.New(w.pool, store.Options{}), dispatcher.Options{
		Concurrency: hands,
		Grace:       5 * time.Second,
		Queue:       dispatcher.QueueOptions{MaxAttempts: 1000},
		Logger:      slog.New(&listener{Handler: slog.NewTextHandler(os.Stderr, nil), w: w}),
	})
	for _, queue := range queues {
		w.journal.Write(journal.Event{Kind: journal.Serves, Text: queue})
		d.Handle(queue, dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
			var l load
			if err := job.Decode(&l); err != nil {
				return err
			}
			return w.handle(ctx, job, l)
		}))
	}
	w.journal.Write(journal.Event{Kind: journal.Serves, Text: chores.Queue})
	dispatcher.HandleTask(d, chores, w.handle)
	return attend(ctx, d, out, w.done.Load, func(ctx context.Context) { w.obey(ctx, heard) })
}

// attend runs a dispatcher, tells how it goes, and does what is to be done beside it until it has ended.
func attend(ctx context.Context, d *dispatcher.Dispatcher, out io.Writer, done func() int64, beside ...func(context.Context)) error {
	reporting, end := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	for _, do := range beside {
		background.Go(func() { do(reporting) })
	}
	background.Go(func() {
		report(reporting, out, func() message {
			asked, cancel := context.WithTimeout(reporting, time.Second)
			defer cancel()
			state, err := d.State(asked)
			return message{Ready: err == nil && state.Holding && state.Listening, Done: done()}
		})
	})
	err := d.Run(ctx)
	end()
	background.Wait()
	return err
}

func (w *worker) obey(ctx context.Context, heard <-chan json.RawMessage) {
	for {
		select {
		case text := <-heard:
			var told death
			if json.Unmarshal(text, &told) == nil && told.Die != "" {
				w.die.Store(&told.Die)
			}
		case <-ctx.Done():
			return
		}
	}
}

// at is a place where the process may have been told to die.
func (w *worker) at(place string) {
	if told := w.die.Load(); told != nil && *told == place {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		select {} // until it takes effect
	}
}

// handle handles any job.
func (w *worker) handle(ctx context.Context, job *dispatcher.Job, l load) (err error) {
	event := journal.Event{Token: l.Token, Job: job.ID, Attempt: job.Attempt}
	write := func(kind journal.Kind, text string, delay time.Duration) {
		e := event
		e.Kind, e.Text, e.Due = kind, text, int64(delay)
		w.journal.Write(e)
	}
	write(journal.Start, job.Queue, 0)
	stop := context.AfterFunc(ctx, func() { write(journal.Cancelled, context.Cause(ctx).Error(), 0) })
	defer stop()
	outcome, delay := journal.Broken, time.Duration(0)
	defer func() {
		if outcome == journal.Done || outcome == journal.DoneTx || outcome == journal.Discarded {
			w.done.Add(1)
		}
		write(journal.End, outcome, delay)
	}()
	work := time.Duration(l.Work) * time.Millisecond
	if l.Brief > 0 && time.Since(job.EnqueuedAt) > time.Duration(l.Brief)*time.Millisecond {
		work = 0
	}
	heeded := ctx
	if l.Kind == heedless {
		heeded = context.WithoutCancel(ctx)
	}
	if err := scene.Wait(heeded, work); err != nil {
		return err
	}
	w.at(dieHandler)
	later := func(err error) error {
		delay = time.Duration(l.Delay) * time.Millisecond
		return retry.After(delay, err)
	}
	switch l.Kind {
	case judge.Transactional:
		err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into faults.effects values ($1, $2, $3, $4)`, l.Token, job.ID, job.Attempt, w.Name); err != nil {
				return err
			}
			return job.CompleteTx(ctx, tx)
		})
		outcome = journal.DoneTx
	case effect:
		_, err = w.pool.Exec(ctx, `insert into faults.side_effects values ($1, $2, $3, $4)`, l.Token, job.ID, job.Attempt, w.Name)
		outcome = journal.Done
	case flaky:
		if outcome = journal.Done; job.Attempt <= l.Fails {
			outcome = journal.Failed
			return later(errors.New("fails for a while"))
		}
	case judge.Doomed:
		outcome = journal.Failed
		return later(errors.New("always fails"))
	case judge.Hopeless:
		outcome = journal.Permanent
		return retry.Permanent(errors.New("no retry mends this"))
	case putOff:
		w.mu.Lock()
		before := w.snoozed[l.Token]
		w.snoozed[l.Token] = true
		w.mu.Unlock()
		if outcome = journal.Done; !before {
			outcome, delay = journal.Snoozed, time.Duration(l.Delay)*time.Millisecond
			return dispatcher.Snooze(delay)
		}
	case dropped:
		outcome = journal.Discarded
		return dispatcher.Discard("no longer wanted")
	default:
		outcome = journal.Done
	}
	if err != nil {
		outcome, delay = journal.Broken, min(5*time.Second, 100*time.Millisecond<<min(job.Attempt, 10))
		return retry.After(delay, err)
	}
	if l.Kind == judge.Transactional || l.Kind == effect {
		write(journal.Effect, "", 0)
		w.at(dieEffect)
	}
	return nil
}

// trace watches the statements of a connection: on that of the lock session it tells of the session, and both there and
// on those of the pool it finds the places where to die.
func (w *worker) trace(config *pgx.ConnConfig) { config.Tracer = tracer{w} }

type tracer struct{ w *worker }

type tracedSQL struct{}

func (t tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, tracedSQL{}, data.SQL)
}

func (t tracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if sql, _ := ctx.Value(tracedSQL{}).(string); strings.Contains(sql, lightStatement) && data.Err == nil {
		t.w.journal.Write(journal.Event{Kind: journal.SessionUp, Job: int64(conn.PgConn().PID())})
	}
}

func (t tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	var sql strings.Builder
	if data.Batch != nil {
		for _, q := range data.Batch.QueuedQueries {
			sql.WriteString(q.SQL)
		}
	}
	if strings.Contains(sql.String(), `"complete"`) {
		t.w.at(dieSettle)
	}
	return context.WithValue(ctx, tracedSQL{}, sql.String())
}

func (t tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (t tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	sql, _ := ctx.Value(tracedSQL{}).(string)
	switch {
	case data.Err != nil:
	case strings.Contains(sql, `"complete"`):
		t.w.at(dieSettled)
	case strings.Contains(sql, `"claim"`):
		t.w.at(dieClaimed)
	}
}

// lightStatement is in what the lock session runs as it lights its beacon.
const lightStatement = `"light"`

// listener is a logger that notices that the lock session is lost, of which the library tells nobody else.
type listener struct {
	slog.Handler
	w *worker
}

func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	switch {
	case strings.HasPrefix(r.Message, "the lock session broke"):
		l.w.journal.Write(journal.Event{Kind: journal.SessionLost})
	case r.Message == "job failed", r.Message == "job set aside", r.Message == "job discarded":
		return nil // as they were told to
	}
	return l.Handler.Handle(ctx, r)
}
