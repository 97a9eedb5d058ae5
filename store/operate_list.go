package store

// Lists of jobs, a page at a time, and one job with all that is known of it.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Entry is a job in a list: all but its data and metadata.
type Entry struct {
	ID          int64
	Queue       string
	State       State
	Task        string    // empty: of none
	Attempt     int       // the number of the next run, or of the present or last one
	MaxAttempts int       // zero: the handler's default
	EnqueuedAt  time.Time // when it was put
	ScheduleAt  time.Time // zero: none
	ExpectedAt  time.Time // zero: none, or 'infinity'
	DequeuedAt  time.Time // when it was set aside or taken; zero: it was not
	LastError   string    // in a list its first 1000 characters

	position position
}

// Page is a part of a list.
type Page struct {
	Jobs []Entry
	Next string // for the page after this one; empty: there is none
	Cut  bool   // it ends here because it has looked at as many jobs as a page may, and not for lack of room
}

// maxLook is how many jobs are looked at for one page, where the filter has more to ask than the indexes know.
const maxLook = 100_000

// List returns up to limit jobs: by queue, and in each first those that are ready as they will be claimed, then
// those scheduled as they become due, then those out of the queue by id. Of running jobs, by id.
//
// after is the Next of an earlier page of the same filter; empty begins at the first. What changes between the
// calls may be seen twice, or not at all.
func (s *Store) List(ctx context.Context, f Filter, limit int, after string) (Page, error) {
	if s.err != nil {
		return Page{}, s.err
	}
	at, err := parsePosition(after)
	if err != nil {
		return Page{}, err
	}
	if at.set() && ((at.Part == partRunning) != (f.State == Running) || f.Queue != nil && f.Queue.name != at.Queue) {
		return Page{}, fmt.Errorf("store: %w: it is of a list by another filter", ErrCursor)
	}
	// One more than wanted tells whether there is a next page.
	jobs, next, err := s.list(ctx, f, nil, limit+1, at)
	if err != nil {
		return Page{}, fmt.Errorf("store: list jobs: %w", err)
	}
	switch {
	case len(jobs) > limit:
		jobs = jobs[:limit]
		return Page{Jobs: jobs, Next: jobs[limit-1].position.String()}, nil
	case next != nil:
		return Page{Jobs: jobs, Next: next.String(), Cut: true}, nil
	}
	return Page{Jobs: jobs}, nil
}

// list returns a page, and where to go on if that was not all. Its errors are not wrapped.
func (s *Store) list(ctx context.Context, f Filter, before *time.Time, want int, at position) (jobs []Entry, next *position, err error) {
	queue, state, task, err := f.arguments()
	if err != nil {
		return nil, nil, err
	}
	var age *time.Duration
	if f.OlderThan > 0 {
		age = &f.OlderThan
	}
	var afterQueue *string
	var afterPart *int
	var afterID *int64
	if at.set() {
		afterQueue, afterPart, afterID = &at.Queue, &at.Part, &at.ID
	}
	rows, err := s.db.Query(ctx, `
		select `+entryColumns+`
		from `+s.function("list")+`($1, $2, $3, $4, $5, coalesce($6::timestamptz, clock_timestamp() - $7::interval),
		  $8::text, $9::integer, $10::timestamptz, $11::timestamptz, $12::bigint)`,
		want, maxLook, queue, state, task, before, age, afterQueue, afterPart, at.Schedule, at.Expected, afterID)
	if err == nil {
		jobs, err = pgx.CollectRows(rows, scanEntry)
	}
	if err != nil {
		return nil, nil, explain(err)
	}
	if f.State == Running {
		for i := range jobs {
			jobs[i].position.Part = partRunning
		}
	}
	if n := len(jobs) - 1; n >= 0 && (jobs[n].State == "" || len(jobs) == want) {
		next = &jobs[n].position
		if jobs[n].State == "" { // it is not of the list, only where that stopped
			jobs = jobs[:n]
		}
	}
	return jobs, next, nil
}

const entryColumns = `id, q_name, state, task, attempt, max_attempts, enqueued_at, schedule_at, expected_at, dequeued_at, last_error`

// entryRow takes the columns of an entry, of which most may be null.
type entryRow struct {
	entry                                  Entry
	state, task, lastError                 *string
	maxAttempts                            *int
	enqueued, schedule, expected, dequeued pgtype.Timestamptz
}

func (r *entryRow) targets() []any {
	return []any{&r.entry.ID, &r.entry.Queue, &r.state, &r.task, &r.entry.Attempt, &r.maxAttempts,
		&r.enqueued, &r.schedule, &r.expected, &r.dequeued, &r.lastError}
}

func (r *entryRow) read() Entry {
	e := r.entry
	e.State, e.Task, e.LastError, e.MaxAttempts = State(deref(r.state)), deref(r.task), deref(r.lastError), deref(r.maxAttempts)
	e.EnqueuedAt, e.ScheduleAt, e.ExpectedAt, e.DequeuedAt = instant(r.enqueued), instant(r.schedule), instant(r.expected), instant(r.dequeued)
	e.position = position{Queue: e.Queue, ID: e.ID}
	switch {
	case r.dequeued.Valid:
		e.position.Part = partOut
	case r.schedule.Valid:
		e.position.Part, e.position.Schedule, e.position.Expected = partScheduled, r.schedule, r.expected
	default:
		e.position.Part, e.position.Expected = partReady, r.expected
	}
	return e
}

func scanEntry(r pgx.CollectableRow) (Entry, error) {
	var line entryRow
	err := r.Scan(line.targets()...)
	return line.read(), err
}

// position is where a list stands: at a row that the function list() has come to. The zero value is before the
// first. Its times are not of the type time.Time, which has no infinity.
type position struct {
	Queue    string             `json:"q"`
	Part     int                `json:"p"`
	Schedule pgtype.Timestamptz `json:"s"`
	Expected pgtype.Timestamptz `json:"e"`
	ID       int64              `json:"i"`
}

// The parts of a queue, in the order in which they are listed.
const (
	partReady = iota + 1
	partScheduled
	partOut
	partRunning // in a list of its own
)

func (p position) set() bool { return p.Part != 0 }

func (p position) String() string {
	text, _ := json.Marshal(p) // it has nothing that could fail
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePosition(s string) (p position, err error) {
	if s == "" {
		return p, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Part < partReady || p.Part > partRunning || p.Queue == "" || (p.Part == partScheduled) != p.Schedule.Valid ||
		!utf8.ValidString(p.Queue) || strings.ContainsRune(p.Queue, 0) || !storableTime(p.Schedule) || !storableTime(p.Expected) {
		return position{}, fmt.Errorf("store: %w %.80q: give the one that an earlier page ended with", ErrCursor, s)
	}
	return p, nil
}

func storableTime(t pgtype.Timestamptz) bool { return checkTime(t.Time) == nil }

// Details is one job with all that is known of it.
type Details struct {
	Entry
	Data     json.RawMessage // as stored
	Metadata json.RawMessage // as stored: mostly an object of strings, but anyone may write there; nil: none
	Holder   *Holder         // who runs it; nil: nobody
}

// Holder is the session that holds a job's lock. What the role may not see of it is empty: its start and address are
// shown to members of pg_read_all_stats.
type Holder struct {
	PID          int       // of its server process; zero: a prepared transaction
	Application  string    // its application_name
	Address      string    // of its client; empty: a local socket
	ConnectedAt  time.Time // when the session began
	Dispatcher   int32     // its number, if IsDispatcher
	IsDispatcher bool      // else it is that of a Get, or of another operation
	ClaimedAt    time.Time // when the dispatcher claimed the job; zero: unknown
}

// Find returns a job. [ErrGone] if there is none with that id.
func (s *Store) Find(ctx context.Context, id int64) (*Details, error) {
	if s.err != nil {
		return nil, s.err
	}
	d, err := s.find(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("store: find job %d: %w", id, err)
	}
	return d, nil
}

func (s *Store) find(ctx context.Context, id int64) (*Details, error) {
	var d Details
	var h Holder
	var line entryRow
	var held bool
	var connected, claimed pgtype.Timestamptz
	err := s.db.QueryRow(ctx, `
		select `+entryColumns+`, data, metadata, held, pid, application, address, backend_start, dispatcher, is_dispatcher, claimed_at
		from (
		  select q.*,
		         case when r.id is not null then 'running' else `+s.function("state")+`(q.schedule_at, q.attempt, q.dequeued_at, q.set_aside) end as state,
		         r.id is not null as held, coalesce(r.pid, 0) as pid, coalesce(a.application_name, '') as application,
		         coalesce(host(a.client_addr), '') as address, a.backend_start,
		         coalesce(d.id, 0) as dispatcher, d.id is not null as is_dispatcher,
		         (select min(l.claimed_at) from `+s.names.Qualify("ledger")+` l where l.dispatcher = d.id and q.id = any (l.ids)) as claimed_at
		  from `+s.Table()+` q
		  left join `+s.function("running")+`() r on r.id = q.id
		  left join pg_stat_activity a on a.pid = r.pid
		  left join `+s.function("dispatchers")+`() d on d.pid = r.pid
		  where q.id = $1
		  limit 1
		) job`, id,
	).Scan(append(line.targets(), &d.Data, &d.Metadata, &held, &h.PID, &h.Application, &h.Address, &connected,
		&h.Dispatcher, &h.IsDispatcher, &claimed)...)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, ErrGone
	case err != nil:
		return nil, explain(err)
	}
	d.Entry = line.read()
	if held {
		h.ConnectedAt, h.ClaimedAt = instant(connected), instant(claimed)
		d.Holder = &h
	}
	return &d, nil
}
