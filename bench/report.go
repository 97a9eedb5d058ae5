// What a benchmark reports: figures, their floor, and the targets for them.

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is the result of a benchmark. As JSON, keys are only ever added.
type Report struct {
	Bench       string            `json:"bench"`
	CommandLine string            `json:"command_line"`
	Versions    Versions          `json:"versions"`
	Settings    map[string]string `json:"server_settings"`
	Machine     Machine           `json:"machine"`
	Scale       reportedScale     `json:"scale"`
	Figures     *Figures          `json:"figures"`
	Floor       *Figures          `json:"floor"`
	Targets     map[string]Target `json:"target"` // by figure
	OK          map[string]bool   `json:"ok"`     // by figure
}

// Versions are of what takes part.
type Versions struct {
	Go         string `json:"go"`
	PostgreSQL string `json:"postgresql"`
	PQDispatch string `json:"pq_dispatch"`
}

// Machine is the one that this process runs on.
type Machine struct {
	CPUs int    `json:"cpus"`
	OS   string `json:"os"`
	Arch string `json:"arch"`
}

type reportedScale struct {
	Jobs            int     `json:"jobs,omitempty"`
	DurationSeconds float64 `json:"duration_seconds,omitempty"`
	Rate            int     `json:"rate,omitempty"`
	Rounds          int     `json:"rounds"`
	Embedded        bool    `json:"embedded"` // the server was started for it
}

// Target is a bound of a figure.
type Target struct {
	AtLeast *float64 `json:"at_least,omitempty"`
	AtMost  *float64 `json:"at_most,omitempty"`
	Promise bool     `json:"promise"` // not only a matter of speed
}

func (t Target) met(v float64) bool {
	return (t.AtLeast == nil || v >= *t.AtLeast) && (t.AtMost == nil || v <= *t.AtMost)
}

func (t Target) String() string {
	if t.AtLeast != nil {
		return "at least " + number(*t.AtLeast)
	}
	return "at most " + number(*t.AtMost)
}

// Figures are named numbers. One that is added several times, round by round, is their median.
type Figures struct {
	names   []string // in the order in which they came
	samples map[string][]float64
}

func newFigures() *Figures { return &Figures{samples: map[string][]float64{}} }

// add leaves out what could not be measured.
func (f *Figures) add(name string, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	if f.samples[name] == nil {
		f.names = append(f.names, name)
	}
	f.samples[name] = append(f.samples[name], v)
}

func (f *Figures) get(name string) (float64, bool) {
	samples := f.samples[name]
	return median(samples), len(samples) > 0
}

func (f *Figures) medians() map[string]float64 {
	m := map[string]float64{}
	for _, name := range f.names {
		m[name], _ = f.get(name)
	}
	return m
}

// MarshalJSON writes an object with the medians.
func (f *Figures) MarshalJSON() ([]byte, error) { return json.Marshal(f.medians()) }

// median is 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// judge compares the figures with their targets. A target whose figure was not measured is not met.
func (r *Report) judge() {
	for name, target := range r.Targets {
		v, measured := r.Figures.get(name)
		r.OK[name] = measured && target.met(v)
	}
}

// broken is an error that names the promises that were not kept.
func (r *Report) broken() error {
	var broken []string
	for _, name := range r.Figures.names {
		if target, ok := r.Targets[name]; ok && target.Promise && !r.OK[name] {
			v, _ := r.Figures.get(name)
			broken = append(broken, fmt.Sprintf("%s is %s, and has to be %v", name, number(v), target))
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrBroken, strings.Join(broken, "; "))
}

func (r *Report) print(o Options) error {
	r.judge()
	if o.JSON {
		return json.NewEncoder(o.Stdout).Encode(r)
	}
	return r.table(o.Stdout)
}

func (r *Report) table(to io.Writer) error {
	server := "a given server"
	if r.Scale.Embedded {
		server = "started for this"
	}
	var settings []string
	for _, name := range shownSettings {
		settings = append(settings, name+" "+r.Settings[name])
	}
	fmt.Fprintf(to, "%s\n", r.CommandLine)
	fmt.Fprintf(to, "pq-dispatch %s, %s, PostgreSQL %s (%s) with %s; %d CPUs\n\n",
		r.Versions.PQDispatch, r.Versions.Go, r.Versions.PostgreSQL, server, strings.Join(settings, ", "), r.Machine.CPUs)

	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, r.Bench+"\tfloor\tmeasured\ttarget\t\t")
	names := slices.Clone(r.Figures.names)
	for _, name := range r.Floor.names {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		var target, verdict string
		if t, ok := r.Targets[name]; ok {
			target, verdict = t.String(), "missed"
			if r.OK[name] {
				verdict = "ok"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", name, cell(r.Floor, name), cell(r.Figures, name), target, verdict)
	}
	return w.Flush()
}

func cell(f *Figures, name string) string {
	v, ok := f.get(name)
	if !ok {
		return ""
	}
	return number(v)
}

// number has as many digits as tell something.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
