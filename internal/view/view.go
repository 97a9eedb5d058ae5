// Package view is how jobs, queues and dispatchers look in JSON, printed by the command and answered by the HTTP API.
//
// The two differ in one thing: a job's id is a number for the command, whose output is read by what keeps 64 bits,
// and a string for the API, as JavaScript and others round a number beyond 2^53.
package view

import (
	"encoding/json"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// Page is a part of the list of jobs.
type Page[ID ~int64] struct {
	Jobs []Entry[ID] `json:"jobs"`
	Next *string     `json:"next"` // null: there is no further page
	Cut  bool        `json:"cut"`  // the page ends because so many jobs were looked at
}

// PageOf is a page that was listed.
func PageOf[ID ~int64](p store.Page) Page[ID] {
	return Page[ID]{Jobs: Each(p.Jobs, EntryOf[ID]), Next: OrNull(p.Next), Cut: p.Cut}
}

// Entry is a job in a list.
type Entry[ID ~int64] struct {
	ID          ID          `json:"id"`
	Queue       string      `json:"queue"`
	State       store.State `json:"state"`
	Task        *string     `json:"task"`
	Attempt     int         `json:"attempt"`
	MaxAttempts *int        `json:"max_attempts"` // null: its handler's
	EnqueuedAt  *time.Time  `json:"enqueued_at"`
	ScheduleAt  *time.Time  `json:"schedule_at"`
	ExpectedAt  *time.Time  `json:"expected_at"`
	DequeuedAt  *time.Time  `json:"dequeued_at"`
	LastError   *string     `json:"last_error"`
}

// EntryOf is a job that was listed.
func EntryOf[ID ~int64](e store.Entry) Entry[ID] {
	return Entry[ID]{
		ID: ID(e.ID), Queue: e.Queue, State: e.State, Task: OrNull(e.Task), Attempt: e.Attempt, MaxAttempts: OrNull(e.MaxAttempts),
		EnqueuedAt: Instant(e.EnqueuedAt), ScheduleAt: Instant(e.ScheduleAt), ExpectedAt: Instant(e.ExpectedAt),
		DequeuedAt: Instant(e.DequeuedAt), LastError: OrNull(e.LastError),
	}
}

// Details are all that is known of a job.
type Details[ID ~int64] struct {
	Entry[ID]
	Data     json.RawMessage `json:"data"`
	Metadata json.RawMessage `json:"metadata"`
	Holder   *Holder         `json:"held_by"` // null: nobody
}

// Holder is the session that has a job in hand.
type Holder struct {
	PID         int        `json:"pid"`
	Application *string    `json:"application"`
	Address     *string    `json:"address"`
	ConnectedAt *time.Time `json:"connected_at"`
	Dispatcher  *int32     `json:"dispatcher"` // null: it is none
	ClaimedAt   *time.Time `json:"claimed_at"`
}

// DetailsOf is a job that was found.
func DetailsOf[ID ~int64](d *store.Details) Details[ID] {
	out := Details[ID]{Entry: EntryOf[ID](d.Entry), Data: d.Data, Metadata: d.Metadata}
	if h := d.Holder; h != nil {
		out.Holder = &Holder{
			PID: h.PID, Application: OrNull(h.Application), Address: OrNull(h.Address),
			ConnectedAt: Instant(h.ConnectedAt), ClaimedAt: Instant(h.ClaimedAt),
		}
		if h.IsDispatcher {
			out.Holder.Dispatcher = &h.Dispatcher
		}
	}
	return out
}

// Counts are the jobs of a queue by state.
type Counts struct {
	Queue     string   `json:"queue"`
	Ready     int      `json:"ready"`
	Scheduled int      `json:"scheduled"`
	Running   int      `json:"running"`
	SetAside  int      `json:"set_aside"`
	Taken     int      `json:"taken"`
	Oldest    *float64 `json:"oldest_seconds"` // null: none is ready
}

// CountsOf are those that were counted.
func CountsOf(c store.Counts) Counts {
	return Counts{c.Queue, c.Ready, c.Scheduled, c.Running, c.SetAside, c.Taken, seconds(c.Oldest, c.Ready > 0)}
}

// Overview is a queue at a glance.
type Overview struct {
	Counts
	AtLeast []string `json:"at_least"` // those of the above that are lower bounds
	Paused  *Pause   `json:"paused"`   // null: it is not
}

// Pause tells for how long, and why.
type Pause struct {
	Until  *time.Time `json:"until"` // null: until it is resumed
	Reason *string    `json:"reason"`
	Since  *time.Time `json:"since"`
}

// OverviewOf is a queue that was looked at.
func OverviewOf(o store.Overview) Overview {
	out := Overview{Counts: CountsOf(o.Counts), AtLeast: Each(o.AtLeast, func(name string) string {
		if name == "oldest" {
			return "oldest_seconds"
		}
		return name
	})}
	if p := o.Paused; p != nil {
		out.Paused = &Pause{Instant(p.Until), OrNull(p.Reason), Instant(p.Since)}
	}
	return out
}

// Dispatcher is one of those that run jobs.
type Dispatcher struct {
	ID          int32      `json:"id"`
	Alive       bool       `json:"alive"`
	PID         *int       `json:"pid"` // of the server process of its session; null: it is dead
	Application *string    `json:"application"`
	Address     *string    `json:"address"` // null: a local socket, or not to be seen
	Since       *time.Time `json:"since"`
	Jobs        int        `json:"jobs"`
	Batches     int        `json:"batches"`
	Oldest      *float64   `json:"oldest_claim_seconds"` // null: it has none
}

// DispatcherOf is a dispatcher that was found.
func DispatcherOf(d store.Dispatcher) Dispatcher {
	return Dispatcher{
		ID: d.ID, Alive: d.Alive, PID: OrNull(d.PID), Application: OrNull(d.Application), Address: OrNull(d.Address),
		Since: Instant(d.Since), Jobs: d.Jobs, Batches: d.Batches, Oldest: seconds(d.Oldest, d.Batches > 0),
	}
}

// Each makes one of each. The result is never nil, which would be null in JSON.
func Each[A, B any](all []A, of func(A) B) []B {
	out := make([]B, len(all))
	for i, a := range all {
		out[i] = of(a)
	}
	return out
}

// OrNull is null for the zero value.
func OrNull[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

func seconds(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	return new(d.Seconds())
}

var (
	firstInstant = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	lastInstant  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// Instant is a time in UTC, null for the zero one. RFC 3339 has four digits for the year, the database more: what is
// beyond them is shown as the first or the last instant that has so many.
func Instant(t time.Time) *time.Time {
	t = t.UTC()
	switch {
	case t.IsZero():
		return nil
	case t.Before(firstInstant):
		t = firstInstant
	case t.After(lastInstant):
		t = lastInstant
	}
	return &t
}
