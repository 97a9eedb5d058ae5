package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// When is a time as a caller has it: an instant, a duration from now by the database's clock, or a
// text that [ParseDelay] reads, such as "30s", "5m", "1h" or "2d". The zero time.Time says nothing.
type When interface {
	time.Time | time.Duration | string
}

// PutOption is one word about a job that is put.
type PutOption func(*draft) error

// ScheduleAt keeps the job back until then.
func ScheduleAt[T When](t T) PutOption {
	return func(d *draft) (err error) {
		d.schedule, err = momentOf(t)
		return err
	}
}

// ExpectedAt is the job's priority: of the jobs that are due, the one expected earliest goes first,
// those without one last, and then the one put first.
func ExpectedAt[T When](t T) PutOption {
	return func(d *draft) (err error) {
		d.expected, err = momentOf(t)
		return err
	}
}

// MaxAttempts is how often the job may be run before it is set aside, instead of its handler's
// default. One means no retry.
func MaxAttempts(n int) PutOption {
	return func(d *draft) error {
		if n < 1 || n > 1<<30 {
			return fmt.Errorf("MaxAttempts is %d; it must be at least 1", n)
		}
		d.maxAttempts = &n
		return nil
	}
}

// Metadata is kept with the job and given to its handler in [Job.Metadata]: tags of your own, such as the tenant.
// The trace context of the put is added to them.
func Metadata(tags map[string]string) PutOption {
	return func(d *draft) error {
		data, err := json.Marshal(tags)
		if err == nil {
			_, err = checkJSON(data)
		}
		if err == nil {
			err = checkValue(tags, data)
		}
		if err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		d.metadata = maps.Clone(tags)
		return nil
	}
}

// draft is a job before it is put.
type draft struct {
	schedule, expected moment
	task               *string
	maxAttempts        *int
	metadata           map[string]string
}

// metadataJSON is text, and nil for none: behind a pooler pgx does not learn that the column is
// jsonb, and cannot encode a map.
func (d *draft) metadataJSON() *string {
	if d.metadata == nil {
		return nil
	}
	text, _ := json.Marshal(d.metadata) // a map of strings cannot fail
	return new(string(text))
}

// columns are those that the draft sets, and their values. A COPY of few columns is a faster one.
func (d *draft) columns(now time.Time) (names []string, values []any) {
	add := func(set bool, name string, value any) {
		if set {
			names, values = append(names, name), append(values, value)
		}
	}
	schedule, expected := d.schedule.resolve(now), d.expected.resolve(now)
	add(schedule != nil, "schedule_at", schedule)
	add(expected != nil, "expected_at", expected)
	add(d.task != nil, "task", d.task)
	add(d.maxAttempts != nil, "max_attempts", d.maxAttempts)
	add(d.metadata != nil, "metadata", d.metadataJSON())
	return names, values
}

func newDraft(options []PutOption) (draft, error) {
	var d draft
	for _, option := range options {
		if err := option(&d); err != nil {
			return d, err
		}
	}
	return d, nil
}

// moment is an instant, or a duration that the database adds to its clock, or neither.
type moment struct {
	at *time.Time
	in *time.Duration
}

func momentOf[T When](t T) (moment, error) {
	switch t := any(t).(type) {
	case time.Time:
		if t.IsZero() {
			return moment{}, nil
		}
		return moment{at: &t}, checkTime(t)
	case time.Duration:
		return moment{in: &t}, nil
	default:
		in, err := ParseDelay(t.(string))
		return moment{in: &in}, err
	}
}

// resolve turns a duration into an instant, given the database's time.
func (m moment) resolve(now time.Time) *time.Time {
	if m.in != nil {
		return new(now.Add(*m.in))
	}
	return m.at
}

// checkTime refuses what timestamptz cannot hold: 4713 BC to 294276 AD.
func checkTime(t time.Time) error {
	if year := t.UTC().Year(); year < -4711 || year > 294275 {
		return fmt.Errorf("%w: the year %d is outside of what PostgreSQL can store", ErrTime, year)
	}
	return nil
}
