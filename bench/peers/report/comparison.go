// The results, looked up by what was measured, and the numbers that stand for several rounds.

package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// project is what the ids of this project's contenders begin with.
const project = "pq-dispatch"

// contender is one with the looks that tell it apart in every plot: the colour is that of the product, a
// hollow mark and a dashed line are for the first of its settings if there are more.
type contender struct {
	result.Contender
	Index  int
	family string
	Colour int // in palette
	Mark   int // in marks
	Hollow bool
}

func (c contender) ours() bool { return c.family == project }

// Kind is a class of bars.
func (c contender) Kind() string {
	switch {
	case c.ours():
		return "ours"
	case c.Baseline:
		return "baseline"
	}
	return "peer"
}

// comparison is the results and its contenders.
type comparison struct {
	*result.Results
	contenders []contender
}

func newComparison(r *result.Results) *comparison {
	c := &comparison{Results: r}
	all := slices.Clone(r.Contenders)
	for _, m := range sorted(r.Measured) { // one that is measured but not described has an id at least
		if !slices.ContainsFunc(all, func(known result.Contender) bool { return known.ID == m.Contender }) {
			all = append(all, result.Contender{ID: m.Contender, Name: m.Contender})
		}
	}
	colours, sizes := map[string]int{project: 0}, map[string]int{}
	for i, each := range all {
		family, _, _ := strings.Cut(each.ID, "-")
		switch {
		case strings.HasPrefix(each.ID, project):
			family = project
		case each.Baseline:
			family = "baseline"
		case colours[family] == 0:
			colours[family] = 1 + (len(colours)-1)%(grey-1)
		}
		colour := colours[family]
		if each.Baseline {
			colour = grey
		}
		mark := colour
		if each.Baseline {
			mark = len(palette) - 1 + sizes[family]
		}
		c.contenders = append(c.contenders, contender{
			Contender: each, Index: i, family: family, Colour: colour, Mark: mark % len(marks),
		})
		sizes[family]++
	}
	seen := map[string]bool{}
	for i, each := range c.contenders {
		c.contenders[i].Hollow = !each.Baseline && sizes[each.family] > 1 && !seen[each.family]
		seen[each.family] = true
	}
	return c
}

// sorted has measurements in an order that does not depend on that of the file.
func sorted(all []result.Measurement) []result.Measurement {
	return slices.SortedStableFunc(slices.Values(all), func(a, b result.Measurement) int {
		return cmp.Or(cmp.Compare(a.Contender, b.Contender), cmp.Compare(a.Workload, b.Workload),
			cmp.Compare(a.Processes, b.Processes), cmp.Compare(a.Offered, b.Offered), cmp.Compare(a.Round, b.Round))
	})
}

// value is a figure over all rounds. The zero value was not measured.
type value struct {
	Median, Low, High float64
	Rounds            int  // that have it
	MoreThan          bool // the median is larger than Median: so long the run was, and no longer
	Open              bool // the highest is larger than High
}

func (v value) known() bool { return v.Rounds > 0 }

// over is the figure of these measurements.
func (f figure) over(measured []result.Measurement) value {
	type one struct {
		v     float64
		bound bool
	}
	var all []one
	for _, m := range measured {
		if v, ok := m.Figures[f.name]; ok {
			all = append(all, one{v, false})
		} else if v, ok := m.Figures[f.bound]; ok && f.bound != "" {
			all = append(all, one{v, true})
		}
	}
	if len(all) == 0 {
		return value{}
	}
	slices.SortFunc(all, func(a, b one) int { // what is more than something known is more than anything known
		if a.bound != b.bound {
			if a.bound {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.v, b.v)
	})
	low, high := all[0], all[len(all)-1]
	a, b := all[(len(all)-1)/2], all[len(all)/2]
	v := value{
		Median: (a.v + b.v) / 2, Low: low.v, High: high.v, Rounds: len(all), // of a bound and a number, a bound again
		MoreThan: b.bound, Open: high.bound,
	}
	return v
}

// fellBehind tells whether the contender fell behind what it was offered at x in half of its rounds or more. A round
// ends with that: it is not offered more.
func (c *comparison) fellBehind(w *view, contender string, x float64) bool {
	rounds, behind := 0, 0
	for _, step := range c.steps(w) {
		measured := c.measured(w, contender, step)
		rounds = max(rounds, len(measured))
		for _, m := range measured {
			if step <= x && m.Figures["behind"] != 0 {
				behind++
			}
		}
	}
	return behind > 0 && 2*behind >= rounds
}

// measured are the runs of a contender in a view, at x if the view has an axis.
func (c *comparison) measured(w *view, contender string, x float64) (found []result.Measurement) {
	for _, m := range c.Measured {
		if m.Workload == w.workload && m.Contender == contender &&
			(w.x == nil || w.x.of(m) == x) && (!w.single || m.Processes <= 1) {
			found = append(found, m)
		}
	}
	return found
}

// steps are the places on the axis of a view at which there was something measured.
func (c *comparison) steps(w *view) (steps []float64) {
	for _, m := range c.Measured {
		if m.Workload == w.workload {
			steps = append(steps, w.x.of(m))
		}
	}
	slices.Sort(steps)
	return slices.Compact(steps)
}

// reference is this project: what the others are compared with.
func (c *comparison) reference() (contender, bool) {
	i := slices.IndexFunc(c.contenders, contender.ours)
	if i < 0 {
		return contender{}, false
	}
	return c.contenders[i], true
}

// unit says how numbers of a kind are written.
type unit int

const (
	plain        unit = iota
	milliseconds      // or what suits: 0.42 ms, 12 ms, 1.5 s
	microseconds
	octets
	ratio
)

// write is a number with its unit, where that is not clear from its place.
func (u unit) write(v float64) string {
	switch u {
	case milliseconds:
		if math.Abs(v) >= 1000 {
			return digits(v/1000) + " s"
		}
		return digits(v) + " ms"
	case microseconds:
		return digits(v) + " µs"
	case octets:
		return digits(v) + " B"
	case ratio:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return digits(v)
}

// digits writes as many as tell something: 12,345, 123, 12.3, 1.23, 0.0123.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 99.95:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 9.995:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	case a >= 0.9995:
		text := strconv.FormatFloat(v, 'f', 2, 64)
		return strings.TrimSuffix(strings.TrimSuffix(text, "0"), ".0")
	case a >= 0.0001:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'e', 1, 64)
}

func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

const notMeasured = "–"

// text is a value as it stands in a table.
func (f figure) text(v value) string {
	switch {
	case !v.known():
		return notMeasured
	case v.MoreThan:
		return "> " + f.unit.write(v.Median)
	}
	return f.unit.write(v.Median)
}

// spread is the range over the rounds, if there was more than one.
func (f figure) spread(v value) string {
	if v.Rounds < 2 || v.MoreThan {
		return ""
	}
	high := f.unit.write(v.High)
	if v.Open {
		high = "> " + high
	}
	return fmt.Sprintf("%s to %s", f.unit.write(v.Low), high)
}

// times is v compared with a reference, as "1.5×"; empty if one of them is not known.
func times(v, reference value) string {
	if !v.known() || !reference.known() || reference.Median == 0 || reference.MoreThan {
		return ""
	}
	switch much := v.Median / reference.Median; {
	case v.MoreThan:
		return "> " + digits(much) + "×"
	case much < 0.001 && much > 0:
		return "< 0.001×"
	default:
		return digits(much) + "×"
	}
}
