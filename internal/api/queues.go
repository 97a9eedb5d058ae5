// Queues and dispatchers: look at them, pause and resume.

package api

import (
	"errors"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// countTo is how far the jobs of a state are counted: to count millions takes seconds.
const countTo = 100_000

// overview is a queue at a glance.
type overview struct {
	Queue     string   `json:"queue"`
	Ready     int      `json:"ready"`
	Scheduled int      `json:"scheduled"`
	Running   int      `json:"running"`
	SetAside  int      `json:"set_aside"`
	Taken     int      `json:"taken"`
	Oldest    *float64 `json:"oldest_seconds"` // null: none is ready
	AtLeast   []string `json:"at_least"`       // those of the above that are lower bounds
	Paused    *paused  `json:"paused"`         // null: it is not
}

type paused struct {
	Until  *time.Time `json:"until"` // null: until it is resumed
	Reason *string    `json:"reason"`
	Since  *time.Time `json:"since"`
}

func overviewOf(o store.Overview) overview {
	out := overview{
		Queue: o.Queue, Ready: o.Ready, Scheduled: o.Scheduled, Running: o.Running, SetAside: o.SetAside, Taken: o.Taken, AtLeast: []string{},
	}
	if o.Ready > 0 {
		out.Oldest = new(o.Oldest.Seconds())
	}
	for _, name := range o.AtLeast {
		if name == "oldest" {
			name = "oldest_seconds"
		}
		out.AtLeast = append(out.AtLeast, name)
	}
	if p := o.Paused; p != nil {
		out.Paused = &paused{instant(p.Until), orNull(p.Reason), instant(p.Since)}
	}
	return out
}

func (a *api) queues(r *request) (answer, error) {
	all, err := a.jobs.Overviews(r.Context(), countTo)
	if err != nil {
		return answer{}, err
	}
	queues := make([]overview, len(all))
	for i, o := range all {
		queues[i] = overviewOf(o)
	}
	return ok(struct {
		Queues []overview `json:"queues"`
	}{queues})
}

// queue answers for any name: a queue comes with its first job and goes with its last.
func (a *api) queue(r *request) (answer, error) {
	o, err := a.of(r.PathValue("queue")).Overview(r.Context(), countTo)
	if err != nil {
		return answer{}, err
	}
	return ok(overviewOf(o))
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
	}{queue.Name(), instant(end)})
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

type dispatcher struct {
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

func (a *api) dispatchers(r *request) (answer, error) {
	all, err := a.jobs.Dispatchers(r.Context())
	if err != nil {
		return answer{}, err
	}
	dispatchers := make([]dispatcher, len(all))
	for i, d := range all {
		dispatchers[i] = dispatcher{
			ID: d.ID, Alive: d.Alive, PID: orNull(d.PID), Application: orNull(d.Application), Address: orNull(d.Address),
			Since: instant(d.Since), Jobs: d.Jobs, Batches: d.Batches,
		}
		if d.Batches > 0 {
			dispatchers[i].Oldest = new(d.Oldest.Seconds())
		}
	}
	return ok(struct {
		Dispatchers []dispatcher `json:"dispatchers"`
	}{dispatchers})
}
