// One look at the database, bounded in what it reads and in how long it may take; and the rates, which are
// the difference of two.

package top

import (
	"context"
	"fmt"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	// countTo is how far the jobs of each queue and state are counted.
	countTo = 10_000
	// lookTime bounds a look. One that takes longer counts as a lost database.
	lookTime = 10 * time.Second
	// rateWindow is what the rates are the mean of. The server's processes report what they have done about
	// once a second, so that a shorter one would jump.
	rateWindow = 10 * time.Second
)

// querier runs one statement: a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Glance is what one look has seen.
type Glance struct {
	At          time.Time     // when it began, by this machine
	Took        time.Duration // how long it took
	Database    string
	Table       string // qualified and quoted
	Queues      []store.Overview
	Dispatchers []store.Dispatcher
	Counters    Counters
}

// Counters are those that the server keeps of the queue table's rows.
type Counters struct {
	Put     int64 `json:"put"`
	Ended   int64 `json:"ended"`    // deleted: done, or discarded
	PutBack int64 `json:"put_back"` // updated: to be tried again, set aside, or changed by an operator
}

// Look looks once. It counts up to 10000 jobs of each queue and state, and takes 10 s at most.
func Look(ctx context.Context, db querier, jobs *store.Store) (*Glance, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	g := &Glance{At: time.Now(), Table: jobs.Table()}
	var err error
	if g.Queues, err = jobs.Overviews(ctx, countTo); err != nil {
		return nil, fmt.Errorf("top: %w", err)
	}
	if g.Dispatchers, err = jobs.Dispatchers(ctx); err != nil {
		return nil, fmt.Errorf("top: %w", err)
	}
	// By the functions below pg_stat_user_tables, which would first list all tables.
	err = db.QueryRow(ctx, `
		select current_database(), pg_stat_get_tuples_inserted(t.oid), pg_stat_get_tuples_deleted(t.oid), pg_stat_get_tuples_updated(t.oid)
		from (select to_regclass($1)::oid) t(oid)`, jobs.Table()).Scan(&g.Database, &g.Counters.Put, &g.Counters.Ended, &g.Counters.PutBack)
	if err != nil {
		return nil, fmt.Errorf("top: read the table's statistics: %w", err)
	}
	g.Took = time.Since(g.At)
	return g, nil
}

// rates are how fast the counters go.
type rates struct {
	samples []sample // of the window, oldest first
}

type sample struct {
	at time.Time
	Counters
}

func (r *rates) add(at time.Time, c Counters) {
	if n := len(r.samples); n > 0 {
		if last := r.samples[n-1]; c.Put < last.Put || c.Ended < last.Ended || c.PutBack < last.PutBack {
			r.samples = nil // someone has reset them, or the server has crashed
		}
	}
	r.samples = append(r.samples, sample{at, c})
	old := func(s sample) bool { return at.Sub(s.at) <= rateWindow }
	if first := slices.IndexFunc(r.samples, old); first > 0 {
		// The one before the window stays if else there would be none to compare with.
		r.samples = slices.Delete(r.samples, 0, min(first, len(r.samples)-2))
	}
}

// perSecond returns false until there are two looks to compare.
func (r *rates) perSecond() (put, ended, putBack float64, ok bool) {
	if len(r.samples) < 2 {
		return 0, 0, 0, false
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0, 0, 0, false
	}
	rate := func(from, to int64) float64 { return float64(to-from) / seconds }
	return rate(first.Put, last.Put), rate(first.Ended, last.Ended), rate(first.PutBack, last.PutBack), true
}

// listing is which jobs of a queue are to be listed.
type listing struct {
	queue string
	state store.State
	after string // the cursor of the page; empty: the first
	limit int
}

// The messages that the database's answers are.
type (
	looked struct {
		seen *Glance
		of   *listing // which jobs page has; nil: none were asked for
		page store.Page
		err  error
	}
	acted struct {
		note string
		err  error
	}
)

// database does what the model asks for.
type database struct {
	ctx  context.Context // ends with the view: a tea.Cmd is given none
	db   querier
	jobs *store.Store
}

func (d *database) look(list *listing) tea.Cmd {
	return func() tea.Msg {
		seen, err := Look(d.ctx, d.db, d.jobs)
		if err != nil || list == nil {
			return looked{seen: seen, of: list, err: err}
		}
		ctx, cancel := context.WithTimeout(d.ctx, lookTime)
		defer cancel()
		page, err := d.jobs.List(ctx, store.Filter{Queue: d.jobs.Plain(list.queue), State: list.state}, list.limit, list.after)
		seen.Took = time.Since(seen.At)
		return looked{seen, list, page, err}
	}
}

func (d *database) setPaused(queue string, paused bool) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(d.ctx, lookTime)
		defer cancel()
		q := d.jobs.Plain(queue)
		if paused {
			_, err := q.Pause(ctx, store.PauseOptions{Reason: "by pq-dispatch top"})
			return acted{printable(queue) + " is paused", err}
		}
		_, err := q.Resume(ctx)
		return acted{printable(queue) + " is resumed", err}
	}
}
