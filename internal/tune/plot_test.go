package tune

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func trialsOf(values map[Setting][]float64, of func(float64) Sample) (trials []Trial) {
	for s, vs := range values {
		for _, v := range vs {
			trials = append(trials, Trial{Setting: s, Sample: of(v)})
		}
	}
	return trials
}

func TestThePlotShowsTheBestFirst(t *testing.T) {
	fast, slow := Setting{Concurrency: 200, Processes: 1}, Setting{Concurrency: 20, Processes: 1}
	values := map[Setting][]float64{Default: {100, 110, 90}, fast: {200, 190}, slow: {50}}
	var b strings.Builder
	if err := NewPlot("it", Goal{}, trialsOf(values, func(v float64) Sample { return Sample{Throughput: v} }), fast).Text(&b); err != nil {
		t.Fatal(err)
	}
	want := `jobs/s, median of the trials, linear scale
  concurrency 200 |#############################  195 x2  recommended
  concurrency 100 |###############                100 x3  default
  concurrency 20  |########                       50 x1
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("with jobs a second (-want +got):\n%s", diff)
	}
	b.Reset()
	values = map[Setting][]float64{Default: {2}, slow: {200}}
	if err := NewPlot("it", Goal{Rate: 10}, trialsOf(values, func(v float64) Sample { return Sample{P99: v} }), Default).Text(&b); err != nil {
		t.Fatal(err)
	}
	want = `ms (p99), less is better, median of the trials, logarithmic scale
  concurrency 100 |####                           2 x1  default, recommended
  concurrency 20  |############################## 200 x1
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("with p99 (-want +got):\n%s", diff)
	}
}

func TestEveryPlotIsWellFormedAndInsideItsFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := map[Setting][]float64{Default: {1}}
		for c := range rapid.IntRange(0, 60).Draw(t, "settings") {
			values[Setting{Concurrency: c, Processes: 1}] = rapid.SliceOfN(rapid.Float64Range(0, 1e6), 1, 5).Draw(t, "values")
		}
		goal := Goal{Rate: rapid.SampledFrom([]float64{0, 1}).Draw(t, "rate")}
		p := NewPlot(`<"&'`, goal, trialsOf(values, func(v float64) Sample { return Sample{Throughput: v, P99: v} }), Default)
		if len(p.Rows) > mostRows+1 {
			t.Fatalf("got %d rows", len(p.Rows))
		}
		for _, r := range p.Rows {
			for _, v := range append(r.Values, r.Median) {
				if place := p.bounds.place(v); !(place >= 0 && place <= 1) {
					t.Fatalf("got %v at %v of %+v, want it between 0 and 1", v, place, p.bounds)
				}
			}
		}
		var text, svg strings.Builder
		if err := errors.Join(p.Text(&text), p.SVG(&svg)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), "default") {
			t.Fatalf("got no default in\n%s", &text)
		}
		for d := xml.NewDecoder(strings.NewReader(svg.String())); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, &svg)
			}
		}
	})
}

func TestQuantilesLieBetweenTheValues(t *testing.T) {
	for _, test := range []struct {
		of   []float64
		q    float64
		want float64
	}{
		{nil, 0.5, 0}, {[]float64{7}, 0.9, 7}, {[]float64{3, 1}, 0.5, 2}, {[]float64{4, 1, 2, 3}, 0.5, 2.5}, {[]float64{1, 2, 3}, 1, 3}, {[]float64{1, 2, 3}, 0, 1},
	} {
		if got := Quantile(test.of, test.q); got != test.want {
			t.Errorf("got %v of %v at %v, want %v", got, test.of, test.q, test.want)
		}
	}
}
