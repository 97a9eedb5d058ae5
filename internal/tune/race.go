// A race: settings are measured in turn, block by block, and leave when it is clear that they are no better.
//
// The scheme is that of racing (Maron and Moore, "Hoeffding races", 1994), with the paired t-test of Birattari et al.,
// "A racing algorithm for configuring metaheuristics", 2002. Of many candidates the worse half leaves early, as in
// successive halving (Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", 2013). All settings
// of a block are measured one right after the other and compared only within it, so that what else goes on on the
// machine is in all of them; the next block goes the other way round, so that a drift cancels out.

package tune

import (
	"context"
	"math"
	"slices"
	"time"
)

const (
	gain     = 0.03 // what is worth another setting, of the goal
	lesser   = 0.10 // the same, of what decides where that is equal
	blocks   = 8    // of a race at most
	crowd    = 4    // with more settings than that, the worse half leaves after the blocks of halvings
	doubtful = 2    // blocks before anything is believed
)

var halvings = []int{1, 3}

// Goal is what is wanted. Both numbers are logarithms, higher is better.
type Goal struct {
	// Rate of puts that is to be kept up with, a second: then the lowest p99 counts. 0: the highest throughput, and
	// where that is equal the lowest p99.
	Rate float64
}

func (g Goal) first(s Sample) float64 {
	if g.Rate == 0 {
		return math.Log(max(s.Throughput, 1e-3))
	}
	return -math.Log(max(s.P99, 1e-3))
}

func (g Goal) second(s Sample) float64 {
	if g.Rate == 0 {
		return -math.Log(max(s.P99, 1e-3))
	}
	return 0
}

// verdict about a setting beside a simpler one.
type verdict int

const (
	unclear verdict = iota
	better          // by so much that it is worth it
	noBetter
)

// judge compares samples of a setting with those of a simpler one, taken in the same blocks.
func (g Goal) judge(s, simpler []Sample) verdict {
	n := min(len(s), len(simpler))
	if n < doubtful {
		return unclear
	}
	first := g.differences(s[:n], simpler[:n], g.first)
	if first.low() > 0 && first.mean >= math.Log1p(gain) {
		return better
	}
	if first.high() >= math.Log1p(gain) {
		return unclear
	}
	second := g.differences(s[:n], simpler[:n], g.second)
	if first.high() > 0 && second.low() > 0 && second.mean >= math.Log1p(lesser) {
		return better
	}
	return noBetter
}

func (g Goal) differences(a, b []Sample, goal func(Sample) float64) interval {
	differences := make([]float64, min(len(a), len(b)))
	for i := range differences {
		differences[i] = goal(a[i]) - goal(b[i])
	}
	return intervalOf(differences)
}

// race is one; settings are in the order of simplicity.
type race struct {
	goal    Goal
	alive   []Setting
	keep    Setting // where the search stands: it is not halved away
	samples map[Setting][]Sample
}

// run returns the winner; when the time is up, of the blocks until then. measure tells whether there was time.
func (r *race) run(ctx context.Context, deadline time.Time, measure func(context.Context, Setting, time.Time) (Sample, bool, error)) (Setting, error) {
	slices.SortFunc(r.alive, simplicity)
	r.samples = map[Setting][]Sample{}
	for block := 1; block <= blocks && len(r.alive) > 1; block++ {
		order := slices.Clone(r.alive)
		if block%2 == 0 {
			slices.Reverse(order)
		}
		row := map[Setting]Sample{}
		for _, s := range order {
			sample, ok, err := measure(ctx, s, deadline)
			if err != nil || !ok {
				return r.winner(), err
			}
			row[s] = sample
		}
		for s, sample := range row {
			r.samples[s] = append(r.samples[s], sample)
		}
		if slices.Contains(halvings, block) && len(r.alive) > crowd {
			r.halve()
		}
		r.dismiss()
	}
	return r.winner(), nil
}

// halve lets the worse half go.
func (r *race) halve() {
	ranked := slices.Clone(r.alive)
	mean := func(s Setting) (sum float64) {
		for _, sample := range r.samples[s] {
			sum += r.goal.first(sample)
		}
		return sum // all have as many
	}
	slices.SortStableFunc(ranked, func(a, b Setting) int {
		if mean(a) > mean(b) {
			return -1
		}
		return 1
	})
	stay := ranked[:(len(ranked)+1)/2]
	r.alive = slices.DeleteFunc(r.alive, func(s Setting) bool { return s != r.keep && !slices.Contains(stay, s) })
}

// dismiss lets go who is no better than a simpler one that stays, or is simpler than one that is better.
func (r *race) dismiss() {
	gone := map[Setting]bool{}
	for i, simple := range r.alive {
		for _, s := range r.alive[i+1:] {
			if gone[s] || gone[simple] {
				continue
			}
			switch r.goal.judge(r.samples[s], r.samples[simple]) {
			case better:
				gone[simple] = true
			case noBetter:
				gone[s] = true
			case unclear:
			}
		}
	}
	r.alive = slices.DeleteFunc(r.alive, func(s Setting) bool { return gone[s] })
}

// winner is the simplest, unless another one of those that are left is better.
func (r *race) winner() Setting {
	won := r.alive[0]
	for _, s := range r.alive[1:] {
		if r.goal.judge(r.samples[s], r.samples[won]) == better {
			won = s
		}
	}
	return won
}
