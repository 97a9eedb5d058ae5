// What was measured, a row for each setting: as text, and as SVG.

package tune

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/template"
)

// Plot shows trials by what counts for the goal: jobs a second, or the p99.
type Plot struct {
	Title  string
	Unit   string
	Rows   []Row // the best first
	bounds bounds
}

// Row is the trials of a setting.
type Row struct {
	Setting Setting
	Mark    string // default, recommended, or both
	Values  []float64
	Median  float64
}

// bounds are those of the scale, which is logarithmic if they are far apart.
type bounds struct {
	low, high float64
	log       bool
}

const (
	mostRows = 24
	farApart = 20.0 // times
)

// NewPlot has all settings that were tried, or, of many, the best and the default.
func NewPlot(title string, goal Goal, trials []Trial, recommended Setting) *Plot {
	p := &Plot{Title: title, Unit: "jobs/s"}
	value := func(s Sample) float64 { return s.Throughput }
	order := func(a, b Row) int { return cmp.Compare(b.Median, a.Median) }
	if goal.Rate > 0 {
		p.Unit = "ms (p99), less is better"
		value = func(s Sample) float64 { return s.P99 }
		order = func(a, b Row) int { return cmp.Compare(a.Median, b.Median) }
	}
	values := map[Setting][]float64{}
	for _, t := range trials {
		values[t.Setting] = append(values[t.Setting], value(t.Sample))
	}
	p.bounds.low = math.Inf(1)
	for s, v := range values {
		mark := ""
		switch {
		case s == recommended && recommended == Default:
			mark = "default, recommended"
		case s == Default:
			mark = "default"
		case s == recommended:
			mark = "recommended"
		}
		p.Rows = append(p.Rows, Row{s, mark, v, median(v)})
	}
	slices.SortFunc(p.Rows, func(a, b Row) int { return cmp.Or(order(a, b), simplicity(a.Setting, b.Setting)) })
	kept := 0
	p.Rows = slices.DeleteFunc(p.Rows, func(r Row) bool {
		kept++
		return kept > mostRows && r.Mark == ""
	})
	for _, r := range p.Rows {
		p.bounds.low, p.bounds.high = min(p.bounds.low, slices.Min(r.Values)), max(p.bounds.high, slices.Max(r.Values))
	}
	p.bounds.log = p.bounds.low > 0 && p.bounds.high > farApart*p.bounds.low
	if !p.bounds.log {
		p.bounds.low = 0
	} else {
		p.bounds.low = max(p.bounds.low/2, p.bounds.high/1e6) // so that the smallest is to be seen, unless it is next to nothing
	}
	return p
}

func median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile is one of values that need not be sorted, between them where there is none; 0 of none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	return sorted[i] + (at-float64(i))*(sorted[min(i+1, len(sorted)-1)]-sorted[i])
}

// place is where a value is on the scale, from 0 to 1.
func (b bounds) place(v float64) float64 {
	switch {
	case b.high <= b.low:
		return 0
	case b.log:
		return math.Log(max(v, b.low)/b.low) / math.Log(b.high/b.low)
	}
	return (v - b.low) / (b.high - b.low)
}

// Scale names it.
func (p *Plot) Scale() string {
	if p.bounds.log {
		return "logarithmic"
	}
	return "linear"
}

const barWidth = 30

// Text writes the plot for a terminal.
func (p *Plot) Text(to io.Writer) error {
	names := 0
	for _, r := range p.Rows {
		names = max(names, len(r.Setting.String()))
	}
	if _, err := fmt.Fprintf(to, "%s, median of the trials, %s scale\n", p.Unit, p.Scale()); err != nil {
		return err
	}
	for _, r := range p.Rows {
		bar := strings.Repeat("#", int(math.Round(barWidth*p.bounds.place(r.Median))))
		line := fmt.Sprintf("  %-*s |%-*s %s x%d", names, r.Setting.String(), barWidth, bar, Number(r.Median), len(r.Values))
		if r.Mark != "" {
			line += "  " + r.Mark
		}
		if _, err := fmt.Fprintln(to, line); err != nil {
			return err
		}
	}
	return nil
}

// Number has three digits, or all before the point.
func Number(v float64) string {
	if math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// Sizes in the SVG, in pixels.
const (
	svgNames, svgBars, svgMarks = 300, 400, 200
	svgTop, svgRow              = 60, 22
)

type picture struct {
	*Plot
	Width, Height int
	Lines         []line
}

type line struct {
	Row
	Y, Bar float64 // the middle; the length
	Dots   []float64
	Fill   string
}

var asSVG = template.Must(template.New("SVG").Funcs(template.FuncMap{
	"number": Number,
	"px":     func(v ...float64) string { return fmt.Sprintf("%.1f", sum(v)) },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="12">
<title>{{html .Title}}</title>
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="20" font-size="14">{{html .Title}}</text>
<text x="10" y="40" fill="#555">{{html .Unit}}, {{.Scale}} scale; a bar is the median, a dot is a trial</text>
{{range .Lines}}{{$y := .Y}}<g fill="{{.Fill}}">
<text x="290" y="{{px $y 4}}" text-anchor="end" fill="black">{{html .Setting.String}}</text>
<rect x="300" y="{{px $y -7}}" width="{{px .Bar}}" height="14" fill-opacity="0.4"/>
{{range .Dots}}<circle cx="{{px 300 .}}" cy="{{px $y}}" r="2.5"/>
{{end}}<text x="710" y="{{px $y 4}}" fill="black">{{number .Median}}{{if .Mark}} ({{html .Mark}}){{end}}</text>
</g>
{{end}}</svg>
`))

func sum(values []float64) (s float64) {
	for _, v := range values {
		s += v
	}
	return s
}

// SVG writes the plot as a file of its own.
func (p *Plot) SVG(to io.Writer) error {
	all := picture{Plot: p, Width: svgNames + svgBars + svgMarks, Height: svgTop + svgRow*len(p.Rows) + svgRow}
	for i, r := range p.Rows {
		l := line{Row: r, Y: float64(svgTop + svgRow*i + svgRow/2), Bar: svgBars * p.bounds.place(r.Median), Fill: "#777"}
		if r.Mark != "" {
			l.Fill = "#06c"
		}
		for _, v := range r.Values {
			l.Dots = append(l.Dots, svgBars*p.bounds.place(v))
		}
		all.Lines = append(all.Lines, l)
	}
	return asSVG.Execute(to, all)
}
