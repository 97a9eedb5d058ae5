// Queues and dispatchers: look at them, pause and resume.

package api

import (
	"errors"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// countTo is how far the jobs of a state are counted: to count millions takes seconds.
const countTo = 100_000

func (a *api) queues(r *request) (answer, error) {
	all, err := a.jobs.Overviews(r.Context(), countTo)
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Queues []view.Overview `json:"queues"`
	}{view.Each(all, view.OverviewOf)})
}

// queue answers for any name: a queue comes with its first job and goes with its last.
func (a *api) queue(r *request) (answer, error) {
	o, err := a.of(r.PathValue("queue")).Overview(r.Context(), countTo)
	if err != nil {
		return answer{}, err
	}
	return ok(view.OverviewOf(o))
}

func (a *api) pause(r *request) (answer, error) {
	var until *timestamp
	var length, reason *string
	if err := r.fields(map[string]field{
		"until":  {&until, aTime},
		"for":    {&length, aDelay},
		"reason": {&reason, "a text"},
	}); err != nil {
		return answer{}, err
	}
	var o store.PauseOptions
	if reason != nil {
		o.Reason = *reason
	}
	if until != nil {
		o.Until = time.Time(*until)
	}
	if length != nil {
		var err error
		switch o.For, err = store.ParseDelay(*length); {
		case err != nil || o.For == 0:
			return answer{}, invalidField.because("it should be %s", aDelay).at("for")
		case until != nil:
			return answer{}, invalidField.because("give until or for, not both").at("for")
		}
	}
	queue := a.of(r.PathValue("queue"))
	end, err := queue.Pause(r.Context(), o)
	switch {
	case errors.Is(err, store.ErrTime):
		return answer{}, invalidField.because("it has passed, by the clock of the database; give a later one").at("until")
	case err != nil:
		return answer{}, err
	}
	return ok(struct {
		Queue string     `json:"queue"`
		Until *time.Time `json:"paused_until"` // null: until it is resumed
	}{queue.Name(), view.Instant(end)})
}

func (a *api) resume(r *request) (answer, error) {
	if err := r.fields(nil); err != nil {
		return answer{}, err
	}
	queue := a.of(r.PathValue("queue"))
	was, err := queue.Resume(r.Context())
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Queue string `json:"queue"`
		Was   bool   `json:"was_paused"`
	}{queue.Name(), was})
}

func (a *api) dispatchers(r *request) (answer, error) {
	all, err := a.jobs.Dispatchers(r.Context())
	if err != nil {
		return answer{}, err
	}
	return ok(struct {
		Dispatchers []view.Dispatcher `json:"dispatchers"`
	}{view.Each(all, view.DispatcherOf)})
}
