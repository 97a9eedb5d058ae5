package judge

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// play is a history as a right product makes it: jobs that are put, run by dispatchers that die and lose their sessions, and
// come to their end.
type play struct {
	*rapid.T
	now    int64
	events []journal.Event
	final  Final
	actors []*actor
	jobs   []*played
}

type actor struct {
	name  string
	count int
	pid   int64
	runs  map[*played]bool // what it has in hand
}

func (a *actor) process() string { return fmt.Sprintf("%s.%d", a.name, a.count) }

type played struct {
	token     int64
	kind      string
	committed bool
	attempt   int
	due       int64
	claimed   *actor
	waits     bool // it is claimed and not begun
	ended     bool
	put       int // the index of its put-begin
	starts    []int
	last      int // the index of the event of its last run's end; -1: none
}

func (p *play) write(e journal.Event) int {
	p.now += rapid.Int64Range(1, 40).Draw(p.T, "wait") * ms
	e.Time = p.now
	p.events = append(p.events, e)
	return len(p.events) - 1
}

func invent(t *rapid.T) *play {
	p := &play{T: t, now: int64(1e12), final: Final{Effects: map[int64]int{}}}
	for _, name := range []string{"a", "b", "c"} {
		a := &actor{name: name}
		p.actors = append(p.actors, a)
		p.begin(a)
	}
	for token := range rapid.Int64Range(3, 12).Draw(t, "jobs") {
		p.putOne(token + 1)
	}
	faults := rapid.IntRange(0, 200).Draw(t, "faults")
	for step := 0; slices.ContainsFunc(p.jobs, func(j *played) bool { return j.committed && !j.ended }); step++ {
		p.step(step < faults-100)
	}
	return p
}

func (p *play) begin(a *actor) {
	a.count++
	p.write(journal.Event{Kind: journal.Serves, Process: a.process(), Text: "apples"})
	p.session(a)
}

func (p *play) session(a *actor) {
	a.pid = int64(len(p.events)) + 1000
	a.runs = map[*played]bool{}
	p.write(journal.Event{Kind: journal.SessionUp, Process: a.process(), Job: a.pid})
}

func (p *play) putOne(token int64) {
	j := &played{token: token, attempt: 1, last: -1, kind: rapid.SampledFrom([]string{"plain", Transactional, Doomed}).Draw(p.T, "kind")}
	delay := rapid.SampledFrom([]int64{0, 0, 300 * ms}).Draw(p.T, "delay")
	j.put = p.write(journal.Event{Kind: journal.PutBegin, Process: "p.1", Token: token, Attempt: 1, Due: delay, Text: j.kind})
	j.due = p.now + delay
	how := rapid.SampledFrom([]journal.Kind{journal.PutOK, journal.PutOK, journal.PutOK, journal.PutRolledBack, journal.PutFailed, journal.PutIndeterminate}).Draw(p.T, "how")
	p.write(journal.Event{Kind: how, Process: "p.1", Token: token, Attempt: 1})
	j.committed = how == journal.PutOK || how == journal.PutIndeterminate && rapid.Bool().Draw(p.T, "committed")
	p.jobs = append(p.jobs, j)
}

// step is what one dispatcher does next.
func (p *play) step(faults bool) {
	a := rapid.SampledFrom(p.actors).Draw(p.T, "actor")
	switch n := rapid.IntRange(0, 19).Draw(p.T, "what"); {
	case n == 0 && faults:
		p.write(journal.Event{Kind: journal.Ended, Process: "run", Text: a.process()})
		p.free(a)
		p.begin(a)
	case n == 1 && faults:
		p.write(journal.Event{Kind: journal.BackendEnded, Process: "run", Job: a.pid})
		p.write(journal.Event{Kind: journal.SessionLost, Process: a.process()})
		for _, j := range p.jobs {
			if a.runs[j] && !j.waits {
				p.write(journal.Event{Kind: journal.Cancelled, Process: a.process(), Token: j.token, Job: j.token, Attempt: j.attempt})
				j.last = p.write(journal.Event{Kind: journal.End, Process: a.process(), Token: j.token, Job: j.token, Attempt: j.attempt, Text: journal.Broken})
			}
		}
		p.free(a)
		p.session(a)
	default:
		j := rapid.SampledFrom(p.jobs).Draw(p.T, "job")
		switch {
		case !j.committed || j.ended:
		case j.claimed == a && !j.waits:
			p.end(a, j)
		case j.claimed == nil:
			p.now = max(p.now, j.due)
			j.claimed, j.waits = a, true
			a.runs[j] = true
			if rapid.Bool().Draw(p.T, "waits") {
				return
			}
			fallthrough
		case j.claimed == a:
			j.waits = false
			j.starts = append(j.starts, p.write(journal.Event{Kind: journal.Start, Process: a.process(), Token: j.token, Job: j.token, Attempt: j.attempt, Text: "apples"}))
		}
	}
}

// free gives back what a dispatcher had claimed; its death may count as an attempt.
func (p *play) free(a *actor) {
	for _, j := range p.jobs {
		if a.runs[j] {
			j.claimed, j.waits = nil, false
			if j.kind != Doomed && rapid.Bool().Draw(p.T, "counts") {
				j.attempt++
			}
		}
	}
}

func (p *play) end(a *actor, j *played) {
	e := journal.Event{Kind: journal.End, Process: a.process(), Token: j.token, Job: j.token, Attempt: j.attempt}
	accept := func() {
		p.now += ms
		p.final.Completions = append(p.final.Completions, Completion{Token: j.token, Job: j.token, Attempt: j.attempt, At: p.now})
		j.ended = true
	}
	switch j.kind {
	case Doomed:
		e.Text, e.Due = journal.Failed, 100*ms
		j.last = p.write(e)
		j.due = p.now + e.Due
		if j.attempt == DoomedAttempts {
			p.final.Rows = append(p.final.Rows, Row{Token: j.token, Job: j.token, Attempt: j.attempt, SetAside: true})
			j.ended = true
		} else {
			j.attempt++
		}
	case Transactional:
		accept()
		p.final.Effects[j.token] = 1
		e.Text = journal.DoneTx
		j.last = p.write(e)
	default:
		e.Text = journal.Done
		j.last = p.write(e)
		accept()
	}
	delete(a.runs, j)
	j.claimed = nil
}

func (p *play) verdict() *Verdict {
	slices.SortStableFunc(p.events, func(a, b journal.Event) int { return int(a.Time - b.Time) })
	return Judge(p.events, p.final)
}

func TestARightHistoryPasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if v := invent(t).verdict(); !v.OK() {
			t.Fatalf("got %v, want none", v.Violations)
		}
	})
}

// corruptions make a right history wrong in one way, if it has what that takes.
var corruptions = []struct {
	what  What
	apply func(p *play) bool
}{
	{Lost, func(p *play) bool {
		return p.complete(func(i int, _ *played) { p.final.Completions = slices.Delete(p.final.Completions, i, i+1) })
	}},
	{AcceptedTwice, func(p *play) bool {
		return p.complete(func(i int, _ *played) { p.final.Completions = append(p.final.Completions, p.final.Completions[i]) })
	}},
	{HalfAccepted, func(p *play) bool {
		return p.complete(func(_ int, j *played) { delete(p.final.Effects, j.token) }, Transactional)
	}},
	{Again, func(p *play) bool {
		return p.complete(func(_ int, j *played) {
			p.write(journal.Event{Kind: journal.Start, Process: "other.1", Token: j.token, Job: j.token, Attempt: j.attempt})
		})
	}},
	{Overlap, func(p *play) bool {
		return p.complete(func(_ int, j *played) {
			last := p.events[j.starts[len(j.starts)-1]]
			p.events = append(p.events, journal.Event{Time: last.Time + 1, Kind: journal.Start, Process: last.Process, Token: j.token, Job: j.token, Attempt: j.attempt})
		})
	}},
	{Early, func(p *play) bool {
		return p.complete(func(_ int, j *played) { p.events[j.put].Due += int64(1e12) })
	}},
	{Phantom, func(p *play) bool {
		return p.complete(func(_ int, j *played) { p.events[j.put+1].Kind = journal.PutRolledBack })
	}},
	{Stuck, func(p *play) bool {
		return p.complete(func(i int, j *played) {
			p.final.Completions = slices.Delete(p.final.Completions, i, i+1)
			delete(p.final.Effects, j.token)
			p.final.Rows = append(p.final.Rows, Row{Token: j.token, Job: j.token, Attempt: j.attempt})
		})
	}},
	{Aside, func(p *play) bool {
		return p.complete(func(i int, j *played) {
			p.final.Completions = slices.Delete(p.final.Completions, i, i+1)
			delete(p.final.Effects, j.token)
			p.final.Rows = append(p.final.Rows, Row{Token: j.token, Job: j.token, Attempt: j.attempt, SetAside: true})
		})
	}},
	{Attempts, func(p *play) bool {
		return p.complete(func(_ int, j *played) {
			p.events[j.starts[len(j.starts)-1]].Attempt++
			p.events[j.last].Attempt++
		})
	}},
	{Disorder, func(p *play) bool {
		at := func(after int64, e journal.Event) {
			e.Time, e.Process = p.now+after*ms, cmp.Or(e.Process, "other.1")
			p.events = append(p.events, e)
		}
		first, second := int64(1000), int64(1001)
		at(0, journal.Event{Kind: journal.Serves, Text: "pears"})
		at(0, journal.Event{Kind: journal.SessionUp, Job: 7})
		for n, token := range []int64{first, second} {
			put := int64(n) * 2000
			at(put, journal.Event{Kind: journal.PutBegin, Process: "p.1", Token: token, Attempt: 1, Text: "plain"})
			at(put+1, journal.Event{Kind: journal.PutOK, Process: "p.1", Token: token, Attempt: 1})
		}
		for n, token := range []int64{second, first} {
			start := 2100 + int64(n)*1500
			at(start, journal.Event{Kind: journal.Start, Token: token, Job: token, Attempt: 1, Text: "pears"})
			at(start+1, journal.Event{Kind: journal.End, Token: token, Job: token, Attempt: 1, Text: journal.Done})
			p.final.Completions = append(p.final.Completions, Completion{Token: token, Job: token, Attempt: 1, At: p.now + (start+2)*ms})
		}
		return true
	}},
	{Uncancelled, func(p *play) bool {
		return p.complete(func(_ int, j *played) {
			start, late := p.events[j.starts[0]], p.now+int64(20e9)
			p.events = append(p.events,
				journal.Event{Time: start.Time - 2, Kind: journal.SessionUp, Process: "other.1", Job: 7},
				journal.Event{Time: start.Time - 1, Kind: journal.Start, Process: "other.1", Token: j.token, Job: j.token, Attempt: j.attempt},
				journal.Event{Time: start.Time, Kind: journal.BackendEnded, Process: "run", Job: 7},
				journal.Event{Time: late, Kind: journal.SessionLost, Process: "other.1"},
				journal.Event{Time: late, Kind: journal.Cancelled, Process: "other.1", Token: j.token, Job: j.token, Attempt: j.attempt},
				journal.Event{Time: late, Kind: journal.End, Process: "other.1", Token: j.token, Job: j.token, Attempt: j.attempt, Text: journal.Broken})
		})
	}},
}

// complete does something to a job that was done, and no session broke since it was put, or near that, of the given
// kinds. False: there is none.
func (p *play) complete(do func(i int, j *played), kinds ...string) bool {
	for i, c := range p.final.Completions {
		j := p.jobs[c.Token-1]
		if len(kinds) > 0 && !slices.Contains(kinds, j.kind) || p.events[j.put+1].Kind != journal.PutOK || p.nearBreak(j) {
			continue
		}
		do(i, j)
		return true
	}
	return false
}

func (p *play) nearBreak(j *played) bool {
	first, last := p.events[j.put].Time-2*slack, p.events[j.last].Time+2*slack
	return slices.ContainsFunc(p.events, func(e journal.Event) bool {
		return (e.Kind == journal.Ended || e.Kind == journal.BackendEnded) && e.Time >= first && e.Time <= last
	})
}

func TestACorruptedHistoryIsFound(t *testing.T) {
	for _, c := range corruptions {
		t.Run(string(c.what), func(t *testing.T) {
			applied := 0
			rapid.Check(t, func(t *rapid.T) {
				p := invent(t)
				if !c.apply(p) {
					return
				}
				applied++
				if v := p.verdict(); v.Counts[c.what] == 0 {
					t.Fatalf("got %v, want %q", v.Violations, c.what)
				}
			})
			if applied < 10 && !testing.Short() { // which tries a fifth as often
				t.Errorf("got %d histories that it could be tried on, want more", applied)
			}
		})
	}
}
