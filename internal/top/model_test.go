package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

var update = flag.Bool("update", false, "write the golden files")

// asked records what the model wants done; the test feeds the answers.
type asked struct{ log []string }

func (a *asked) look(list *listing) tea.Cmd {
	text := "look"
	if list != nil {
		text = fmt.Sprintf("list %s %s after %q", list.queue, list.state, list.after)
	}
	a.log = append(a.log, text)
	return func() tea.Msg { return nil }
}

func (a *asked) setPaused(queue string, paused bool) tea.Cmd {
	a.log = append(a.log, fmt.Sprintf("paused %s %v", queue, paused))
	return func() tea.Msg { return nil }
}

func (a *asked) wants(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, a.log); diff != "" {
		t.Errorf("asked of the database (-want +got):\n%s", diff)
	}
	a.log = nil
}

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// orchard is what a look may see; n is the number of the look, two seconds after the one before.
func orchard(n int) *Glance {
	g := &Glance{
		At: start.Add(time.Duration(n) * 2 * time.Second), Database: "farm", Table: `"public"."queue"`,
		Queues: []store.Overview{
			{Counts: store.Counts{Queue: "apples", Ready: 12, Running: 4, Scheduled: 3, SetAside: 1, Oldest: 1500 * time.Millisecond}},
			{Counts: store.Counts{Queue: "pears", Ready: 10_000, Oldest: 3*time.Hour + 4*time.Minute}, AtLeast: []string{"ready", "oldest"},
				Paused: &store.Pause{Reason: "wasps", Since: start}},
			{Counts: store.Counts{Queue: "wild \x1b[31m cherries", Taken: 7}, Paused: &store.Pause{Until: start.Add(time.Hour), Since: start}},
		},
		Dispatchers: []store.Dispatcher{
			{ID: 1234567890, Alive: true, PID: 4711, Application: "pq-dispatch", Address: "10.0.0.7", Since: start, Jobs: 4, Batches: 2, Oldest: 250 * time.Millisecond},
			{ID: -42, Jobs: 9, Batches: 1, Oldest: 26 * time.Hour},
		},
		Counters: Counters{Put: 1000 + int64(n)*240, Ended: 500 + int64(n)*200, PutBack: int64(n)},
	}
	for i := range 15 {
		g.Queues = append(g.Queues, store.Overview{Counts: store.Counts{Queue: fmt.Sprintf("z%02d", i)}})
	}
	return g
}

func page() store.Page {
	return store.Page{Next: "next", Jobs: []store.Entry{
		{ID: 1, Queue: "apples", State: store.Waiting, Attempt: 1, EnqueuedAt: start},
		{ID: 22, Queue: "apples", State: store.Waiting, Task: "eat", Attempt: 3, MaxAttempts: 5, EnqueuedAt: start, LastError: "bruised\n\x1b[31m"},
	}}
}

// newTest is a model that has looked twice.
func newTest(width, height int) (*model, *asked) {
	a := &asked{}
	m := newModel(a, 2*time.Second, orchard(0))
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	m.sees(orchard(1))
	return m, a
}

var keys = map[string]tea.KeyPressMsg{
	"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "left": {Code: tea.KeyLeft}, "right": {Code: tea.KeyRight},
	"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "pgdown": {Code: tea.KeyPgDown}, "pgup": {Code: tea.KeyPgUp},
	"home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd}, "f1": {Code: tea.KeyF1}, "f2": {Code: tea.KeyF2}, "tab": {Code: tea.KeyTab},
	"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "space": {Code: tea.KeySpace, Text: " "},
}

// press presses keys and returns the command of the last.
func press(t *testing.T, m *model, names ...string) (cmd tea.Cmd) {
	t.Helper()
	for _, name := range names {
		key, ok := keys[name]
		if !ok {
			key = tea.KeyPressMsg{Code: rune(name[0]), Text: name}
		}
		if key.String() != name {
			t.Fatalf("the key %q calls itself %q", name, key)
		}
		_, cmd = m.Update(key)
	}
	return cmd
}

func quits(cmd tea.Cmd) bool {
	if cmd == nil {
		return false
	}
	_, quit := cmd().(tea.QuitMsg)
	return quit
}

func plainFrame(m *model) string {
	var b strings.Builder
	for line := range strings.Lines(ansi.Strip(m.render())) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		name          string
		width, height int
		do            func(t *testing.T, m *model)
	}{
		{"queues-40x10", 40, 10, func(*testing.T, *model) {}},
		{"queues-80x24", 80, 24, func(t *testing.T, m *model) { press(t, m, "down") }},
		{"queues-140x15-end", 140, 15, func(t *testing.T, m *model) { press(t, m, "end") }},
		{"empty-80x24", 80, 24, func(_ *testing.T, m *model) { m.sees(&Glance{At: start, Database: "farm", Table: "t"}) }},
		{"dispatchers-40x10", 40, 10, func(t *testing.T, m *model) { press(t, m, "f2") }},
		{"dispatchers-120x12", 120, 12, func(t *testing.T, m *model) { press(t, m, "tab") }},
		{"jobs-40x10", 40, 10, func(t *testing.T, m *model) {
			press(t, m, "enter", "right")
			m.Update(looked{seen: orchard(2), of: new(m.list), page: page()})
		}},
		{"jobs-100x12", 100, 12, func(t *testing.T, m *model) {
			press(t, m, "enter")
			m.Update(looked{seen: orchard(2), of: new(m.list), page: page()})
		}},
		{"jobs-of-a-paused-queue", 100, 12, func(t *testing.T, m *model) { press(t, m, "down", "enter") }},
		{"help-40x10", 40, 10, func(t *testing.T, m *model) { press(t, m, "?") }},
		{"question-40x10", 40, 10, func(t *testing.T, m *model) { press(t, m, "P") }},
		{"lost-80x12", 80, 12, func(_ *testing.T, m *model) {
			m.Update(looked{err: errors.New("top: store: look at the queues:\n\x1b[31mconnection refused")})
			m.lost = start
		}},
		{"too-small-39x10", 39, 10, func(*testing.T, *model) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := newTest(tt.width, tt.height)
			tt.do(t, m)
			got := plainFrame(m)
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			for _, line := range lines {
				if w := ansi.StringWidth(line); w > tt.width {
					t.Errorf("a line of %d columns, want %d at most: %q", w, tt.width, line)
				}
			}
			if tt.width >= minWidth && len(lines) != tt.height {
				t.Errorf("got %d lines, want %d", len(lines), tt.height)
			}
			golden(t, tt.name, got)
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s\nrun the test with -update if that is right", file, diff)
	}
}

func TestTextIsPlain(t *testing.T) {
	got := Text(orchard(0), 120)
	if strings.ContainsRune(got, '\x1b') {
		t.Errorf("got escape sequences: %q", got)
	}
	golden(t, "text-120", got)
}

func TestNothingFromTheDatabaseReachesTheTerminalAsIs(t *testing.T) {
	m, _ := newTest(200, 40)
	m.seen.Database, m.seen.Dispatchers[0].Application = "\x1b]0;x\x07", "\x1b[2J"
	m.note, m.err = "\x1b[2J", nil
	for _, view := range []view{queuesView, dispatchersView, jobsView} {
		m.view, m.listed, m.page, m.list = view, true, page(), listing{queue: "a\x1b[2J", state: store.Waiting}
		for _, line := range m.frame() {
			if strings.ContainsAny(line.text, "\x1b\x07\n") {
				t.Errorf("got the line %q, want no control characters", line.text)
			}
		}
	}
}

func TestTheCursorMovesAndStaysOnItsQueue(t *testing.T) {
	m, _ := newTest(80, 12)
	for _, step := range []struct{ key, want string }{
		{"up", "apples"}, {"down", "pears"}, {"j", "wild \x1b[31m cherries"}, {"k", "pears"}, {"end", "z14"}, {"down", "z14"}, {"home", "apples"},
		{"pgdown", "z03"}, {"pgup", "apples"}, {"G", "z14"}, {"g", "apples"}, {"down", "pears"},
	} {
		press(t, m, step.key)
		if m.queue != step.want {
			t.Errorf("after %s: got the cursor on %q, want %q", step.key, m.queue, step.want)
		}
		if m.row < m.first || m.row >= m.first+m.room() {
			t.Errorf("after %s: the cursor is in row %d, shown are %d from %d", step.key, m.row, m.room(), m.first)
		}
	}
	g := orchard(2)
	g.Queues = g.Queues[1:]
	m.Update(looked{seen: g})
	if m.queue != "pears" || m.row != 0 {
		t.Errorf("got the cursor on %q in row %d, want pears in 0", m.queue, m.row)
	}
	m.Update(looked{seen: &Glance{At: start}})
	if m.queue != "" {
		t.Errorf("got the cursor on %q, want none", m.queue)
	}
	press(t, m, "down", "enter", "P") // of no queue
	if m.view != queuesView || m.asking != nil {
		t.Errorf("got view %d and the question %v, want neither", m.view, m.asking)
	}
}

func TestAPauseIsConfirmed(t *testing.T) {
	m, a := newTest(80, 24)
	press(t, m, "P", "n")
	a.wants(t)
	press(t, m, "P", "q")
	a.wants(t)
	press(t, m, "P", "y")
	a.wants(t, "paused apples true")
	m.Update(acted{note: "apples is paused"})
	a.wants(t, "look")
	if !strings.Contains(plainFrame(m), "apples is paused") {
		t.Errorf("got the frame %s, want it to say so", plainFrame(m))
	}
	m.Update(looked{seen: orchard(2)})
	press(t, m, "down", "P")
	if !strings.Contains(plainFrame(m), "resume pears? y/n") {
		t.Errorf("got the frame %s, want a question", plainFrame(m))
	}
	press(t, m, "Y")
	a.wants(t, "paused pears false")
	m.Update(acted{note: "pears is resumed", err: errors.New("permission denied")})
	if !strings.Contains(plainFrame(m), "failed: permission denied") {
		t.Errorf("got the frame %s, want the error", plainFrame(m))
	}
}

func TestQuitLeavesOneViewAfterTheOther(t *testing.T) {
	for _, tt := range []struct {
		keys []string
		want bool
	}{
		{[]string{"q"}, true}, {[]string{"esc"}, true}, {[]string{"ctrl+c"}, true}, {[]string{"?", "q"}, false}, {[]string{"?", "q", "q"}, true},
		{[]string{"f2", "q"}, false}, {[]string{"f2", "q", "esc"}, true}, {[]string{"enter", "?", "esc", "q"}, false}, {[]string{"enter", "?", "esc", "q", "q"}, true},
		{[]string{"P", "ctrl+c"}, true}, {[]string{"P", "q"}, false}, {[]string{"enter", "ctrl+c"}, true}, {[]string{"f2", "f1", "q"}, true},
	} {
		m, _ := newTest(80, 24)
		if got := quits(press(t, m, tt.keys...)); got != tt.want {
			t.Errorf("%v: got quit %v, want %v", tt.keys, got, tt.want)
		}
	}
}

func TestJobsAreListedByStateAndPage(t *testing.T) {
	m, a := newTest(80, 24)
	answer := func() { m.Update(looked{seen: orchard(2), of: new(m.list), page: page()}) }
	press(t, m, "enter")
	a.wants(t, `list apples waiting after ""`)
	press(t, m, "right") // before the answer has come
	a.wants(t)
	m.Update(looked{seen: orchard(2), of: &listing{queue: "apples", state: store.Waiting}, page: page()})
	if m.listed {
		t.Error("the answer to an earlier question is shown")
	}
	a.wants(t, `list apples running after ""`)
	answer()
	press(t, m, "n")
	a.wants(t, `list apples running after "next"`)
	answer()
	press(t, m, "p")
	a.wants(t, `list apples running after ""`)
	answer()
	press(t, m, "p") // there is none before
	press(t, m, "left", "left")
	answer()
	a.wants(t, `list apples waiting after ""`, `list apples taken after ""`)
}

func TestALostDatabaseIsShownUntilItIsBack(t *testing.T) {
	m, a := newTest(80, 24)
	m.Update(due{m.tick})
	a.wants(t, "look")
	_, cmd := m.Update(looked{err: errors.New("refused")})
	if cmd == nil {
		t.Fatal("it is not asked again")
	}
	since := m.lost
	m.Update(due{m.tick})
	m.Update(looked{err: errors.New("still refused")})
	if frame := plainFrame(m); !strings.Contains(frame, "still refused") || !strings.Contains(frame, "> apples") || m.lost != since {
		t.Errorf("got the frame %s, want the error and what was last seen", frame)
	}
	m.Update(due{m.tick})
	m.Update(looked{seen: orchard(3)})
	if frame := plainFrame(m); !strings.Contains(frame, "the database is back") || strings.Contains(frame, "refused") {
		t.Errorf("got the frame %s, want it to be back", frame)
	}
}

func TestLooksFollowOneAnotherAndRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, a := newTest(80, 24)
		for took, want := range map[time.Duration]time.Duration{0: 2 * time.Second, 400 * time.Millisecond: 2 * time.Second, 3 * time.Second: 12 * time.Second} {
			m.seen.Took = took
			begin := time.Now()
			msg := m.wait()()
			if got := time.Since(begin); got != want {
				t.Errorf("after a look of %v: got a rest of %v, want %v", took, got, want)
			}
			m.Update(msg)
			a.wants(t, "look")
			m.Update(msg) // it is void by now
			a.wants(t)
			m.Update(acted{}) // while one is under way
			a.wants(t)
			_, cmd := m.Update(looked{seen: orchard(2)})
			if cmd == nil {
				t.Error("no look follows")
			}
			a.wants(t, "look")
			m.Update(looked{seen: orchard(2)})
		}
	})
}

func TestRatesAreOfTheLastTenSeconds(t *testing.T) {
	var r rates
	check := func(want float64, wantOK bool) {
		t.Helper()
		if put, _, _, ok := r.perSecond(); put != want || ok != wantOK {
			t.Errorf("got %v, %v, want %v, %v", put, ok, want, wantOK)
		}
	}
	check(0, false)
	r.add(start, Counters{})
	check(0, false)
	for s := 1; s <= 60; s++ { // 100/s, from the second 50 on 200/s
		r.add(start.Add(time.Duration(s)*time.Second), Counters{Put: int64(100*s + 100*max(0, s-50))})
	}
	check(200, true)
	r.add(start.Add(200*time.Second), Counters{Put: 7000 + 14}) // after a pause
	check(0.1, true)
	r.add(start.Add(201*time.Second), Counters{Put: 5}) // the server has crashed
	check(0, false)
}

// Whatever happens, a frame has the size of the terminal.
func TestAnyFrameFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, _ := newTest(80, 24)
		names := []string{"up", "down", "left", "right", "enter", "esc", "pgdown", "end", "f1", "f2", "tab"}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				m.Update(tea.WindowSizeMsg{Width: rapid.IntRange(1, 200).Draw(t, "width"), Height: rapid.IntRange(1, 60).Draw(t, "height")})
			case 1:
				g := orchard(2)
				g.Queues = g.Queues[:rapid.IntRange(0, len(g.Queues)).Draw(t, "queues")]
				if len(g.Queues) > 0 {
					g.Queues[0].Queue = rapid.StringN(1, 80, 200).Draw(t, "name")
				}
				m.Update(looked{seen: g, of: new(m.list), page: page()})
			case 2:
				m.Update(looked{err: errors.New(rapid.String().Draw(t, "error"))})
			case 3:
				m.Update(keys[rapid.SampledFrom(names).Draw(t, "key")])
			case 4:
				r := rapid.SampledFrom([]rune("jkhlnpgG?Py1 2")).Draw(t, "rune")
				m.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
			}
			lines := strings.Split(ansi.Strip(m.render()), "\n")
			if m.width >= minWidth && m.height >= minHeight && len(lines) != m.height {
				t.Fatalf("got %d lines, want %d", len(lines), m.height)
			}
			for _, line := range lines {
				if w := ansi.StringWidth(line); w > m.width {
					t.Fatalf("got a line of %d columns, want %d at most: %q", w, m.width, line)
				}
			}
		}
	})
}

func TestAgesFitTheirColumn(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 1234 * time.Millisecond: "1.2s", 59999 * time.Millisecond: "59s", 61 * time.Second: "1m01s", 59*time.Minute + 59*time.Second: "59m59s",
		25 * time.Hour: "1d", 23*time.Hour + 59*time.Minute: "23h59m", 4000 * 24 * time.Hour: "4000d",
	} {
		if got := age(d, true); got != want || len(got) > 6 {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	if got := age(time.Second, false); got != "-" {
		t.Errorf("unknown: got %q, want -", got)
	}
}
