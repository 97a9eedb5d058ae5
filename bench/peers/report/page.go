// The report as both pages have it: words and numbers, ready to be written.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

type page struct {
	Name, Raw   string // what the files' names begin with; where the results are
	Date        string
	Warnings    []string // what speaks against quoting these numbers at all
	Facts       []fact   // the machine, versions, command line
	Settings    []fact   // of the server
	Caveats     []string
	Sections    []section
	Contenders  []described
	Absent      []result.Absent
	Notes       []string
	Plots       []image
	comparison  *comparison
	RoundsWords string
}

type fact struct{ Name, Value string }

type image struct{ File, Alt string }

// described is a contender with where its settings come from.
type described struct {
	contender
	Link string // Source, if that is an address
}

var address = regexp.MustCompile(`^https://[\w.-]+(/[\w./#?=%+-]*)?$`)

type section struct {
	ID, Title, About, Verdict string
	Tables                    []table
	Chart                     any // *barChart, *dotChart or *lineCharts; nil: none
}

// table has a first column of words, and numbers in the others.
type table struct {
	Title  string // empty: that of the section says it
	Header []string
	Rows   []row
}

type row struct {
	contender
	Cells []cell
}

type cell struct {
	Text string
	Note string // smaller, below: the spread
}

func newPage(c *comparison, name, raw string) *page {
	p := &page{Name: name, Raw: raw, comparison: c, Absent: c.Absent, Date: c.Date.UTC().Format("2 January 2006, 15:04 UTC")}
	p.facts(c)
	p.caveats(c)
	for _, each := range c.contenders {
		d := described{contender: each}
		if address.MatchString(each.Source) {
			d.Link = each.Source
		}
		p.Contenders = append(p.Contenders, d)
	}
	for _, w := range views {
		if s, ok := c.section(w); ok {
			p.Sections = append(p.Sections, s)
		}
	}
	p.notes(c)
	return p
}

func (p *page) facts(c *comparison) {
	m := c.Machine
	cpus := fmt.Sprintf("%d CPUs", m.CPUs)
	if m.CPUs == 1 {
		cpus = "1 CPU"
	}
	p.Facts = append(p.Facts, fact{"Date", p.Date},
		fact{"Machine", strings.Join(slices.DeleteFunc([]string{
			cpus, m.Model, thousands(fmt.Sprint(m.MemoryMiB)) + " MiB of memory", m.OS + "/" + m.Arch,
		}, func(s string) bool { return s == "" || s == "/" }), ", ")})
	for _, name := range slices.Sorted(maps.Keys(c.Versions)) {
		p.Facts = append(p.Facts, fact{name, c.Versions[name]})
	}
	p.Facts = append(p.Facts, fact{"Command line", strings.Join(c.CommandLine, " ")})
	p.Facts = append(p.Facts, fact{"Took", fmt.Sprintf("%s s", digits(c.Seconds))})
	for _, name := range slices.Sorted(maps.Keys(c.Results.Settings)) {
		p.Settings = append(p.Settings, fact{name, c.Results.Settings[name]})
	}
}

func (p *page) caveats(c *comparison) {
	if c.Quick {
		p.Warnings = append(p.Warnings, "This was a shortened run (--quick): it shows that the comparison works, and has no figures to quote.")
	}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if v, ok := c.Results.Settings[name]; ok && v != "on" {
			p.Warnings = append(p.Warnings, fmt.Sprintf("The server ran with %s %s: these are no figures of a durable queue.", name, v))
		}
	}
	rounds := 0
	for _, m := range c.Measured {
		rounds = max(rounds, m.Round+1)
	}
	p.RoundsWords = fmt.Sprintf("%d rounds", rounds)
	if rounds == 1 {
		p.RoundsWords = "one round, so there is no spread"
	}
	p.Caveats = []string{
		fmt.Sprintf("The server, the workers and what puts the jobs shared the %d CPUs of one machine. What one of them does not need, another has: so ratios say more than jobs per second, and both may be others on a machine of yours.", c.Machine.CPUs),
		fmt.Sprintf("All contenders ran in turn in each of %s. A figure is the median over the rounds; below it is the least and the most.", p.RoundsWords),
		"Each product runs twice if its documentation has better settings for such work than its defaults. The settings are below, with what advises them.",
		"The jobs do nothing. The longer jobs work, the less it matters what a queue adds to them.",
		"The products do not promise the same. What a job's completion, a crash and a missed wake-up mean differs, and no number here says it.",
		"The plain baselines are written for this comparison, and are no products: they have no retries, no schedule, no crash to tell from a slow job. They show what is left to win.",
	}
	if us, ok := c.reference(); ok {
		p.Caveats = append(p.Caveats, fmt.Sprintf("A number with × is the ratio to %s.", us.Name))
	}
}

// notes are what the runner remarked about single runs.
func (p *page) notes(c *comparison) {
	for _, m := range sorted(c.Measured) {
		if m.Note == "" {
			continue
		}
		where := m.Workload
		if m.Processes > 1 {
			where += fmt.Sprintf(", %d processes", m.Processes)
		}
		if m.Offered > 0 {
			where += fmt.Sprintf(", %s jobs/s offered", digits(m.Offered))
		}
		note := fmt.Sprintf("%s, %s: %s", c.name(m.Contender), where, m.Note)
		if !slices.Contains(p.Notes, note) {
			p.Notes = append(p.Notes, note)
		}
	}
}

func (c *comparison) name(id string) string {
	for _, each := range c.contenders {
		if each.ID == id {
			return each.Name
		}
	}
	return id
}

// section is a view with its tables, unless nothing of its workload was run.
func (c *comparison) section(w *view) (section, bool) {
	if !slices.ContainsFunc(c.Measured, func(m result.Measurement) bool { return m.Workload == w.workload }) {
		return section{}, false
	}
	s := section{ID: w.id, Title: w.title, About: w.about, Verdict: c.verdict(w)}
	if w.x == nil {
		s.Tables = []table{c.table(w)}
	} else {
		for _, f := range w.figures {
			s.Tables = append(s.Tables, c.matrix(w, f))
		}
	}
	switch w.shape {
	case bars:
		s.Chart = c.bars(w)
	case dots:
		s.Chart = c.dots(w)
	case lines:
		s.Chart = c.lines(w)
	}
	return s, true
}

// table has a row for each contender, the best first, and a column for each figure.
func (c *comparison) table(w *view) table {
	t := table{Header: []string{""}}
	us, compared := c.reference()
	for i, f := range w.figures {
		t.Header = append(t.Header, f.title)
		if i == 0 && compared {
			t.Header = append(t.Header, "×")
		}
	}
	for _, each := range c.ranked(w) {
		r := row{contender: each}
		for i, f := range w.figures {
			v := f.over(c.measured(w, each.ID, 0))
			r.Cells = append(r.Cells, cell{f.text(v), f.spread(v)})
			if i == 0 && compared {
				r.Cells = append(r.Cells, cell{Text: cmp.Or(times(v, f.over(c.measured(w, us.ID, 0))), notMeasured)})
			}
		}
		t.Rows = append(t.Rows, r)
	}
	return t
}

// ranked has the contenders in the order of the main figure, the best first; last are those without.
func (c *comparison) ranked(w *view) []contender {
	f := w.main()
	return slices.SortedStableFunc(slices.Values(c.contenders), func(a, b contender) int {
		va, vb := f.over(c.measured(w, a.ID, 0)), f.over(c.measured(w, b.ID, 0))
		switch {
		case f.better(va, vb):
			return -1
		case f.better(vb, va):
			return 1
		}
		return 0
	})
}

// matrix has a row for each contender and a column for each step of the axis.
func (c *comparison) matrix(w *view, f figure) table {
	t := table{Title: f.title, Header: []string{w.x.title}}
	steps := c.steps(w)
	for _, x := range steps {
		t.Header = append(t.Header, digits(x))
	}
	for _, each := range c.contenders {
		r := row{contender: each}
		for _, x := range steps {
			v := f.over(c.measured(w, each.ID, x))
			text := f.text(v)
			if v.known() && c.fellBehind(w, each.ID, x) {
				text += " *"
			}
			r.Cells = append(r.Cells, cell{text, f.spread(v)})
		}
		t.Rows = append(t.Rows, r)
	}
	return t
}

func (t table) Behind() bool {
	for _, r := range t.Rows {
		for _, c := range r.Cells {
			if strings.HasSuffix(c.Text, " *") {
				return true
			}
		}
	}
	return false
}
