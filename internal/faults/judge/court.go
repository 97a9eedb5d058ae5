// What the judge knows: the events in the order of time, as jobs, their runs, processes, sessions and faults.

package judge

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// court is the judge at work.
type court struct {
	v         *Verdict
	jobs      map[int64]*job
	processes map[string]*process
	faults    []fault
	open      int64 // when all processes were ready for the first time
	forgiven  [][2]int64
	machine   []reading // in order
	done      []int64   // when runs ended well; in order

	late, ended []int64
}

type job struct {
	token       int64
	kind        string
	begun       int64 // when the put began; 0: never
	delay       int64 // from then until it may run
	how         journal.Kind
	told        int64 // when the producer was told how
	runs        []*run
	completions []Completion
	row         *Row
	effects     int
}

type run struct {
	process    *process
	queue      string
	job        int64
	attempt    int
	start, end int64 // end is never if there is none and the process lives
	ended      bool
	outcome    string
	delay      int64
	cancelled  int64 // 0: not
	events     []journal.Event
}

// process is one that holds a lock session, or works for one that does: "daemon-1/handler.2" for "daemon-1".
type process struct {
	name     string
	died     int64    // never: it lives
	serves   []string // queues; none: it has not told
	sessions []*session
	stops    [][2]int64
	runs     []*run
}

type session struct {
	pid     int64
	up      int64
	lost    int64 // when the dispatcher noticed; never
	backend int64 // when the server's side ended; never
	freed   int64 // when its locks were free, at the earliest; never
	latest  int64 // and at the latest; never
}

type fault struct {
	name               string
	number             int
	begin, end, watch  int64
	foreign            int
	excused, completed bool
	harmless           bool // nothing is broken by it
}

// reading is how much of the machine others have used since the one before, in percent.
type reading struct {
	at      int64
	foreign int
}

func (c *court) job(token int64) *job {
	j := c.jobs[token]
	if j == nil {
		j = &job{token: token}
		c.jobs[token] = j
	}
	return j
}

func (c *court) process(name string) *process {
	owner, _, part := strings.Cut(name, "/")
	if !part {
		owner = name
	}
	p := c.processes[owner]
	if p == nil {
		p = &process{name: owner, died: never}
		c.processes[owner] = p
	}
	return p
}

// hear takes the events in.
func (c *court) hear(events []journal.Event) {
	for _, e := range events {
		switch e.Kind {
		case journal.PutBegin:
			for token := e.Token; token < e.Token+int64(max(1, e.Attempt)); token++ {
				j := c.job(token)
				j.begun, j.delay, j.kind, j.how = e.Time, e.Due, e.Text, journal.PutBegin
			}
		case journal.PutOK, journal.PutFailed, journal.PutIndeterminate, journal.PutRolledBack:
			for token := e.Token; token < e.Token+int64(max(1, e.Attempt)); token++ {
				j := c.job(token)
				j.how, j.told = e.Kind, e.Time
			}
		case journal.Start:
			p := c.process(e.Process)
			r := &run{process: p, queue: e.Text, job: e.Job, attempt: e.Attempt, start: e.Time, end: never, events: []journal.Event{e}}
			p.runs = append(p.runs, r)
			j := c.job(e.Token)
			j.runs = append(j.runs, r)
			c.v.Runs++
		case journal.End, journal.Cancelled, journal.Effect:
			c.hearRun(e)
		case journal.FaultBegin:
			c.faults = append(c.faults, fault{name: e.Text, number: int(e.Job), begin: e.Time, end: never, watch: never, harmless: e.Due != 0})
			c.v.Injected[e.Text]++
		case journal.FaultEnd, journal.Watched:
			c.hearFault(e)
		case journal.Forgiven:
			c.forgiven = append(c.forgiven, [2]int64{e.Due, e.Time})
		case journal.Machine:
			c.machine = append(c.machine, reading{at: e.Time, foreign: e.Attempt})
		default:
			c.hearProcess(e)
		}
	}
}

// hearRun is about a run that has begun: the latest one of this job in this process that has not ended.
func (c *court) hearRun(e journal.Event) {
	p, j := c.process(e.Process), c.job(e.Token)
	for _, r := range slices.Backward(j.runs) {
		if r.process != p || r.attempt != e.Attempt || r.ended && e.Kind != journal.Cancelled {
			continue
		}
		r.events = append(r.events, e)
		switch e.Kind {
		case journal.End:
			r.end, r.ended, r.outcome, r.delay = e.Time, true, e.Text, e.Due
			if finished(r.outcome) {
				c.done = append(c.done, e.Time)
			}
		case journal.Cancelled:
			if r.cancelled == 0 {
				r.cancelled = e.Time
			}
		}
		return
	}
}

func (c *court) hearFault(e journal.Event) {
	for i := range slices.Backward(c.faults) {
		f := &c.faults[i]
		if f.number != int(e.Job) {
			continue
		}
		if e.Kind == journal.FaultEnd {
			f.end = e.Time
		} else {
			f.watch, f.foreign, f.excused, f.completed = e.Time, e.Attempt, e.Due != 0, true
		}
		return
	}
}

func (c *court) hearProcess(e journal.Event) {
	switch e.Kind {
	case journal.Serves:
		p := c.process(e.Process)
		p.serves = append(p.serves, e.Text)
	case journal.Open:
		c.open = e.Time
	case journal.SessionUp:
		p := c.process(e.Process)
		p.sessions = append(p.sessions, &session{pid: e.Job, up: e.Time, lost: never, backend: never, freed: never, latest: never})
	case journal.SessionLost:
		p := c.process(e.Process)
		if n := len(p.sessions); n > 0 && p.sessions[n-1].lost == never {
			p.sessions[n-1].lost = e.Time
		}
	case journal.Ended:
		c.process(e.Text).died = e.Time
		c.v.Deaths++
		if e.Attempt != 0 {
			c.blame(Crashed, e.Text+" ended by itself", e)
		}
	case journal.Exit:
		c.leak(Leak{What: "goroutines of " + e.Process, Count: e.Attempt})
	case journal.Stopped:
		p := c.process(e.Text)
		p.stops = append(p.stops, [2]int64{e.Time, never})
	case journal.Continued:
		p := c.process(e.Text)
		if n := len(p.stops); n > 0 {
			p.stops[n-1][1] = e.Time
		}
	case journal.BackendEnded, journal.ServerDown:
		for _, p := range c.processes {
			for _, s := range p.sessions {
				if s.backend == never && (e.Kind == journal.ServerDown || s.pid == e.Job) && s.up <= e.Time+slack {
					s.backend = e.Time
				}
			}
		}
	}
}

// close works out when each session's locks were free, and ends the runs of processes that have died.
func (c *court) close() {
	for _, p := range c.processes {
		for _, s := range p.sessions {
			switch {
			case s.backend != never:
				s.freed, s.latest = min(s.backend, p.died), s.backend
			case s.lost != never:
				s.freed, s.latest = s.lost-blind, s.lost
			default:
				s.freed, s.latest = p.died, p.died
			}
			if s.freed != never {
				c.v.Broken++
			}
		}
		for _, r := range p.runs {
			if !r.ended && p.died != never {
				r.end = max(p.died, r.start)
				c.v.Torn++
			}
		}
	}
}

// final takes in what the database holds.
func (c *court) final(f Final) {
	for _, done := range f.Completions {
		j := c.job(done.Token)
		j.completions = append(j.completions, done)
		c.v.Accepted++
	}
	for i := range f.Rows {
		row := &f.Rows[i]
		j := c.job(row.Token)
		if j.row != nil {
			c.blame(Phantom, fmt.Sprintf("token %d stands in the table twice, as jobs %d and %d", j.token, j.row.Job, row.Job))
		}
		j.row = row
		if row.SetAside {
			c.v.SetAside++
		}
	}
	for token, n := range f.Effects {
		c.job(token).effects = n
	}
}
