// The role of a producer: it puts jobs at a pace, in every way that there is, and writes down what came of each.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	putters    = 4               // at once in a producer
	putTimeout = 5 * time.Second // after which a put is given up, and nobody knows what became of it
	mostBehind = 50              // jobs that a putter makes up for after a time in which it could not put
)

// order is what a producer is told while it runs.
type order struct {
	Pace float64 // jobs a second from now on; 0: as before
	Stop bool    // put no more
}

type producer struct {
	settings
	journal *journal.Writer
	pool    *pgxpool.Pool
	jobs    *store.Store
	token   atomic.Int64 // the last one given
	put     atomic.Int64 // jobs about which all is told
	stop    context.CancelFunc

	mu     sync.Mutex
	pacing float64
}

func produce(ctx context.Context, s settings, j *journal.Writer, heard <-chan json.RawMessage, out io.Writer) error {
	pool, err := connect(ctx, s)
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p := &producer{settings: s, journal: j, pool: pool, jobs: store.New(pool, store.Options{}), stop: stop, pacing: s.Pace}
	p.token.Store(s.Token)
	var all sync.WaitGroup
	for i := range putters {
		random := rand.New(rand.NewPCG(s.Seed, uint64(s.Token)+uint64(i)))
		all.Go(func() { p.work(ctx, random) })
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		p.obey(ctx, heard)
	}()
	report(ctx, out, func() message { return message{Ready: true, Put: p.put.Load()} })
	all.Wait()
	<-told
	_ = json.NewEncoder(out).Encode(message{Ready: true, Put: p.put.Load(), Final: true})
	return nil
}

// obey carries out what the run tells until ctx ends.
func (p *producer) obey(ctx context.Context, heard <-chan json.RawMessage) {
	for {
		select {
		case text := <-heard:
			var o order
			if json.Unmarshal(text, &o) != nil {
				continue
			}
			if o.Pace > 0 {
				p.mu.Lock()
				p.pacing = o.Pace
				p.mu.Unlock()
			}
			if o.Stop {
				p.stop()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (p *producer) pace() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pacing / putters
}

// work puts at its share of the pace until ctx ends. What it could not put in time is made up for in part, as users do
// who try again.
func (p *producer) work(ctx context.Context, r *rand.Rand) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	owed, last := r.Float64(), time.Now()
	next := 1 // how many are put together
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		owed = min(owed+p.pace()*now.Sub(last).Seconds(), mostBehind)
		last = now
		for owed >= float64(next) && ctx.Err() == nil {
			// It is not cut off when the run is over: how it ends is to be known.
			p.putSome(context.WithoutCancel(ctx), r, next)
			owed -= float64(next)
			if next = 1; r.IntN(3) == 0 {
				next = 2 + r.IntN(8)
			}
		}
	}
}

// putSome puts n jobs in one of the ways.
func (p *producer) putSome(ctx context.Context, r *rand.Rand, n int) {
	first := p.token.Add(int64(n)) - int64(n) + 1
	jobs := make([]job, n)
	for i := range jobs {
		jobs[i] = invent(r, first+int64(i))
	}
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	switch way := r.IntN(10); {
	case n == 1 && way < 6:
		p.tell(jobs, func() error { return p.putOne(ctx, p.pool, jobs[0]) })
	case n == 1:
		p.tell(jobs, func() error { return p.putSQL(ctx, jobs[0]) })
	case way < 3: // in one statement, by COPY: all for one queue, in one kind, due at one time
		for i := range jobs[1:] {
			jobs[i+1].queue, jobs[i+1].after, jobs[i+1].Kind = jobs[0].queue, jobs[0].after, jobs[0].Kind
			jobs[i+1].Fails, jobs[i+1].Delay, jobs[i+1].Work = jobs[0].Fails, jobs[0].Delay, jobs[0].Work
		}
		p.tell(jobs, func() error { return p.putMany(ctx, jobs) })
	case way < 4:
		p.tell(jobs, func() error { return p.putTx(ctx, jobs, true) })
	default:
		p.tell(jobs, func() error { return p.putTx(ctx, jobs, false) })
	}
	p.put.Add(int64(n))
}

var errChangedMind = errors.New("rolled back by its own wish")

// tell writes down what came of a put.
func (p *producer) tell(jobs []job, put func() error) {
	for _, j := range jobs {
		p.journal.Write(journal.Event{Kind: journal.PutBegin, Token: j.Token, Attempt: 1, Due: int64(j.after), Text: j.Kind})
	}
	kind, text := journal.PutOK, ""
	if err := put(); err != nil {
		kind, text = certainty(err), err.Error()
	}
	p.journal.Write(journal.Event{Kind: kind, Token: jobs[0].Token, Attempt: len(jobs), Text: text})
}

// certainty is what is known of a put that returned an error.
func certainty(err error) journal.Kind {
	if errors.Is(err, errChangedMind) {
		return journal.PutRolledBack
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return journal.PutFailed
	}
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, errNotCommitted) {
		return journal.PutFailed
	}
	// The server refused the statement. Class 57 is of a server that ends, which it may do between the commit and
	// the reply; class 08 is of connections.
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && !strings.HasPrefix(refused.Code, "57") && !strings.HasPrefix(refused.Code, "08") {
		return journal.PutFailed
	}
	return journal.PutIndeterminate
}

func options(j job) (o []store.PutOption) {
	if j.after > 0 {
		o = append(o, store.ScheduleAt(j.after))
	}
	if j.Kind == judge.Doomed {
		o = append(o, store.MaxAttempts(judge.DoomedAttempts))
	}
	return o
}

// putOne puts a job through a pool or a transaction, some of them as a task.
func (p *producer) putOne(ctx context.Context, db store.DB, j job) error {
	if j.Token%4 == 0 && j.Kind != judge.Doomed {
		_, err := chores.Put(ctx, store.New(db, store.Options{}), j.load, options(j)...)
		return err
	}
	_, err := p.jobs.Queue(j.queue).With(db).Put(ctx, j.load, options(j)...)
	return err
}

// putSQL puts a job as a program would that does not have this library.
func (p *producer) putSQL(ctx context.Context, j job) error {
	var attempts *int
	if j.Kind == judge.Doomed {
		attempts = new(judge.DoomedAttempts)
	}
	_, err := p.pool.Exec(ctx, `
		select pq_dispatch.put($1, $2, schedule_at => case when $3::float8 > 0 then clock_timestamp() + make_interval(secs => $3) end,
		                       max_attempts => $4)`,
		j.queue, j.load, j.after.Seconds(), attempts)
	return err
}

func (p *producer) putMany(ctx context.Context, jobs []job) error {
	_, err := store.PutMany(ctx, p.jobs.Queue(jobs[0].queue), func(yield func(load) bool) {
		for _, j := range jobs {
			if !yield(j.load) {
				return
			}
		}
	}, options(jobs[0])...)
	return err
}

// errNotCommitted is of a transaction that failed before it was asked to commit.
var errNotCommitted = errors.New("not committed")

// putTx puts jobs in a transaction, and may change its mind.
func (p *producer) putTx(ctx context.Context, jobs []job, back bool) error {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return errors.Join(errNotCommitted, err)
	}
	defer func() {
		// Past the deadline, the connection is closed, which rolls back as well.
		_ = tx.Rollback(ctx)
	}()
	for _, j := range jobs {
		if err := p.putOne(ctx, tx, j); err != nil {
			return errors.Join(errNotCommitted, err)
		}
	}
	if back {
		return errChangedMind
	}
	return tx.Commit(ctx)
}
