// Package tune looks for the settings of a dispatcher that suit some jobs best, and says what it has found. It measures
// nothing itself: [Search] is given a function for that.
//
//	search.go    which settings are tried, and in which order
//	race.go      settings beside one another, until it is clear which is better
//	interval.go  how sure that is
//	plot.go      what was measured, as text and as SVG
//	recipe.go    what to write into a configuration or a program
//	advice.go    what could be set at the server
package tune

import (
	"cmp"
	"fmt"
	"strconv"
)

// Setting is one way to run dispatchers. Only what they have options for is in it: how many jobs are claimed at a
// time follows from Concurrency and Prefetch, and how long a busy queue is looked at before it sleeps is fixed.
type Setting struct {
	Concurrency int `json:"concurrency"` // handlers at once in each process
	Prefetch    int `json:"prefetch"`    // most jobs held in reserve; 0: as the handling rate says; -1: none
	Processes   int `json:"processes"`
	Connections int `json:"connections"` // of each process's pool at most; 0: pgxpool's default
}

// Default is what dispatchers do when nothing is set.
var Default = Setting{Concurrency: 100, Processes: 1}

func (s Setting) String() string {
	text := fmt.Sprintf("concurrency %d", s.Concurrency)
	switch {
	case s.Prefetch < 0:
		text += ", no prefetch"
	case s.Prefetch > 0:
		text += ", prefetch " + strconv.Itoa(s.Prefetch)
	}
	if s.Processes > 1 {
		text += fmt.Sprintf(", %d processes", s.Processes)
	}
	if s.Connections > 0 {
		text += fmt.Sprintf(", pool of %d", s.Connections)
	}
	return text
}

// simplicity orders settings: the fewer things are not as they are by default, the simpler; then, the less of
// everything. Of settings that do equally well the simplest is recommended.
func simplicity(a, b Setting) int {
	return cmp.Or(
		cmp.Compare(a.unusual(), b.unusual()),
		cmp.Compare(a.Processes, b.Processes),
		cmp.Compare(a.Concurrency, b.Concurrency),
		cmp.Compare(a.Connections, b.Connections),
		cmp.Compare(a.Prefetch, b.Prefetch))
}

// unusual is how many fields differ from the default.
func (s Setting) unusual() (n int) {
	for _, a := range axes {
		if *a(&s) != *a(new(Default)) {
			n++
		}
	}
	return n
}

// field is one of a setting.
type field func(*Setting) *int

var axes = []field{concurrency, processes, prefetch, connections}

func concurrency(s *Setting) *int { return &s.Concurrency }
func processes(s *Setting) *int   { return &s.Processes }
func prefetch(s *Setting) *int    { return &s.Prefetch }
func connections(s *Setting) *int { return &s.Connections }

// Axis is something that is searched, and the values to try, ascending.
type Axis struct {
	Name   string
	Values []int
	field  field
}

// Axes are all there are, with concurrency up to a bound. The first ones matter most.
func Axes(mostConcurrency int) []Axis {
	var ladder []int
	for _, n := range []int{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000} {
		if n <= mostConcurrency {
			ladder = append(ladder, n)
		}
	}
	return []Axis{
		{"concurrency", ladder, concurrency},
		{"processes", []int{1, 2, 4}, processes},
		{"prefetch", []int{-1, 0, 50, 500}, prefetch},
		{"connections", []int{0, 2, 8}, connections},
	}
}

// Sample is what came of one trial.
type Sample struct {
	Throughput float64 `json:"jobs_per_second"` // jobs run
	P50        float64 `json:"p50_ms"`          // from the moment of a put until its handler was entered
	P99        float64 `json:"p99_ms"`
	KeptUp     bool    `json:"kept_up"` // all that was offered has been run, soon after
}
