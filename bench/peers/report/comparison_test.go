package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

func TestAFigureIsTheMedianOverRounds(t *testing.T) {
	f := figure{name: "rerun_p50_ms", bound: "rerun_more_than_ms", unit: milliseconds}
	run := func(name string, v float64) result.Measurement {
		return result.Measurement{Figures: map[string]float64{name: v}}
	}
	known := func(v float64) result.Measurement { return run(f.name, v) }
	more := func(v float64) result.Measurement { return run(f.bound, v) }
	for _, c := range []struct {
		name     string
		measured []result.Measurement
		want     value
		text     string
	}{
		{"none", nil, value{}, "–"},
		{"another figure", []result.Measurement{run("early", 1)}, value{}, "–"},
		{"one", []result.Measurement{known(7)}, value{Median: 7, Low: 7, High: 7, Rounds: 1}, "7 ms"},
		{"odd", []result.Measurement{known(9), known(1), known(2)}, value{Median: 2, Low: 1, High: 9, Rounds: 3}, "2 ms"},
		{"even", []result.Measurement{known(4), known(1)}, value{Median: 2.5, Low: 1, High: 4, Rounds: 2}, "2.5 ms"},
		{"all more", []result.Measurement{more(30_000), more(30_000)}, value{Median: 30_000, Low: 30_000, High: 30_000, Rounds: 2, MoreThan: true, Open: true}, "> 30 s"},
		{"most more", []result.Measurement{more(30_000), known(20), more(30_000)}, value{Median: 30_000, Low: 20, High: 30_000, Rounds: 3, MoreThan: true, Open: true}, "> 30 s"},
		{"few more", []result.Measurement{more(30_000), known(20), known(40)}, value{Median: 40, Low: 20, High: 30_000, Rounds: 3, Open: true}, "40 ms"},
		{"half more", []result.Measurement{more(30_000), known(20)}, value{Median: 15_010, Low: 20, High: 30_000, Rounds: 2, MoreThan: true, Open: true}, "> 15 s"},
	} {
		got := f.over(c.measured)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", c.name, diff)
		}
		if text := f.text(got); text != c.text {
			t.Errorf("%s: got %q, want %q", c.name, text, c.text)
		}
	}
}

func TestAContenderFallsBehindInHalfOfItsRounds(t *testing.T) {
	run := func(rate float64, behind bool) result.Measurement {
		m := result.Measurement{Workload: "load", Contender: "x", Offered: rate, Processes: 1, Figures: map[string]float64{"behind": 0}}
		if behind {
			m.Figures["behind"] = 1
		}
		return m
	}
	w := views[slices.IndexFunc(views, func(w *view) bool { return w.workload == "load" })]
	for name, test := range map[string]struct {
		measured []result.Measurement
		want     map[float64]bool
	}{
		"all kept up": {[]result.Measurement{run(1, false), run(1, false), run(2, false), run(2, false)}, map[float64]bool{1: false, 2: false}},
		"one of three, and another before it": {
			[]result.Measurement{run(1, false), run(1, false), run(1, true), run(2, false), run(2, true)},
			map[float64]bool{1: false, 2: true},
		},
		"one of three": {[]result.Measurement{run(1, false), run(1, false), run(1, true), run(2, false), run(2, false)}, map[float64]bool{1: false, 2: false}},
		"one of two":   {[]result.Measurement{run(1, false), run(1, true)}, map[float64]bool{1: true}},
		"a run fails":  {[]result.Measurement{run(1, false), run(1, false), run(2, false)}, map[float64]bool{1: false, 2: false}},
	} {
		c := newComparison(&result.Results{Measured: test.measured})
		for x, want := range test.want {
			if got := c.fellBehind(w, "x", x); got != want {
				t.Errorf("%s: fell behind at %v: got %v, want %v", name, x, got, want)
			}
		}
	}
}

func TestOnlyAClearDifferenceIsOne(t *testing.T) {
	fast, short := figure{higher: true}, figure{}
	v := func(median, low, high float64) value { return value{Median: median, Low: low, High: high, Rounds: 3} }
	more := value{Median: 30_000, Low: 30_000, High: 30_000, Rounds: 3, MoreThan: true}
	for _, c := range []struct {
		f            figure
		ours, theirs value
		want         string
	}{
		{fast, v(300, 290, 310), v(100, 90, 110), "pq-dispatch is ahead by a factor of 3"},
		{fast, v(100, 90, 110), v(300, 290, 310), "pq-dispatch is behind by a factor of 3"},
		{fast, v(300, 90, 310), v(100, 90, 110), "no clear difference, the rounds overlap"},
		{short, v(100, 90, 110), v(300, 290, 310), "pq-dispatch is ahead by a factor of 3"},
		{short, v(300, 290, 310), v(100, 90, 110), "pq-dispatch is behind by a factor of 3"},
		{short, v(300, 290, 310), more, "pq-dispatch is ahead by a factor of at least 100"},
		{short, more, v(300, 290, 310), "pq-dispatch is behind by a factor of at least 100"},
		{short, more, more, "neither was done"},
		{short, v(300, 290, 310), value{Median: 40, Low: 20, High: 100, Rounds: 3, Open: true}, "no clear difference, the rounds overlap"},
		{short, v(0, 0, 0), v(300, 290, 310), "pq-dispatch is ahead"},
	} {
		if got := c.f.relation(c.ours, c.theirs); got != c.want {
			t.Errorf("of %v and %v: got %q, want %q", c.ours, c.theirs, got, c.want)
		}
	}
}

func TestNumbersHaveAsManyDigitsAsTellSomething(t *testing.T) {
	for _, c := range []struct {
		v    float64
		want string
	}{
		{0, "0"}, {1, "1"}, {1.5, "1.5"}, {1.234, "1.23"}, {9.996, "10"}, {12.34, "12.3"}, {99.96, "100"}, {123.4, "123"},
		{12345.6, "12,346"}, {1234567, "1,234,567"}, {-1234, "-1,234"}, {0.0123, "0.012"}, {0.9996, "1"}, {0.00001, "1.0e-05"},
	} {
		if got := digits(c.v); got != c.want {
			t.Errorf("%v: got %q, want %q", c.v, got, c.want)
		}
	}
}

func TestEveryNumberHasItsPlaceOnItsScale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOfN(rapid.Float64Range(0, 1e9), 1, 20).Draw(t, "numbers")
		linear := rapid.Bool().Draw(t, "linear")
		s := around(numbers, linear)
		for _, v := range numbers {
			if v > 0 && v < 1e-6 {
				continue // no figure is that small
			}
			if at := s.at(v); at < -1e-9 || at > 1+1e-9 {
				t.Fatalf("%v is at %v on %v, want it between 0 and 1", v, at, s)
			}
		}
		if n := len(s.steps()); n < 2 || n > 7 {
			t.Fatalf("got %d numbers on the axis of %v, want 2 to 7", n, s)
		}
	})
}
