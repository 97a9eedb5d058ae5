// The search: a race along one axis after another (coordinate descent), until none of them moves any more; then what was
// found once more against the default.

package tune

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Search is a search for the best setting. All fields but Say are required.
type Search struct {
	Axes    []Axis
	Goal    Goal
	Budget  time.Duration // for all of it; it may be exceeded by two trials
	Trial   time.Duration // that one takes, about; 0: not known
	Measure func(context.Context, Setting) (Sample, error)
	Say     func(doing string, s Setting, trial int, left time.Duration) // before each trial; nil: nothing is said

	now    func() time.Time // nil: time.Now
	begin  time.Time
	last   time.Duration // that the latest trial took
	trials []Trial
}

// Trial is one measurement.
type Trial struct {
	Setting Setting `json:"setting"`
	Sample  Sample  `json:"sample"`
	Part    string  `json:"part"` // of the search: the name of an axis, or Confirmation
}

// Confirmation is the part of a search in which its find is measured against the default.
const Confirmation = "confirmation"

// Why a search has ended.
const (
	Converged = "converged" // another setting is no better
	OutOfTime = "budget"    // there may be better ones
)

// Result is what a search has found.
type Result struct {
	Best      Setting
	Rejected  *Setting // what was found, if it did not stand the test against the default; nil: nothing
	Default   []Sample // of the confirmation
	Confirmed []Sample // of Best, in the same blocks
	Ratio     Ratio    // how many times better Best is, by the goal: more jobs a second, or a lower p99
	Trials    []Trial
	Stopped   string
	Elapsed   time.Duration
}

const (
	searching = 0.7 // of the budget; the rest is for the confirmation
	passes    = 4

	neighbours   = 3 // that run at least, the present one among them
	enoughBlocks = 3 // of a race, to have so many run in it

	pairs    = 10 // of the confirmation at most
	fewPairs = 4  // at least, if there is time
	alone    = 3  // trials of the default, if nothing else was found
)

// Run searches. The error is one of Measure, such as the cause of ctx's end.
func (s *Search) Run(ctx context.Context) (*Result, error) {
	if s.now == nil {
		s.now = time.Now
	}
	s.begin, s.last = s.now(), s.Trial
	r := &Result{Best: Default}
	found, err := s.descend(ctx, r)
	if err == nil {
		r.Best = found
		err = s.confirm(ctx, r)
	}
	r.Trials, r.Elapsed = s.trials, s.now().Sub(s.begin)
	return r, err
}

func (s *Search) descend(ctx context.Context, r *Result) (Setting, error) {
	current := Default
	deadline := s.begin.Add(time.Duration(searching * float64(s.Budget)))
	raced := map[string]Setting{} // where the other axes stood at the latest race along this one
	for pass := range passes {
		settled := true
		for i, axis := range s.Axes {
			others := axis.at(current, 0)
			if at, ok := raced[axis.Name]; ok && at == others {
				continue
			}
			raced[axis.Name], settled = others, false
			won, err := s.along(ctx, axis, current, pass, s.share(deadline, i))
			if err != nil {
				return current, err
			}
			current = won
			if s.now().Add(s.last).After(deadline) {
				r.Stopped = OutOfTime
				return current, nil
			}
		}
		if settled {
			break
		}
	}
	r.Stopped = Converged
	return current, nil
}

// at is a setting with another value on the axis.
func (a Axis) at(s Setting, value int) Setting {
	*a.field(&s) = value
	return s
}

// along moves to the best setting on an axis: by a race of all its values, or of as many around the present one as there is
// time for; and on from there while the outermost of them wins. Later, when most were seen to be worse, only neighbours run.
func (s *Search) along(ctx context.Context, axis Axis, current Setting, pass int, deadline time.Time) (Setting, error) {
	most := len(axis.Values)
	if pass > 0 {
		most = neighbours
	}
	if s.last > 0 {
		most = max(neighbours, min(most, int(deadline.Sub(s.now())/s.last)/enoughBlocks))
	}
	low, high := axis.around(current, most)
	for {
		var candidates []Setting
		for _, value := range axis.Values[low : high+1] {
			candidates = append(candidates, axis.at(current, value))
		}
		won, err := s.race(ctx, axis.Name, current, candidates, deadline)
		at := axis.index(won)
		switch {
		case err != nil || won == current:
			return won, err
		case at == low && low > 0:
			low, high = low-1, at
		case at == high && high < len(axis.Values)-1:
			low, high = at, high+1
		default:
			return won, nil
		}
		current = won
	}
}

func (a Axis) index(s Setting) int { return slices.Index(a.Values, *a.field(&s)) }

// around is a range of so many values with the present one in the middle, as far as there are as many on both sides.
func (a Axis) around(current Setting, most int) (low, high int) {
	low = a.index(current)
	high = low
	for high-low+1 < min(most, len(a.Values)) {
		if high < len(a.Values)-1 {
			high++
		}
		if low > 0 && high-low+1 < most {
			low--
		}
	}
	return low, high
}

// share is until when the race along an axis may last: the time that is left, shared by the number of candidates.
func (s *Search) share(deadline time.Time, axis int) time.Time {
	weights := 0
	for _, a := range s.Axes[axis:] {
		weights += len(a.Values)
	}
	left := deadline.Sub(s.now())
	return s.now().Add(left * time.Duration(len(s.Axes[axis].Values)) / time.Duration(weights))
}

func (s *Search) race(ctx context.Context, part string, current Setting, candidates []Setting, deadline time.Time) (Setting, error) {
	r := &race{goal: s.Goal, alive: candidates, keep: current}
	return r.run(ctx, deadline, func(ctx context.Context, of Setting, deadline time.Time) (Sample, bool, error) {
		return s.try(ctx, part, of, deadline)
	})
}

// try measures, unless there is no time to. A zero deadline is none.
func (s *Search) try(ctx context.Context, part string, of Setting, deadline time.Time) (Sample, bool, error) {
	start := s.now()
	if !deadline.IsZero() && start.Add(s.last).After(deadline) {
		return Sample{}, false, nil
	}
	if s.Say != nil {
		s.Say(part, of, len(s.trials)+1, s.Budget-start.Sub(s.begin))
	}
	sample, err := s.Measure(ctx, of)
	if err != nil {
		return Sample{}, false, fmt.Errorf("tune: try %v: %w", of, err)
	}
	s.last = s.now().Sub(start)
	s.trials = append(s.trials, Trial{of, sample, part})
	return sample, true, nil
}

// confirm measures what was found against the default anew: in the race it was chosen for its good luck, too.
func (s *Search) confirm(ctx context.Context, r *Result) error {
	found := r.Best
	settings, most := []Setting{Default, found}, pairs
	if found == Default {
		settings, most = settings[:1], alone
	}
	var deadline time.Time // none at first: without one of each there is nothing to say
	for range most {
		row := map[Setting]Sample{}
		for _, of := range settings {
			sample, ok, err := s.try(ctx, Confirmation, of, deadline)
			if err != nil {
				return err
			}
			if !ok {
				s.settle(r)
				return nil
			}
			row[of] = sample
		}
		deadline = s.begin.Add(s.Budget)
		r.Default = append(r.Default, row[Default])
		r.Confirmed = append(r.Confirmed, row[found])
		slices.Reverse(settings)
		if len(r.Default) >= fewPairs && s.Goal.judge(r.Confirmed, r.Default) != unclear {
			break
		}
	}
	s.settle(r)
	return nil
}

// settle recommends what was found only if it is better than the default.
func (s *Search) settle(r *Result) {
	if found := r.Best; found != Default && s.Goal.judge(r.Confirmed, r.Default) != better {
		r.Best, r.Rejected, r.Confirmed = Default, &found, r.Default
	}
	r.Ratio = Ratio{1, 1, 1}
	if r.Best != Default {
		r.Ratio = s.Goal.differences(r.Confirmed, r.Default, s.Goal.first).ratio()
	}
}
