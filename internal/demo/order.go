// How an urgent and a delayed job take their places, and how late a job is on an idle queue.

package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	ordinaryJobs = 10
	delay        = 500 * time.Millisecond // of the delayed job; the ordinary ones take twice that
	idleJobs     = 50
	idlePause    = 10 * time.Millisecond // between two jobs on the idle queue
	urgentLabel  = "urgent"
	delayedLabel = "delayed"
)

// Order is how the jobs of a small queue were run, one at a time. They were put in one transaction:
// first a delayed one that is expected before the ordinary ones, then these, and last an urgent one.
type Order struct {
	Jobs        []string `json:"jobs"`          // labels, as they were run
	DelayMS     float64  `json:"delay_ms"`      // of the delayed job
	DelayedByMS float64  `json:"delayed_by_ms"` // from its time until it started; never negative
	OK          bool     `json:"ok"`
}

// step is a run of one of these jobs. All times are the database's.
type step struct {
	ID         int64
	Label      string
	ScheduleAt *time.Time
	StartedAt  time.Time
}

// showOrder has a process of its own handle two small queues.
func (d *demo) showOrder(ctx context.Context, s *Summary) (err error) {
	g := d.newGroup()
	defer func() { err = errors.Join(err, g.Stop(func(event) {})) }()
	if _, err := d.start(g, "worker", "worker 3", orderQueue, idleQueue); err != nil {
		return err
	}
	if err := g.Await(ctx, func(m message) (bool, error) { return m.Ready, nil }); err != nil {
		return err
	}
	if err := d.putInOrder(ctx); err != nil {
		return err
	}
	if err := d.awaitDrained(ctx, g, orderQueue); err != nil {
		return err
	}
	if err := d.putIdly(ctx); err != nil {
		return err
	}
	if err := d.awaitDrained(ctx, g, idleQueue); err != nil {
		return err
	}
	s.IdleLateness, err = d.lateness(ctx, `select lateness_us from `+d.table("steps")+` where queue = $1`, idleQueue)
	if err != nil {
		return err
	}
	rows, err := d.pool.Query(ctx, `
		select job_id, label, schedule_at, started_at
		from `+d.table("steps")+`
		where queue = $1
		order by started_at`, orderQueue)
	var steps []step
	if err == nil {
		steps, err = pgx.CollectRows(rows, pgx.RowToStructByPos[step])
	}
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	order, problems := judge(steps)
	s.Order = order
	s.Problems = append(s.Problems, problems...)
	return nil
}

// putInOrder puts the jobs in one transaction, so that none can be run before all are there. When they are expected is
// counted from its beginning: however long it takes, the urgent one comes before the delayed one, which may be due by its end.
func (d *demo) putInOrder(ctx context.Context) error {
	begin := time.Now()
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		queue := d.jobs.Queue(orderQueue).With(tx)
		if _, err := queue.Put(ctx, delayedLabel, store.ScheduleAt(delay), store.ExpectedAt(begin.Add(delay))); err != nil {
			return err
		}
		for i := range ordinaryJobs {
			if _, err := queue.Put(ctx, fmt.Sprint(i+1)); err != nil {
				return err
			}
		}
		_, err := queue.Put(ctx, urgentLabel, store.ExpectedAt(begin))
		return err
	})
	if err != nil {
		return fmt.Errorf("put jobs in order: %w", err)
	}
	return nil
}

// putIdly puts one job after the other, so slowly that each finds the process asleep.
func (d *demo) putIdly(ctx context.Context) error {
	tick := time.NewTicker(idlePause)
	defer tick.Stop()
	for i := range idleJobs {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := d.jobs.Queue(idleQueue).Put(ctx, fmt.Sprint(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// judge checks the order of the runs, of which steps is the list by start.
func judge(steps []step) (o Order, problems []Problem) {
	o.DelayMS = milliseconds(delay)
	wrong := func(label, format string, args ...any) {
		problems = append(problems, newProblem(misplaced, "job "+label+" of the queue "+orderQueue, format, args...))
	}
	for _, s := range steps {
		o.Jobs = append(o.Jobs, s.Label)
	}
	if missing := ordinaryJobs + 2 - len(steps); missing != 0 {
		wrong("?", "there were %d runs of %d jobs: %s", len(steps), ordinaryJobs+2, strings.Join(o.Jobs, ", "))
	}
	if i := slices.Index(o.Jobs, urgentLabel); i != 0 {
		wrong(urgentLabel, "it was run as number %d, want 1", i+1)
	}
	var ordinary []step
	for _, s := range steps {
		if s.Label != urgentLabel && s.Label != delayedLabel {
			ordinary = append(ordinary, s)
		}
	}
	for i, s := range ordinary {
		if i > 0 && s.ID <= ordinary[i-1].ID {
			wrong(s.Label, "it was run after %s, which was put later", ordinary[i-1].Label)
		}
	}
	if i := slices.Index(o.Jobs, delayedLabel); i < 0 || steps[i].ScheduleAt == nil {
		wrong(delayedLabel, "it was not run, or not delayed")
	} else {
		late := steps[i].StartedAt.Sub(*steps[i].ScheduleAt)
		o.DelayedByMS = milliseconds(late)
		if late < 0 {
			wrong(delayedLabel, "it was started %v early", -late)
		}
		// One that was claimed just before may still start; after that it is the delayed one's turn.
		overtaken := 0
		for _, s := range ordinary {
			if !s.StartedAt.Before(*steps[i].ScheduleAt) && s.StartedAt.Before(steps[i].StartedAt) {
				overtaken++
			}
		}
		if overtaken > 1 {
			wrong(delayedLabel, "%d jobs that are expected later were started between its time and its start, want at most 1", overtaken)
		}
	}
	o.OK = len(problems) == 0
	return o, problems
}

// awaitDrained looks at the queue each time that its process says how it is.
func (d *demo) awaitDrained(ctx context.Context, g *group, queue string) error {
	return g.Await(ctx, func(message) (bool, error) { return d.drained(ctx, queue) })
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
