// Jobs: put, look at, operate.

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	maxBatch    = 10_000 // jobs that are put by one request
	maxAttempts = 1_000_000_000
	pageSize    = 50 // jobs of a page, if the request does not say
	maxPage     = 1000
)

// id is a job's number as JSON: a string, since numbers beyond 2^53 are rounded by JavaScript and others.
type id int64

// MarshalText writes it in decimal.
func (i id) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(i), 10), nil }

// of is the queue of the path. There the name is that of the table, so that each can be reached.
func (a *api) of(name string) *store.Queue { return a.jobs.Plain(name) }

// draft is what a body says about the jobs to put, beside their data.
type draft struct {
	scheduleAt, expectedAt *timestamp
	delay, task            *string
	maxAttempts            *int
	metadata               *map[string]string
}

func (d *draft) fields() map[string]field {
	return map[string]field{
		"schedule_at":  {&d.scheduleAt, aTime},
		"delay":        {&d.delay, aDelay},
		"expected_at":  {&d.expectedAt, aTime},
		"task":         {&d.task, "the name of a task"},
		"max_attempts": {&d.maxAttempts, attempts},
		"metadata":     {&d.metadata, tags},
	}
}

const (
	aTime    = `a time such as "2030-01-02T15:04:05Z"`
	aDelay   = `a delay such as "30s", "5m" or "1d12h"`
	attempts = "a whole number from 1 to 1000000000"
	tags     = `an object of strings such as {"tenant": "a"}`
)

func (d *draft) options() (options []store.PutOption, err error) {
	if d.scheduleAt != nil {
		options = append(options, store.ScheduleAt(time.Time(*d.scheduleAt)))
	}
	if d.delay != nil {
		delay, err := store.ParseDelay(*d.delay)
		switch {
		case err != nil:
			return nil, invalidField.because("it should be %s", aDelay).at("delay")
		case d.scheduleAt != nil:
			return nil, invalidField.because("give schedule_at or delay, not both").at("delay")
		}
		options = append(options, store.ScheduleAt(delay))
	}
	if d.expectedAt != nil {
		options = append(options, store.ExpectedAt(time.Time(*d.expectedAt)))
	}
	if d.task != nil {
		if *d.task == "" || strings.ContainsRune(*d.task, 0) {
			return nil, invalidField.because("the name of a task is not empty, and has no NUL").at("task")
		}
		options = append(options, store.OfTask(*d.task))
	}
	if d.maxAttempts != nil {
		if *d.maxAttempts < 1 || *d.maxAttempts > maxAttempts {
			return nil, invalidField.because("it should be %s", attempts).at("max_attempts")
		}
		options = append(options, store.MaxAttempts(*d.maxAttempts))
	}
	if d.metadata != nil {
		options = append(options, store.Metadata(*d.metadata))
	}
	return options, nil
}

// readPut reads the body of a put: the data, of one job or many, to where it points.
func (r *request) readPut(data any, want string) ([]store.PutOption, error) {
	var d draft
	known := d.fields()
	known["data"] = field{data, want}
	if err := r.fields(known); err != nil {
		return nil, err
	}
	return d.options()
}

func (a *api) put(r *request) (answer, error) {
	var data json.RawMessage
	options, err := r.readPut(&data, "any JSON")
	switch {
	case err != nil:
		return answer{}, err
	case data == nil:
		return answer{}, invalidField.because("give the data of the job: any JSON").at("data")
	}
	queue := a.of(r.PathValue("queue"))
	n, err := queue.Put(r.Context(), data, options...)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, location: fmt.Sprintf("/api/v1/jobs/%d", n), value: struct {
		ID    id     `json:"id"`
		Queue string `json:"queue"`
	}{id(n), queue.Name()}}, nil
}

func (a *api) putMany(r *request) (answer, error) {
	const want = "an array with the data of 1 to 10000 jobs"
	var data []json.RawMessage
	options, err := r.readPut(&data, want)
	switch {
	case err != nil:
		return answer{}, err
	case len(data) == 0 || len(data) > maxBatch:
		return answer{}, invalidField.because("it should be %s", want).at("data")
	}
	queue := a.of(r.PathValue("queue"))
	last := 0
	numbers, err := store.PutMany(r.Context(), queue, noting(data, &last), options...)
	if err != nil {
		p := problemOf(err, r.Method)
		// Each is looked at as it is read; what the server itself refuses, it refuses some thousand at a time.
		if _, server := errors.AsType[*pgconn.PgError](err); p.Pointer == "/data" && !server {
			p = p.at(strconv.Itoa(last))
		}
		return answer{}, p
	}
	return answer{status: http.StatusCreated, value: struct {
		IDs   []id   `json:"ids"`
		Queue string `json:"queue"`
	}{view.Each(numbers, func(n int64) id { return id(n) }), queue.Name()}}, nil
}

// noting yields the values, and notes which one was the last.
func noting[T any](values []T, last *int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i, v := range values {
			if *last = i; !yield(v) {
				return
			}
		}
	}
}

func (a *api) list(r *request) (answer, error) {
	f := store.Filter{State: store.State(r.query["state"]), Task: r.query["task"]}
	if name, is := r.query["queue"]; is {
		f.Queue = a.of(name)
	}
	limit := pageSize
	if text, is := r.query["limit"]; is {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return answer{}, invalidParameter.because("it should be a number from 1 to %d", maxPage).in("limit")
		}
	}
	for _, name := range []string{"state", "task", "after"} {
		if text, is := r.query[name]; is && text == "" {
			return answer{}, invalidParameter.because("it is empty; leave it out").in(name)
		}
	}
	page, err := a.jobs.List(r.Context(), f, limit, r.query["after"])
	if err != nil {
		return answer{}, err
	}
	return ok(view.PageOf[id](page))
}

func (a *api) find(r *request) (answer, error) {
	n, err := r.id()
	if err != nil {
		return answer{}, err
	}
	d, err := a.jobs.Find(r.Context(), n)
	if err != nil {
		return answer{}, err
	}
	return ok(view.DetailsOf[id](d))
}

func (a *api) discard(r *request) (answer, error) { return a.operate(r, store.Discard()) }

func (a *api) cancel(r *request) (answer, error) {
	if err := r.fields(nil); err != nil {
		return answer{}, err
	}
	return a.operate(r, store.Cancel())
}

func (a *api) retry(r *request) (answer, error) {
	var keep *bool
	if err := r.fields(map[string]field{"keep_attempts": {&keep, "true or false"}}); err != nil {
		return answer{}, err
	}
	return a.operate(r, store.Retry(keep != nil && *keep))
}

// refusals are the outcomes with which nothing was done, and what can be done about it.
var refusals = map[store.Outcome]*problem{
	store.IsRunning:  jobRunning.because("cancel it first, and look again when its handler has ended"),
	store.IsWaiting:  jobWaiting.because("there is nothing to retry: it waits for its turn"),
	store.IsTaken:    jobTaken.because("a consumer of Python's pq has taken it; leave it to that"),
	store.NotWaiting: jobNotWaiting.because("there is nothing to cancel: it was set aside or taken already; discard it to delete it"),
	store.Changed:    jobBusy.because("it has changed at this moment; try again").after(soon),
	store.RowLocked:  jobBusy.because("its row is locked; try again").after(soon),
}

func (a *api) operate(r *request, op store.Operation) (answer, error) {
	n, err := r.id()
	if err != nil {
		return answer{}, err
	}
	results, err := a.jobs.Operate(r.Context(), op, n)
	if err != nil {
		return answer{}, err
	}
	i := slices.IndexFunc(results, func(r store.Result) bool { return r.ID == n })
	if i < 0 || results[i].Outcome == store.Gone {
		return answer{}, store.ErrGone
	}
	outcome := results[i].Outcome
	if p := refusals[outcome]; p != nil {
		return answer{}, p
	}
	status := http.StatusOK
	if outcome == store.Asked {
		status = http.StatusAccepted
	}
	return answer{status: status, value: struct {
		ID      id            `json:"id"`
		Outcome store.Outcome `json:"outcome"`
	}{id(n), outcome}}, nil
}
