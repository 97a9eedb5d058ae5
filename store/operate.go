package store

// What an operator does to jobs: retry, cancel, discard, move; by id, or all that a filter selects.
// sql/operations.sql says what each does to a job, and why nothing is done to one that runs.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Errors of the calls of operators.
var (
	ErrState  = errors.New("unknown state of a job")
	ErrCursor = errors.New("invalid cursor") // not the Next of a page, or of a list by another filter
)

// State is where a job stands. Each job is in one.
type State string

// The states.
const (
	Waiting   State = "waiting"   // due, and not running
	Running   State = "running"   // in the hands of a dispatcher, or of a Get whose transaction is open
	Scheduled State = "scheduled" // due later
	Retrying  State = "retrying"  // due later, after a run that failed
	SetAside  State = "set_aside" // out of attempts, refused or cancelled: it stays, and is not run
	Taken     State = "taken"     // dequeued by a consumer of Python's pq
)

// States are all of them.
var States = []State{Waiting, Running, Scheduled, Retrying, SetAside, Taken}

// Filter selects jobs. The zero value selects all.
type Filter struct {
	Queue     *Queue        // nil: of any queue
	State     State         // empty: in any state
	Task      string        // empty: of any task, or of none
	OlderThan time.Duration // since they were put, or if they are out of their queue, taken out; 0: of any age
}

// arguments are the filter's, in the order of list(): the queue's name, the state, the task.
func (f Filter) arguments() (queue, state, task *string, err error) {
	if f.Queue != nil {
		queue, err = &f.Queue.name, f.Queue.err
	}
	if f.State != "" {
		state = new(string(f.State))
		if err == nil && !slices.Contains(States, f.State) {
			err = fmt.Errorf("store: %w %.40q: known are %v", ErrState, f.State, States)
		}
	}
	if f.Task != "" {
		task = &f.Task
	}
	return queue, state, task, err
}

// Outcome is what an [Operation] has come to for one job.
type Outcome string

// The outcomes. After the first five, the operation has done what it could.
const (
	Cancelled  Outcome = "cancelled"   // set aside
	Asked      Outcome = "asked"       // it runs: the dispatcher that runs it was told to end its handler's context
	Discarded  Outcome = "discarded"   // deleted
	Retried    Outcome = "retried"     // due now
	Moved      Outcome = "moved"       // in the other queue
	Gone       Outcome = "gone"        // there is no such job
	IsRunning  Outcome = "running"     // it runs, so nothing was done
	IsWaiting  Outcome = "waiting"     // nothing to retry: it is due already
	IsTaken    Outcome = "taken"       // nothing to retry: it was dequeued by a consumer of Python's pq
	NotWaiting Outcome = "not_waiting" // nothing to cancel: it is out of its queue
	Changed    Outcome = "changed"     // it is no longer what the filter selects
	RowLocked  Outcome = "busy"        // someone else has locked its row
)

// Done tells whether the operation was carried out.
func (o Outcome) Done() bool {
	switch o {
	case Cancelled, Asked, Discarded, Retried, Moved:
		return true
	}
	return false
}

// Result is the outcome for a job.
type Result struct {
	ID      int64
	Outcome Outcome
}

// Operation is something to be done to jobs: [Cancel], [Discard], [Retry] or [Move].
type Operation struct {
	name     string // of the function in sql/operations.sql
	argument string // its further one, by name
	value    any
	err      error
}

// Cancel sets jobs aside, with the reason "cancelled". Of one that runs, the dispatcher is asked to end its
// handler's context; what then becomes of the job is the handler's outcome, but that it is set aside if it would run again.
func Cancel() Operation { return Operation{name: "cancel"} }

// Discard deletes jobs. One that runs has to be cancelled first.
func Discard() Operation { return Operation{name: "discard"} }

// Retry brings jobs that were set aside back into their queue, and makes scheduled ones due now. The attempts of
// those set aside are counted from 1 again, unless they are kept: then they run once more.
func Retry(keepAttempts bool) Operation {
	return Operation{name: "retry", argument: "keep_attempts", value: keepAttempts}
}

// Move puts jobs into another queue, in the state in which they are. Their data stays as it is, so
// both queues should have the same codec.
func Move(to *Queue) Operation {
	return Operation{name: "move", argument: "target", value: to.name, err: to.err}
}

// Operate carries out an operation on each of these jobs, in bounded transactions, and returns their
// results by id. An error means that those that it returns no result for were left as they are.
func (s *Store) Operate(ctx context.Context, op Operation, ids ...int64) ([]Result, error) {
	results, err := s.operate(ctx, op, nil, nil, ids)
	if err != nil {
		err = fmt.Errorf("store: %s: %w", op.name, err)
	}
	return results, err
}

func (s *Store) operate(ctx context.Context, op Operation, queue, state *string, ids []int64) (results []Result, err error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case op.err != nil:
		return nil, op.err
	}
	var size int
	if err := s.db.QueryRow(ctx, `select `+s.function("batch_size")+`()`).Scan(&size); err != nil {
		return nil, explain(err)
	}
	statement := `select id, outcome from ` + s.function(op.name) + `($1, queue => $2, state => $3`
	if op.argument != "" {
		statement += `, ` + op.argument + ` => $4`
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	for batch := range slices.Chunk(ids, size) {
		arguments := []any{batch, queue, state}
		if op.argument != "" {
			arguments = append(arguments, op.value)
		}
		rows, err := s.db.Query(ctx, statement+`) order by id`, arguments...)
		if err != nil {
			return results, explain(err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Result])
		if err != nil {
			return results, explain(err)
		}
		results = append(results, some...)
	}
	return results, nil
}

// selectionPage is how many ids are selected at once. To select reads the server's table of locks.
const selectionPage = 10_000

// OperateAll carries out an operation on all the jobs that were there when it began, and that the filter
// selects, in bounded transactions. It yields the results as they come about, of each transaction or
// so; one whose job has changed between its selection and its turn is [Changed] or [Gone]. It ends at
// the first error, which is the last that it yields.
//
// A filter without a state selects running jobs too, about which only [Cancel] can do something.
func (s *Store) OperateAll(ctx context.Context, op Operation, f Filter) iter.Seq2[[]Result, error] {
	return func(yield func([]Result, error) bool) {
		var queue, state *string
		for ids, err := range s.selected(ctx, f) {
			if err == nil {
				queue, state, _, err = f.arguments()
			}
			for batch := range slices.Chunk(ids, 1000) {
				if err != nil {
					break
				}
				var results []Result
				if results, err = s.operate(ctx, op, queue, state, batch); !yield(results, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, fmt.Errorf("store: %s: %w", op.name, err))
				return
			}
		}
	}
}

// Count counts the jobs that the filter selects, and yields how many it has found so far: the last is all.
func (s *Store) Count(ctx context.Context, f Filter) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		n := 0
		for ids, err := range s.selected(ctx, f) {
			n += len(ids)
			if err != nil {
				err = fmt.Errorf("store: count jobs: %w", err)
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

// selected yields the ids of all jobs that the filter selects and that were there when it began: those put
// meanwhile would make it endless. Its errors are not wrapped.
func (s *Store) selected(ctx context.Context, f Filter) iter.Seq2[[]int64, error] {
	return func(yield func([]int64, error) bool) {
		if s.err != nil {
			yield(nil, s.err)
			return
		}
		var before time.Time
		if err := s.db.QueryRow(ctx, `select clock_timestamp() - $1::interval`, f.OlderThan).Scan(&before); err != nil {
			yield(nil, explain(err))
			return
		}
		for at := (position{}); ; {
			jobs, next, err := s.list(ctx, f, &before, selectionPage, at)
			if err != nil {
				yield(nil, err)
				return
			}
			ids := make([]int64, len(jobs))
			for i, job := range jobs {
				ids[i] = job.ID
			}
			if !yield(ids, nil) || next == nil {
				return
			}
			at = *next
		}
	}
}
