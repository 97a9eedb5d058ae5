// What the view knows, and what keys and answers do to it. It is the model of a bubbletea program: one
// goroutine owns it, and all that takes time is a command whose answer is a message.

package top

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// view is one of the things to look at.
type view int

const (
	queuesView view = iota
	dispatchersView
	jobsView // of one queue
	helpView
)

// restShare is how much longer than a look took the view then leaves the database alone, at least: looks take
// a fifth of one session's time at most, however slow they are.
const restShare = 4

// backend is asked by the model; each answers with a message.
type backend interface {
	look(list *listing) tea.Cmd                  // looked
	setPaused(queue string, paused bool) tea.Cmd // acted
}

type model struct {
	backend       backend
	interval      time.Duration
	width, height int

	view, behind view   // behind: what the help covers
	queue        string // the cursor's: queues come and go
	row          int    // where it stands, and stays if its queue goes
	first        int    // row shown

	seen    *Glance // the last one; never nil
	rates   rates
	err     error     // of the last look; nil: it succeeded
	lost    time.Time // when looks began to fail
	looking bool
	again   bool // a look is wanted as soon as this one has ended
	tick    int  // the number of the tick that is waited for: earlier ones are void

	list   listing  // of jobsView
	pages  []string // the cursors of the pages before
	page   store.Page
	listed bool // page is of list

	asking *question
	note   string // what was last done
}

// question waits for a y.
type question struct {
	queue string
	pause bool
}

// due says that it is time for a look.
type due struct{ tick int }

const defaultInterval = 2 * time.Second

func newModel(b backend, interval time.Duration, first *Glance) *model {
	m := &model{backend: b, interval: cmp.Or(interval, defaultInterval), width: 80, height: 24}
	m.sees(first)
	return m
}

// Init waits for the next look; the first has been taken.
func (m *model) Init() tea.Cmd { return m.wait() }

// Update is bubbletea's.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		cmd = m.key(msg.String())
	case due:
		if msg.tick == m.tick {
			cmd = m.refresh()
		}
	case looked:
		cmd = m.looked(msg)
	case acted:
		m.note = msg.note
		if msg.err != nil {
			m.note = "failed: " + msg.err.Error()
		}
		cmd = m.refresh()
	}
	m.scroll()
	return m, cmd
}

// refresh looks now, or if a look is under way, after it.
func (m *model) refresh() tea.Cmd {
	if m.looking {
		m.again = true
		return nil
	}
	m.looking, m.again = true, false
	m.tick++
	if m.subject() == jobsView {
		m.list.limit = max(1, m.room())
		return m.backend.look(new(m.list))
	}
	return m.backend.look(nil)
}

// wait makes the next look due.
func (m *model) wait() tea.Cmd {
	m.tick++
	tick, rest := m.tick, max(m.interval, restShare*m.seen.Took)
	return tea.Tick(rest, func(time.Time) tea.Msg { return due{tick} })
}

func (m *model) looked(msg looked) tea.Cmd {
	m.looking = false
	if m.err = msg.err; m.err != nil {
		if m.lost.IsZero() {
			m.lost = time.Now()
		}
	} else {
		if !m.lost.IsZero() {
			m.note = "the database is back"
			m.lost = time.Time{}
		}
		m.sees(msg.seen)
		if msg.of != nil && msg.of.queue == m.list.queue && msg.of.state == m.list.state && msg.of.after == m.list.after {
			m.page, m.listed = msg.page, true
		}
	}
	if m.again {
		return m.refresh()
	}
	return m.wait()
}

func (m *model) sees(g *Glance) {
	m.seen = g
	m.rates.add(g.At, g.Counters)
	if i := slices.IndexFunc(g.Queues, func(o store.Overview) bool { return o.Queue == m.queue }); i >= 0 {
		m.row = i
	}
	m.moveTo(m.row)
}

// subject is what is looked at, under the help.
func (m *model) subject() view {
	if m.view == helpView {
		return m.behind
	}
	return m.view
}

func (m *model) key(key string) tea.Cmd {
	if key == "ctrl+c" {
		return tea.Quit
	}
	if q := m.asking; q != nil {
		m.asking = nil
		if key != "y" && key != "Y" {
			m.note = "nothing was done"
			return nil
		}
		return m.backend.setPaused(q.queue, q.pause)
	}
	m.note = ""
	switch key {
	case "q", "esc", "backspace":
		return m.back()
	case "ctrl+l":
		return tea.ClearScreen
	case "ctrl+z":
		return tea.Suspend
	case "?":
		if m.view != helpView {
			m.view, m.behind = helpView, m.view
		}
	case "f1", "1":
		m.view = queuesView
	case "f2", "2":
		m.view = dispatchersView
	case "tab":
		if m.view == dispatchersView {
			m.view = queuesView
		} else {
			m.view = dispatchersView
		}
	case "P":
		m.ask()
	default:
		switch m.view {
		case queuesView:
			return m.queuesKey(key)
		case jobsView:
			return m.jobsKey(key)
		}
	}
	return nil
}

// back leaves what is on top, at last the program.
func (m *model) back() tea.Cmd {
	switch m.view {
	case helpView:
		m.view = m.behind
	case jobsView, dispatchersView:
		m.view = queuesView
	default:
		return tea.Quit
	}
	return nil
}

// ask has its user confirm that the queue is to be paused, or resumed.
func (m *model) ask() {
	if m.view != queuesView && m.view != jobsView || m.selected() == nil {
		return
	}
	m.asking = &question{m.queue, m.selected().Paused == nil}
}

func (m *model) queuesKey(key string) tea.Cmd {
	last := len(m.seen.Queues) - 1
	switch key {
	case "up", "k":
		m.moveTo(m.row - 1)
	case "down", "j":
		m.moveTo(m.row + 1)
	case "pgup", "ctrl+b":
		m.moveTo(m.row - m.room())
	case "pgdown", "ctrl+f":
		m.moveTo(m.row + m.room())
	case "home", "g":
		m.moveTo(0)
	case "end", "G":
		m.moveTo(last)
	case "enter", "space":
		if m.selected() != nil {
			m.view, m.pages = jobsView, nil
			m.list = listing{queue: m.queue, state: store.Waiting}
			return m.relist()
		}
	}
	return nil
}

// relist fetches what is now to be listed.
func (m *model) relist() tea.Cmd {
	m.page, m.listed = store.Page{}, false
	return m.refresh()
}

func (m *model) jobsKey(key string) tea.Cmd {
	states := store.States
	at := slices.Index(states, m.list.state)
	switch key {
	case "right", "l":
		at++
	case "left", "h":
		at += len(states) - 1
	case "n", "pgdown":
		if m.page.Next == "" {
			return nil
		}
		m.pages = append(m.pages, m.list.after)
		m.list.after = m.page.Next
		return m.relist()
	case "p", "pgup":
		n := len(m.pages) - 1
		if n < 0 {
			return nil
		}
		m.list.after, m.pages = m.pages[n], m.pages[:n]
		return m.relist()
	default:
		return nil
	}
	m.list.state, m.list.after, m.pages = states[at%len(states)], "", nil
	return m.relist()
}

// moveTo puts the cursor on a row, or the nearest there is.
func (m *model) moveTo(row int) {
	m.row = max(0, min(row, len(m.seen.Queues)-1))
	m.queue = ""
	if len(m.seen.Queues) > 0 {
		m.queue = m.seen.Queues[m.row].Queue
	}
}

// selected is the queue under the cursor; nil: there is none.
func (m *model) selected() *store.Overview {
	if m.subject() == jobsView {
		return m.find(m.list.queue)
	}
	return m.find(m.queue)
}

func (m *model) find(queue string) *store.Overview {
	if i := slices.IndexFunc(m.seen.Queues, func(o store.Overview) bool { return o.Queue == queue }); i >= 0 {
		return &m.seen.Queues[i]
	}
	return nil
}

// scroll keeps the cursor in sight.
func (m *model) scroll() {
	room := m.room()
	m.first = max(0, min(m.first, len(m.seen.Queues)-room))
	m.first = max(min(m.first, m.row), m.row-room+1)
}

// View is bubbletea's.
func (m *model) View() tea.View {
	v := tea.NewView(m.render())
	v.AltScreen = true
	return v
}

var _ tea.Model = (*model)(nil)

func (q *question) String() string {
	verb := "resume"
	if q.pause {
		verb = "pause"
	}
	return fmt.Sprintf("%s %s? y/n", verb, printable(q.queue))
}
