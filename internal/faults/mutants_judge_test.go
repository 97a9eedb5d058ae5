package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/mutant"
)

// A name that the judge or the faults do not know any more would let a mutant through.
func TestMutantsNameCountsAndFaultsThatThereAre(t *testing.T) {
	for _, m := range mutant.All {
		for _, what := range m.Shows {
			if !slices.Contains(judge.All, judge.What(what)) || what == string(judge.Slow) || what == string(judge.Late) {
				t.Errorf("%s shows as %q: want one of %q but those of speed", m.Name, what, judge.All)
			}
		}
		i := slices.Index(m.Scenario, "-fault")
		if i < 0 || i+1 >= len(m.Scenario) {
			t.Errorf("%s: got the scenario %q, want one with a fault", m.Name, m.Scenario)
			continue
		}
		for name := range strings.SplitSeq(m.Scenario[i+1], ",") {
			if !slices.ContainsFunc(registered(), func(known string) bool { return known == name }) {
				t.Errorf("%s: there is no fault %q", m.Name, name)
			}
		}
	}
}

func registered() (names []string) {
	for _, f := range faults {
		names = append(names, f.Name)
	}
	return names
}
