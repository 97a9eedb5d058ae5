// What the view looks like: lines of text, each with one style. From 40 columns and 10 rows.

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// line is one of the frame.
type line struct {
	text string
	look *lipgloss.Style // nil: plain
}

var (
	bold     = new(lipgloss.NewStyle().Bold(true))
	faint    = new(lipgloss.NewStyle().Faint(true))
	selected = new(lipgloss.NewStyle().Reverse(true))
	warning  = new(lipgloss.NewStyle().Foreground(lipgloss.Color("3")))
	alarm    = new(lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true))
)

const (
	minWidth, minHeight = 40, 10
	headLines           = 3 // title, rates, totals
	footLines           = 2 // what was done or asked, keys
)

// room is how many rows of a table the frame has, below its titles.
func (m *model) room() int {
	extra := 1 // the titles
	if m.subject() == jobsView {
		extra = 2 // and the states
	}
	return max(1, m.height-headLines-footLines-extra)
}

func (m *model) render() string {
	var b strings.Builder
	for i, l := range m.frame() {
		if i > 0 {
			b.WriteByte('\n')
		}
		text := ansi.Truncate(l.text, m.width, "…")
		if l.look == selected {
			text = pad(text, m.width, true)
		}
		if l.look != nil {
			text = l.look.Render(text)
		}
		b.WriteString(text)
	}
	return b.String()
}

// frame is all of the screen, from its first line to its last.
func (m *model) frame() []line {
	if m.width < minWidth || m.height < minHeight {
		return []line{{text: fmt.Sprintf("%dx%d is too small", m.width, m.height)}, {text: fmt.Sprintf("needs %dx%d", minWidth, minHeight)}, {text: "q quits"}}
	}
	lines := m.head()
	var keys string
	switch m.view {
	case queuesView:
		lines = append(lines, m.queues(m.first, m.room())...)
		keys = "↑↓ move enter jobs P pause ? help q quit"
	case dispatchersView:
		lines = append(lines, m.dispatchers(m.room())...)
		keys = "F1 queues ? help q back"
	case jobsView:
		lines = append(lines, m.jobs()...)
		keys = "←→ state n/p page P pause ? help q back"
	case helpView:
		lines = help()
		keys = "q back"
	}
	body := m.height - footLines
	lines = lines[:min(len(lines), body)]
	for len(lines) < body {
		lines = append(lines, line{})
	}
	return append(lines, m.status(), line{keys, faint})
}

// report is what one look has seen, from top to bottom, for a printer.
func (m *model) report() []line {
	lines := append(m.head(), line{})
	lines = append(lines, m.queues(-1, len(m.seen.Queues))...)
	lines = append(lines, line{})
	return append(lines, m.dispatchers(len(m.seen.Dispatchers))...)
}

// head says how all queues are.
func (m *model) head() []line {
	title := fmt.Sprintf("%s in %s", printable(strings.ReplaceAll(m.seen.Table, `"`, "")), printable(m.seen.Database))
	if m.backend != nil {
		title = fmt.Sprintf("%s  %s  every %v", m.seen.At.Format(time.TimeOnly), title, m.interval)
	}
	speed := "put -  ended -  put back -"
	if put, ended, putBack, ok := m.rates.perSecond(); ok {
		speed = fmt.Sprintf("put %s/s  ended %s/s  put back %s/s", perSecond(put), perSecond(ended), perSecond(putBack))
	}
	var all store.Counts
	more := map[string]bool{}
	for _, o := range m.seen.Queues {
		all.Ready += o.Ready
		all.Scheduled += o.Scheduled
		all.Running += o.Running
		all.SetAside += o.SetAside
		all.Oldest = max(all.Oldest, o.Oldest)
		for _, name := range o.AtLeast {
			more[name] = true
		}
	}
	alive := 0
	for _, d := range m.seen.Dispatchers {
		if d.Alive {
			alive++
		}
	}
	totals := fmt.Sprintf("ready %s  running %d  oldest %s  dispatchers %d  scheduled %s  set aside %s",
		count(all.Ready, more["ready"]), all.Running, age(all.Oldest, all.Ready > 0), alive,
		count(all.Scheduled, more["scheduled"]), count(all.SetAside, more["set_aside"]))
	return []line{{title, bold}, {text: speed}, {text: totals}}
}

var queueColumns = []column{
	{"  QUEUE", 9, 0, true}, {"READY", 6, 1, false}, {"RUNNING", 7, 2, false}, {"OLDEST", 6, 2, false},
	{"SCHEDULED", 9, 5, false}, {"SET ASIDE", 9, 4, false}, {"TAKEN", 6, 6, false}, {"PAUSED", 6, 3, true},
}

// queues are so many rows of the table of queues, with the cursor; all of them and no cursor, if first is negative.
func (m *model) queues(first, room int) []line {
	cells := make([][]string, len(m.seen.Queues))
	for i, o := range m.seen.Queues {
		mark := "  "
		if i == m.row && first >= 0 {
			mark = "> "
		}
		more := func(name string) bool { return slices.Contains(o.AtLeast, name) }
		cells[i] = []string{
			mark + printable(o.Queue), count(o.Ready, more("ready")), strconv.Itoa(o.Running), age(o.Oldest, o.Ready > 0),
			count(o.Scheduled, more("scheduled")), count(o.SetAside, more("set_aside")), count(o.Taken, more("taken")), paused(o.Paused),
		}
	}
	return window(rows(queueColumns, m.width, cells), max(0, first), room, "no queue has a job", func(i int) *lipgloss.Style {
		switch o := m.seen.Queues[i]; {
		case i == m.row && first >= 0:
			return selected
		case o.Paused != nil:
			return warning
		}
		return nil
	})
}

var dispatcherColumns = []column{
	{"APPLICATION", 12, 0, true}, {"ID", 11, 4, false}, {"PROCESS", 7, 3, false}, {"JOBS", 6, 1, false}, {"BATCHES", 7, 5, false},
	{"OLDEST", 6, 2, false}, {"SINCE", 20, 6, true}, {"ADDRESS", 15, 3, true},
}

func (m *model) dispatchers(room int) []line {
	cells := make([][]string, len(m.seen.Dispatchers))
	for i, d := range m.seen.Dispatchers {
		pid, since := "dead", "-"
		if d.Alive {
			pid = strconv.Itoa(d.PID)
		}
		if !d.Since.IsZero() {
			since = d.Since.UTC().Format(time.RFC3339)
		}
		cells[i] = []string{
			cmp.Or(printable(d.Application), "-"), strconv.Itoa(int(d.ID)), pid, strconv.Itoa(d.Jobs), strconv.Itoa(d.Batches),
			age(d.Oldest, d.Batches > 0), since, cmp.Or(d.Address, "-"),
		}
	}
	return window(rows(dispatcherColumns, m.width, cells), 0, room, "no dispatcher is connected", func(i int) *lipgloss.Style {
		if !m.seen.Dispatchers[i].Alive {
			return alarm
		}
		return nil
	})
}

// window is the titles and so many rows of a table.
func window(texts []string, first, room int, none string, look func(row int) *lipgloss.Style) []line {
	lines := []line{{texts[0], bold}}
	if len(texts) == 1 {
		return append(lines, line{none, faint})
	}
	for i, text := range texts[1:] {
		if i >= first && i < first+room {
			lines = append(lines, line{text, look(i)})
		}
	}
	return lines
}

var jobColumns = []column{
	{"ID", 8, 0, true}, {"TASK", 14, 3, true}, {"ATTEMPT", 7, 2, false}, {"WHEN", 20, 1, true}, {"LAST ERROR", 10, 4, true},
}

// jobs are a page of those of one queue in one state.
func (m *model) jobs() []line {
	states := make([]string, len(store.States))
	for i, s := range store.States {
		states[i] = string(s)
		if s == m.list.state {
			states[i] = "[" + states[i] + "]"
		}
	}
	// In a narrow terminal the one that is shown has to be in sight.
	first := slices.Index(store.States, m.list.state)
	if ansi.StringWidth(strings.Join(states, " ")) <= m.width {
		first = 0
	}
	title := line{printable(m.list.queue), bold}
	if o := m.find(m.list.queue); o != nil && o.Paused != nil {
		title.text, title.look = title.text+" (paused)", warning
	}
	title.text += ": " + strings.Join(states[first:], " ")
	lines := []line{title}
	if !m.listed {
		return append(lines, line{"...", faint})
	}
	cells := make([][]string, len(m.page.Jobs))
	for i, job := range m.page.Jobs {
		when := job.EnqueuedAt
		switch {
		case !job.DequeuedAt.IsZero():
			when = job.DequeuedAt
		case !job.ScheduleAt.IsZero():
			when = job.ScheduleAt
		}
		attempt := strconv.Itoa(job.Attempt)
		if job.MaxAttempts > 0 {
			attempt += "/" + strconv.Itoa(job.MaxAttempts)
		}
		cells[i] = []string{
			strconv.FormatInt(job.ID, 10), cmp.Or(printable(job.Task), "-"), attempt, when.UTC().Format(time.RFC3339),
			printable(strings.Join(strings.Fields(job.LastError), " ")),
		}
	}
	lines = append(lines, window(rows(jobColumns, m.width, cells), 0, m.room(), "no such job", func(int) *lipgloss.Style { return nil })...)
	return lines
}

// status is what its user is asked, or what is wrong, or what was done.
func (m *model) status() line {
	switch {
	case m.asking != nil:
		return line{m.asking.String(), alarm}
	case m.err != nil:
		return line{fmt.Sprintf("no answer since %s: %s", m.lost.Format(time.TimeOnly), oneLine(m.err.Error())), alarm}
	case m.view == jobsView && m.page.Cut:
		return line{"the search went no further; n goes on", warning}
	}
	return line{oneLine(m.note), warning}
}

func help() []line {
	return []line{
		{"KEYS", bold},
		{text: "↑ ↓ k j    move     g G  first, last"},
		{text: "enter      the jobs of a queue"},
		{text: "← → h l    their state    n p  page"},
		{text: "P          pause a queue, or resume it"},
		{text: "F1 F2 tab  queues, dispatchers"},
		{text: "ctrl+l     draw again   ctrl+z suspend"},
		{text: "q esc      back, or quit  ctrl+c  quit"},
	}
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || printable(string(r)) != string(r) }), " ")
}

// count is a number, or a lower bound of one.
func count(n int, more bool) string {
	if more {
		return ">" + strconv.Itoa(n)
	}
	return strconv.Itoa(n)
}

func perSecond(rate float64) string {
	if rate > 0 && rate < 10 {
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return strconv.FormatFloat(rate, 'f', 0, 64)
}

// age is a duration in six columns.
func age(d time.Duration, known bool) string {
	whole := func(unit time.Duration) int { return int(d / unit) }
	switch {
	case !known:
		return "-"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", whole(time.Second))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", whole(time.Minute), whole(time.Second)%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", whole(time.Hour), whole(time.Minute)%60)
	}
	return fmt.Sprintf("%dd", whole(24*time.Hour))
}

func paused(p *store.Pause) string {
	switch {
	case p == nil:
		return "-"
	case p.Until.IsZero():
		return "yes"
	}
	return "until " + p.Until.UTC().Format(time.RFC3339)
}
