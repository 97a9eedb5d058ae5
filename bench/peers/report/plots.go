// The plots for the README, drawn by gonum on a white ground.

package main

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// drawing is one plot of the comparison.
type drawing struct {
	id, title string
	w         *view
	f         figure
	c         *comparison
	draw      func(*drawing) (*plot.Plot, []legendLine, error)
}

// plots are those that there is something to show for.
func plots(c *comparison) (all []*drawing) {
	for _, d := range []*drawing{
		{id: "throughput", title: "Jobs per second, one worker process", draw: (*drawing).bars},
		{id: "load", title: "Pick-up under load, p99", draw: (*drawing).lines},
		{id: "processes", title: "Jobs per second by worker processes", draw: (*drawing).lines},
		{id: "recovery", title: "From kill -9 until the job runs again", draw: (*drawing).bars},
	} {
		d.c, d.w = c, views[slices.IndexFunc(views, func(w *view) bool { return w.id == d.id })]
		d.f = d.w.main()
		if d.id == "load" {
			d.f = d.w.figures[2]
		}
		if slices.ContainsFunc(sorted(c.Measured), func(m result.Measurement) bool {
			return m.Workload == d.w.workload && d.f.over([]result.Measurement{m}).known()
		}) {
			all = append(all, d)
		}
	}
	return all
}

func (d *drawing) svg() ([]byte, error) {
	p, legend, err := d.draw(d)
	if err != nil {
		return nil, err
	}
	p.Title.Text = d.title
	p.Title.Padding = vg.Points(10)
	p.BackgroundColor = color.White
	width, height := vg.Points(720), vg.Points(340)
	if d.w.shape != lines {
		height = vg.Points(90 + 22*float64(len(d.c.contenders)))
	}
	below := vg.Length(0)
	if len(legend) > 0 {
		below = vg.Points(24 + 17*float64((len(legend)+1)/2))
	}
	height += below
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	area := draw.Crop(whole, vg.Points(8), vg.Points(-20), vg.Points(8), vg.Points(-8))
	if len(legend) > 0 { // below the plot, where it hides nothing
		drawLegend(draw.Crop(whole, vg.Points(20), vg.Points(-20), vg.Points(8), below-height), legend)
		area = draw.Crop(area, 0, 0, below, 0)
	}
	p.Draw(area)
	var to bytes.Buffer
	if _, err := canvas.WriteTo(&to); err != nil {
		return nil, err
	}
	return withWidths(to.Bytes()), nil
}

var svgText = regexp.MustCompile(`(<text )([^>]*font-family:)Liberation Sans(;[^>]*font-size:([0-9.]+)px[^>]*>)([^<]*)</text>`)

// withWidths writes into each text how wide it is. Where its font is not installed, the one that takes its place is
// squeezed to that, and does not run into its neighbours.
func withWidths(svg []byte) []byte {
	return svgText.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := svgText.FindSubmatch(element)
		size, err := strconv.ParseFloat(string(m[4]), 64)
		if err != nil {
			return element
		}
		face := font.DefaultCache.Lookup(sans(size), vg.Points(size))
		width := face.Width(html.UnescapeString(string(m[5])))
		return fmt.Appendf(nil, `%stextLength="%.2f" lengthAdjust="spacingAndGlyphs" %sLiberation Sans,Arial,Helvetica,sans-serif%s%s</text>`,
			m[1], width.Points(), m[2], m[3], m[5])
	})
}

func newPlot() *plot.Plot {
	p := plot.New()
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Font = sans(11)
	}
	p.Title.TextStyle.Font = sans(14)
	return p
}

func sans(size float64) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
}

// bars are lying ones, the best on top: from 0, or on a logarithmic scale from its start, where they are dots.
func (d *drawing) bars() (*plot.Plot, []legendLine, error) {
	p := newPlot()
	ranked := d.c.ranked(d.w)
	slices.Reverse(ranked) // the axis goes upwards
	names := make([]string, len(ranked))
	values := make([]value, len(ranked))
	var numbers []float64
	for i, each := range ranked {
		names[i], values[i] = each.Name, d.f.over(d.c.measured(d.w, each.ID, 0))
		if values[i].known() {
			numbers = append(numbers, values[i].Median, values[i].High)
		}
	}
	logarithmic := d.w.shape == dots
	if logarithmic {
		s := around(numbers, false)
		p.X.Scale = plot.LogScale{}
		p.X.Min, p.X.Max = math.Pow(10, s.from), math.Pow(10, s.to+0.6) // with room for the words
		p.X.Tick.Marker = written{s, d.f.unit}
	} else {
		p.X.Min, p.X.Max = 0, around(numbers, true).to*1.12 // with room for the words
		p.X.Tick.Marker = written{around(numbers, true), d.f.unit}
	}
	p.X.Label.Text = d.axisTitle(logarithmic)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(ranked))-0.4
	p.Y.Tick.Label.Font = sans(11)
	for i, each := range ranked {
		p.Add(&rowPlotter{at: float64(i), contender: each, value: values[i], text: d.f.text(values[i]), dot: logarithmic})
	}
	return p, nil, nil
}

func (d *drawing) axisTitle(logarithmic bool) string {
	title := d.f.title
	if logarithmic {
		title += ", logarithmic scale"
	}
	return title
}

// rowPlotter draws a bar, or a dot, with its spread and its number.
type rowPlotter struct {
	contender
	at    float64
	value value
	text  string
	dot   bool
}

// Plot implements plot.Plotter.
func (r *rowPlotter) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	words := draw.TextStyle{Color: color.Black, Font: sans(11), XAlign: draw.XLeft, YAlign: draw.YCenter, Handler: p.TextHandler}
	middle, start, end := y(r.at), x(p.X.Min), x(p.X.Min)
	ink := palette[grey]
	if r.ours() {
		ink = palette[0]
	}
	if r.value.known() {
		end = x(max(r.value.Median, p.X.Min))
		high := vg.Points(8)
		if r.dot {
			c.DrawGlyph(draw.GlyphStyle{Color: ink, Radius: vg.Points(5), Shape: glyph{marks[markOf(r)], r.Baseline}}, vg.Point{X: end, Y: middle})
		} else if corners := []vg.Point{{X: start, Y: middle - high}, {X: end, Y: middle - high}, {X: end, Y: middle + high}, {X: start, Y: middle + high}}; r.Baseline {
			c.FillPolygon(color.NRGBA{0xD8, 0xD8, 0xD8, 0xFF}, corners)
			c.StrokeLines(draw.LineStyle{Color: ink, Width: vg.Points(0.8)}, append(corners, corners[0]))
		} else {
			c.FillPolygon(ink, corners)
		}
		if r.value.Rounds > 1 && !r.value.MoreThan {
			low, high := x(max(r.value.Low, p.X.Min)), x(max(r.value.High, p.X.Min))
			c.StrokeLine2(draw.LineStyle{Color: color.Black, Width: vg.Points(1)}, low, middle, high, middle)
			end = max(end, high)
		}
	}
	if !r.value.known() {
		words.Color = palette[grey]
	}
	c.FillText(words, vg.Point{X: end + vg.Points(9), Y: middle + vg.Points(2)}, r.text)
}

// markOf is a circle for what was measured, and points to the right for what is more than that.
func markOf(r *rowPlotter) int {
	if r.value.MoreThan {
		return 6
	}
	return 0
}

// lines are the figure over the axis, of each contender, on logarithmic scales.
func (d *drawing) lines() (*plot.Plot, []legendLine, error) {
	p := newPlot()
	var steps, numbers []float64
	for _, x := range d.c.steps(d.w) {
		if x > 0 {
			steps = append(steps, x)
		}
	}
	var legend []legendLine
	for _, each := range d.c.contenders {
		var points plotter.XYs
		ink := palette[each.Colour]
		glyphs := draw.GlyphStyle{Color: ink, Radius: vg.Points(4), Shape: glyph{marks[each.Mark], each.Hollow}}
		line := draw.LineStyle{Color: ink, Width: vg.Points(1.5)}
		if each.ours() {
			line.Width = vg.Points(2.5)
		}
		if each.Hollow {
			line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
		}
		for _, x := range steps {
			v := d.f.over(d.c.measured(d.w, each.ID, x))
			if !v.known() || v.Median <= 0 {
				continue
			}
			points = append(points, plotter.XY{X: x, Y: v.Median})
			numbers = append(numbers, v.Median)
			if v.Rounds > 1 && v.Low > 0 {
				numbers = append(numbers, v.Low, v.High)
				spread, err := plotter.NewLine(plotter.XYs{{X: x, Y: v.Low}, {X: x, Y: v.High}})
				if err != nil {
					return nil, nil, err
				}
				spread.LineStyle = draw.LineStyle{Color: ink, Width: vg.Points(0.7)}
				p.Add(spread)
			}
		}
		legend = append(legend, legendLine{each, line, glyphs, len(points) == 0})
		if len(points) == 0 {
			continue
		}
		drawn, err := plotter.NewLine(points)
		if err != nil {
			return nil, nil, err
		}
		drawn.LineStyle = line
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return nil, nil, err
		}
		dots.GlyphStyle = glyphs
		p.Add(drawn, dots)
	}
	s := around(numbers, d.f.higher)
	p.Y.Min, p.Y.Max = s.from, s.to
	if !s.linear {
		p.Y.Scale, p.Y.Min, p.Y.Max = plot.LogScale{}, math.Pow(10, s.from), math.Pow(10, s.to)
	}
	p.Y.Tick.Marker = written{s, d.f.unit}
	p.Y.Label.Text = d.axisTitle(!s.linear)
	p.X.Label.Text = d.w.x.title
	if len(steps) > 0 {
		p.X.Scale, p.X.Min, p.X.Max = plot.LogScale{}, steps[0]/1.08, steps[len(steps)-1]*1.08
	}
	p.X.Tick.Marker = plot.TickerFunc(func(float64, float64) (ticks []plot.Tick) {
		for _, x := range steps {
			ticks = append(ticks, plot.Tick{Value: x, Label: digits(x)})
		}
		return ticks
	})
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.NRGBA{0xDD, 0xDD, 0xDD, 0xFF}
	p.Add(grid)
	return p, legend, nil
}

// written are the ticks of a scale.
type written struct {
	scale
	unit unit
}

// Ticks implements plot.Ticker.
func (w written) Ticks(float64, float64) (ticks []plot.Tick) {
	for _, v := range w.steps() {
		ticks = append(ticks, plot.Tick{Value: v, Label: w.unit.write(v)})
	}
	return ticks
}

// glyph is a mark as gonum draws it.
type glyph struct {
	mark
	hollow bool
}

// DrawGlyph implements draw.GlyphDrawer.
func (g glyph) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	var path vg.Path
	if g.points == nil {
		path.Move(vg.Point{X: at.X + style.Radius, Y: at.Y})
		path.Arc(at, style.Radius, 0, 2*math.Pi)
	}
	for i, corner := range g.points {
		point := vg.Point{X: at.X + style.Radius*vg.Length(corner[0]), Y: at.Y - style.Radius*vg.Length(corner[1])}
		if i == 0 {
			path.Move(point)
		} else {
			path.Line(point)
		}
	}
	path.Close()
	if g.hollow {
		c.SetColor(color.White)
	} else {
		c.SetColor(style.Color)
	}
	c.Fill(path)
	c.SetColor(style.Color)
	c.SetLineWidth(vg.Points(1.2))
	c.SetLineDash(nil, 0)
	c.Stroke(path)
}

// legendLine says what a line is.
type legendLine struct {
	contender
	line   draw.LineStyle
	glyph  draw.GlyphStyle
	absent bool // from this plot
}

// drawLegend has two columns.
func drawLegend(c draw.Canvas, entries []legendLine) {
	words := draw.TextStyle{Color: color.Black, Font: sans(10), XAlign: draw.XLeft, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
	half := (len(entries) + 1) / 2
	for i, entry := range entries {
		x := c.Min.X + (c.Max.X-c.Min.X)/2*vg.Length(i/half)
		y := c.Max.Y - vg.Points(17*float64(i%half)+10)
		c.StrokeLine2(entry.line, x, y, x+vg.Points(28), y)
		c.DrawGlyph(entry.glyph, vg.Point{X: x + vg.Points(14), Y: y})
		name := entry.Name
		if entry.absent {
			name += " (not measured)"
		}
		c.FillText(words, vg.Point{X: x + vg.Points(35), Y: y}, name)
	}
}
