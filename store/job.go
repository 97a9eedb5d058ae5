package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Job is a job as read from the table.
type Job struct {
	ID          int64
	Queue       string          // without the codec's suffix
	Task        string          // empty: not of a task
	Data        json.RawMessage // as stored; Decode reads it
	EnqueuedAt  time.Time
	ScheduleAt  time.Time // zero: none
	ExpectedAt  time.Time // zero: none, or 'infinity'
	Attempt     int       // the number of this run, from 1
	MaxAttempts int       // zero: the handler's default
	Metadata    map[string]string
	Deaths      int // of processes that ran it, one after another

	codec   Codec
	place   pgtype.TID // of its row in the table, when it was claimed
	session *Session   // that has claimed it
}

// Run is the job's present run.
func (j *Job) Run() Run {
	return Run{ID: j.ID, Attempt: j.Attempt, place: j.place, enqueued: j.EnqueuedAt, session: j.session}
}

// Suspect tells whether so many processes have died while they ran the job that it may be the reason.
func (j *Job) Suspect() bool { return j.Deaths > 1 }

// Decode reads the job's data into v, by the codec of the queue it was got from.
func (j *Job) Decode(v any) error {
	if err := decode(j.codec, j.Data, v); err != nil {
		return fmt.Errorf("store: decode job %d of %s: %w", j.ID, j.Queue, err)
	}
	return nil
}

// Size is the size of the job's data in bytes of JSON.
func (j *Job) Size() int { return len(j.Data) }

// String describes the job, without its data.
func (j *Job) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %d queue=%q", j.ID, j.Queue)
	if j.Task != "" {
		fmt.Fprintf(&b, " task=%q", j.Task)
	}
	fmt.Fprintf(&b, " size=%d attempt=%d enqueued_at=%s", j.Size(), j.Attempt, stamp(j.EnqueuedAt))
	if !j.ScheduleAt.IsZero() {
		fmt.Fprintf(&b, " schedule_at=%s", stamp(j.ScheduleAt))
	}
	if !j.ExpectedAt.IsZero() {
		fmt.Fprintf(&b, " expected_at=%s", stamp(j.ExpectedAt))
	}
	return b.String()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// jobColumns is the order in which scanJob takes a job's columns.
const jobColumns = "id, data, enqueued_at, schedule_at, expected_at, task, attempt, max_attempts, metadata"

// row takes the columns of a job, of which nearly all may be null.
type row struct {
	id                   int64
	data                 []byte
	enqueued             pgtype.Timestamptz
	schedule, expected   pgtype.Timestamptz
	task                 pgtype.Text
	attempt, maxAttempts pgtype.Int4
	metadata             []byte
}

func (r *row) targets() []any {
	return []any{&r.id, &r.data, &r.enqueued, &r.schedule, &r.expected, &r.task, &r.attempt, &r.maxAttempts, &r.metadata}
}

func (q *Queue) job(r *row) *Job {
	j := &Job{
		ID:          r.id,
		Queue:       q.name,
		Task:        r.task.String,
		Data:        r.data,
		EnqueuedAt:  instant(r.enqueued),
		ScheduleAt:  instant(r.schedule),
		ExpectedAt:  instant(r.expected),
		Attempt:     int(r.attempt.Int32),
		MaxAttempts: int(r.maxAttempts.Int32),
		codec:       q.codec,
	}
	if r.metadata != nil {
		// Anyone may write this column. What is not an object of strings is not ours to read.
		_ = json.Unmarshal(r.metadata, &j.Metadata)
	}
	return j
}

// distantPast is where timestamptz begins, and stands for '-infinity'.
var distantPast = time.Date(-4713, time.November, 24, 0, 0, 0, 0, time.UTC)

// instant is zero for null and for 'infinity', which mean the same for a priority. Only SQL can
// write the two infinities; a job with one must not fail the batch it is in.
func instant(t pgtype.Timestamptz) time.Time {
	if t.InfinityModifier == pgtype.NegativeInfinity {
		return distantPast
	}
	return t.Time
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// collect reads all jobs of a result with the columns jobColumns.
func (q *Queue) collect(rows pgx.Rows) ([]*Job, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (*Job, error) {
		var line row
		if err := r.Scan(line.targets()...); err != nil {
			return nil, err
		}
		return q.job(&line), nil
	})
}
