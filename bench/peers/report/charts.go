// The plots of the HTML page: places in percent, so that they fit any screen. The page draws them from boxes and
// lines, its words stay words.

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// percent is a place on an axis, with so many digits that the text is the same everywhere.
func percent(v float64) string { return fmt.Sprintf("%.2f", min(max(v, 0), 1)*100) }

// barChart has a bar from 0 for each contender.
type barChart struct {
	Unit string
	Bars []bar
}

type bar struct {
	contender
	Text              string
	Width, Low, Range string // percent; Range is empty if there is no spread
}

func (c *comparison) bars(w *view) *barChart {
	f := w.main()
	ranked := c.ranked(w)
	most := 0.0
	for _, each := range ranked {
		most = max(most, f.over(c.measured(w, each.ID, 0)).High)
	}
	chart := &barChart{Unit: f.title}
	for _, each := range ranked {
		v := f.over(c.measured(w, each.ID, 0))
		b := bar{contender: each, Text: f.text(v), Width: "0"}
		if v.known() && most > 0 {
			b.Width = percent(v.Median / most)
			if v.Rounds > 1 {
				b.Low, b.Range = percent(v.Low/most), percent((v.High-v.Low)/most)
			}
		}
		chart.Bars = append(chart.Bars, b)
	}
	return chart
}

// scale is an axis: logarithmic over whole decades, or from 0.
type scale struct {
	from, to float64 // the exponents of the decades; the numbers themselves if it is linear
	linear   bool
}

// around is a scale for these numbers. On a logarithmic one, those of 0 and below are shown at its start.
func around(numbers []float64, linear bool) scale {
	if linear {
		return scale{to: niceStep(slices.Max(append(numbers, 1e-9))) * 5, linear: true}
	}
	s := scale{from: math.Inf(1), to: math.Inf(-1)}
	for _, v := range numbers {
		if v > 0 {
			s.from, s.to = min(s.from, math.Floor(math.Log10(v)+1e-9)), max(s.to, math.Ceil(math.Log10(v)-1e-9))
		}
	}
	if math.IsInf(s.from, 1) {
		return scale{from: 0, to: 1}
	}
	if s.to <= s.from {
		s.to = s.from + 1
	}
	return s
}

// niceStep is the least of 1, 2, 2.5, 5 times a power of ten that reaches most in 5 steps.
func niceStep(most float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if 5*m*decade >= most*(1-1e-9) {
			return m * decade
		}
	}
	return 10 * decade
}

func (s scale) at(v float64) float64 {
	switch {
	case s.linear:
		return v / s.to
	case v <= 0:
		return 0
	}
	return (math.Log10(v) - s.from) / (s.to - s.from)
}

type tick struct{ At, Text string }

func (s scale) ticks(u unit) (ticks []tick) {
	for _, v := range s.steps() {
		ticks = append(ticks, tick{percent(s.at(v)), u.write(v)})
	}
	return ticks
}

// steps are the numbers to be written on the axis: fifths; or the decades, or some of them if there are many.
func (s scale) steps() (numbers []float64) {
	if s.linear {
		for i := range 6 {
			numbers = append(numbers, s.to/5*float64(i))
		}
		return numbers
	}
	for e := s.from; e <= s.to; e += math.Ceil((s.to - s.from) / 6) {
		numbers = append(numbers, math.Pow(10, e))
	}
	return numbers
}

// dotChart has a row for each contender, and a dot for each figure that is a time.
type dotChart struct {
	Ticks []tick
	Keys  []string // what the dots are, in the order of their classes d0, d1, ...
	Rows  []dotRow
}

type dotRow struct {
	contender
	Text       string // empty, or why there is no dot
	Low, Range string // a line from the first to the last dot
	Dots       []dot
}

type dot struct {
	Figure   int
	At       string
	Text     string
	MoreThan bool
}

func (c *comparison) dots(w *view) *dotChart {
	chart := &dotChart{}
	var figures []figure
	var numbers []float64
	for _, f := range w.figures {
		if f.unit != milliseconds {
			continue
		}
		figures, chart.Keys = append(figures, f), append(chart.Keys, f.title)
		for _, each := range c.contenders {
			if v := f.over(c.measured(w, each.ID, 0)); v.known() {
				numbers = append(numbers, v.Median)
			}
		}
	}
	s := around(numbers, false)
	chart.Ticks = s.ticks(milliseconds)
	for _, each := range c.ranked(w) {
		r := dotRow{contender: each}
		low, high := math.Inf(1), math.Inf(-1)
		for i, f := range figures {
			v := f.over(c.measured(w, each.ID, 0))
			if !v.known() {
				continue
			}
			at := s.at(v.Median)
			low, high = min(low, at), max(high, at)
			r.Dots = append(r.Dots, dot{i, percent(at), fmt.Sprintf("%s %s", f.title, f.text(v)), v.MoreThan})
			if r.Text != "" {
				r.Text += " · "
			}
			r.Text += f.text(v)
		}
		if len(r.Dots) == 0 {
			r.Text = "not measured"
		} else {
			r.Low, r.Range = percent(low), percent(high-low)
		}
		chart.Rows = append(chart.Rows, r)
	}
	return chart
}

// lineCharts are several plots with the same contenders.
type lineCharts struct {
	Keys   []contender
	Charts []lineChart
}

type lineChart struct {
	Title, X       string
	Linear         bool // upwards
	XTicks, YTicks []tick
	Series         []series
}

type series struct {
	contender
	Points  string // of the line: x and y from 0 to 100
	Ranges  string // of the spread: a path
	Markers []marker
}

type marker struct {
	X, Y, Text string
	Behind     bool
}

func (c *comparison) lines(w *view) *lineCharts {
	all := &lineCharts{Keys: c.contenders}
	steps := c.steps(w)
	positive := steps[:0:0]
	for _, x := range steps {
		if x > 0 {
			positive = append(positive, x)
		}
	}
	if len(positive) == 0 {
		return all
	}
	first, last := positive[0], positive[len(positive)-1]
	across := func(x float64) float64 { // from the first step to the last, with a margin, and logarithmic
		if first == last {
			return 0.5
		}
		return 0.04 + 0.92*math.Log(x/first)/math.Log(last/first)
	}
	for _, f := range w.figures {
		chart := lineChart{Title: f.title, X: w.x.title, Linear: f.higher}
		room := 0.0
		for _, x := range positive {
			if at := across(x); at >= room {
				chart.XTicks = append(chart.XTicks, tick{percent(at), digits(x)})
				room = at + 0.13
			}
		}
		var numbers []float64
		for _, each := range c.contenders {
			for _, x := range positive {
				if v := f.over(c.measured(w, each.ID, x)); v.known() {
					numbers = append(numbers, v.Median, v.Low, v.High)
				}
			}
		}
		s := around(numbers, f.higher)
		chart.YTicks = s.ticks(f.unit)
		for _, each := range c.contenders {
			one := series{contender: each}
			var points, ranges []string
			for _, x := range positive {
				v := f.over(c.measured(w, each.ID, x))
				if !v.known() {
					continue
				}
				at, up := percent(across(x)), percent(1-s.at(v.Median))
				points = append(points, at+","+up)
				if v.Rounds > 1 && !v.MoreThan {
					ranges = append(ranges, fmt.Sprintf("M%s %sV%s", at, percent(1-s.at(v.Low)), percent(1-s.at(v.High))))
				}
				text := fmt.Sprintf("%s, %s %s: %s", each.Name, digits(x), w.x.title, f.said(v))
				behind := c.fellBehind(w, each.ID, x)
				if behind {
					text += ", fell behind"
				}
				one.Markers = append(one.Markers, marker{at, up, text, behind})
			}
			one.Points, one.Ranges = strings.Join(points, " "), strings.Join(ranges, "")
			if len(points) > 0 {
				chart.Series = append(chart.Series, one)
			}
		}
		all.Charts = append(all.Charts, chart)
	}
	return all
}
