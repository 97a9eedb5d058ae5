// Package judge reads what all processes of a run wrote down, and what the database holds at its end, and counts what
// must not have happened, each with its evidence. It is pure: the same input has the same verdict.
//
// It trusts no clock but the host's monotonic one, and no word of the product on its own success: that a job
// was completed is what a trigger of the run on the queue table has recorded.
//
// A job is known by its token, which its producer has chosen, since the producer may never learn of its id.
package judge

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// The kinds of jobs that the judge has to tell apart; of all others, each has to be done in the end.
const (
	Transactional = "tx"        // its effect is in the transaction that completes it
	Doomed        = "doomed"    // each run fails, so it ends set aside after DoomedAttempts
	Hopeless      = "permanent" // its first failure is one that no retry mends
	Poison        = "poison"    // kills or hangs its process, so it ends set aside
)

// DoomedAttempts is the max_attempts with which doomed jobs are put.
const DoomedAttempts = 3

const (
	// slack is between the moment when the locks of a session are free and the one that its end is stamped with.
	slack = int64(time.Second)
	// blind is the longest that a dispatcher waits for an answer on its lock session. Where the server's side
	// is not known, the session may have ended that long before the dispatcher noticed.
	blind = int64(15 * time.Second)
	// tick is what two clocks of one host may differ by over the longest delay of a job.
	tick = int64(2 * time.Millisecond)
	// cancelWithin is how soon the contexts of handlers have to end after the loss of their session.
	cancelWithin = int64(5 * time.Second)
	// backWithin is how soon after a fault's end the work has to be back at backShare of its rate.
	backWithin = int64(5 * time.Second)
	backShare  = 0.9
	// lateAfter is how late a job may begin if no fault was near: a lost wake-up is found by a sweep, every 10 s.
	lateAfter = int64(5 * time.Second)
	// lateAfterFault is the same after the end of the latest fault that was near: it may have taken the wake-up with it.
	lateAfterFault = int64(15 * time.Second)
	// near is the time around a fault in which what happens may be due to it.
	near = int64(5 * time.Second)
	// busy is the percentage of the processors used by others from which on a slow return is not held against
	// the product.
	busy = 20

	never = int64(math.MaxInt64)
)

// Row is a job that stands in the table at the end.
type Row struct {
	Token, Job int64
	Attempt    int
	SetAside   bool
	Reason     string
}

// Completion is a job's row as the trigger saw it deleted.
type Completion struct {
	Token, Job int64
	Attempt    int
	At         int64 // on the journal's clock, before the commit
}

// Leak is something that was left when all had ended.
type Leak struct {
	What  string
	Count int
}

// Final is what was found when all processes had ended.
type Final struct {
	Rows        []Row
	Completions []Completion
	Effects     map[int64]int // rows that transactional jobs have written, by token
	Leaks       []Leak        // those with a count of 0 are not
	// Pace is how many jobs a second the producers were told to put: the rate to be back at.
	Pace float64
}

// What a violation is.
type What string

// The violations: none may happen, whatever the faults.
const (
	Lost          What = "lost"           // committed, and neither done nor in the table; or gone without a run that did it
	Phantom       What = "phantom"        // rolled back, failed or never put, and yet there
	AcceptedTwice What = "accepted twice" // two completions, or two effects of transactions that completed it
	HalfAccepted  What = "effect"         // completed without its effect, or the effect without the completion
	Again         What = "rerun"          // after its completion was accepted, or under an unbroken claim that had done it
	Overlap       What = "overlap"        // two handlers at once, while the first one's lock session lived
	Early         What = "early"          // before its time
	Late          What = "late"           // long after its time, though nothing was wrong
	Stuck         What = "stuck"          // still waiting at the end
	Aside         What = "set aside"      // wrongly; or not, wrongly
	Attempts      What = "attempt"        // counted wrongly
	Uncancelled   What = "cancel"         // its context did not end in time after the session was lost
	Slow          What = "slow"           // the rate was not back in time after a fault
	Leaked        What = "leak"
	Crashed       What = "crash" // a process ended by itself
)

// All are the violations in the order in which they are told.
var All = []What{Lost, Phantom, AcceptedTwice, HalfAccepted, Again, Overlap, Early, Late, Stuck, Aside, Attempts, Uncancelled, Slow, Leaked, Crashed}

// Violation is one, with what shows it.
type Violation struct {
	What     What
	Text     string
	Evidence []journal.Event
}

// keep is how many violations of a kind are kept with their evidence.
const keep = 5

// Return is how the work came back after a fault.
type Return struct {
	Fault   string
	Number  int
	Before  float64       // runs completed a second, in the 5 s before the fault
	After   float64       // in the 5 s after its end, or as long as was watched
	Back    time.Duration // from the fault's end until a second with 90 % of the rate had passed; negative: it was not seen
	Foreign int           // percent of the processors that others used meanwhile
	Excused bool          // not held against the product if slow
}

// Verdict is what the judge found.
type Verdict struct {
	Counts     map[What]int
	Violations []Violation // at most keep of each kind

	Put, PutFailed, PutIndeterminate, PutRolledBack int // jobs
	Accepted                                        int // completions
	SetAside                                        int
	Runs                                            int
	Broken                                          int // lock sessions that broke, or whose process died
	Deaths                                          int // of processes
	OverlapsBroken                                  int // two handlers at once after the first one's session broke: allowed, and counted
	Superseded                                      int // runs that had done the job, whose completion the late outcome of a lost claim forestalled: it runs again
	Forgiven                                        int // jobs that were lost with a server, as announced
	Torn                                            int // runs without an end, since their process died

	Lateness  Quantiles // first start after due and put
	Cancelled Quantiles // from the loss of the session to the end of a handler's context
	Returns   []Return
	Injected  map[string]int // faults by name
}

// Quantiles of some durations.
type Quantiles struct {
	N             int
	P50, P99, Max time.Duration
}

// OK tells whether nothing happened that must not.
func (v *Verdict) OK() bool { return len(v.Violations) == 0 }

// Judge judges. The events are in the order of time.
func Judge(events []journal.Event, final Final) *Verdict {
	c := &court{
		v:         &Verdict{Counts: map[What]int{}, Injected: map[string]int{}},
		jobs:      map[int64]*job{},
		processes: map[string]*process{},
	}
	c.hear(events)
	c.close()
	c.final(final)
	for _, token := range slices.Sorted(maps.Keys(c.jobs)) {
		c.judge(c.jobs[token])
	}
	c.contexts()
	c.returns(final.Pace)
	for _, l := range final.Leaks {
		c.leak(l)
	}
	c.v.Lateness, c.v.Cancelled = quantiles(c.late), quantiles(c.ended)
	return c.v
}

// court is the judge at work.
type court struct {
	v         *Verdict
	jobs      map[int64]*job
	processes map[string]*process
	faults    []fault
	forgiven  [][2]int64
	freed     []int64 // when lock sessions came to their end, or processes that had one; sorted by close
	done      []int64 // when runs ended well; in order

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
	died     int64 // never: it lives
	sessions []*session
	stops    [][2]int64
	runs     []*run
}

type session struct {
	pid     int64
	up      int64
	lost    int64 // when the dispatcher noticed; never
	backend int64 // when the server's side ended; never
	freed   int64 // when its locks were free; never
}

type fault struct {
	name               string
	number             int
	begin, end, watch  int64
	foreign            int
	excused, completed bool
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
			r := &run{process: p, job: e.Job, attempt: e.Attempt, start: e.Time, end: never, events: []journal.Event{e}}
			p.runs = append(p.runs, r)
			j := c.job(e.Token)
			j.runs = append(j.runs, r)
			c.v.Runs++
		case journal.End, journal.Cancelled, journal.Effect:
			c.hearRun(e)
		case journal.FaultBegin:
			c.faults = append(c.faults, fault{name: e.Text, number: int(e.Job), begin: e.Time, end: never, watch: never})
			c.v.Injected[e.Text]++
		case journal.FaultEnd, journal.Watched:
			c.hearFault(e)
		case journal.Forgiven:
			c.forgiven = append(c.forgiven, [2]int64{e.Due, e.Time})
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
	case journal.SessionUp:
		p := c.process(e.Process)
		p.sessions = append(p.sessions, &session{pid: e.Job, up: e.Time, lost: never, backend: never, freed: never})
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
				s.freed = min(s.backend, p.died)
			case s.lost != never:
				s.freed = s.lost - blind
			default:
				s.freed = p.died
			}
			if s.freed != never {
				c.freed = append(c.freed, s.freed)
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
	slices.Sort(c.freed)
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

// judge judges a job.
func (c *court) judge(j *job) {
	present := j.row != nil || len(j.completions) > 0
	seen := present || len(j.runs) > 0 || j.effects > 0
	switch j.how {
	case journal.PutOK:
		c.v.Put++
		if !present {
			if c.isForgiven(j.told) {
				c.v.Forgiven++
			} else {
				c.accuse(Lost, j, "it was committed, and is neither done nor in the table")
			}
		}
	case journal.PutFailed, journal.PutRolledBack:
		if j.how == journal.PutFailed {
			c.v.PutFailed++
		} else {
			c.v.PutRolledBack++
		}
		if seen {
			c.accuse(Phantom, j, "it was not committed, and yet there")
		}
	case journal.PutIndeterminate, journal.PutBegin:
		c.v.PutIndeterminate++
	default:
		c.accuse(Phantom, j, "nobody has put it")
	}
	c.judgeEnd(j)
	for i, b := range j.runs {
		c.judgeTime(j, i)
		c.judgeAttempt(j, i)
		for _, a := range j.runs[:i] {
			c.judgePair(j, a, b)
		}
	}
}

// judgeEnd judges what became of the job.
func (c *court) judgeEnd(j *job) {
	if len(j.completions) > 1 || j.kind == Transactional && j.effects > 1 {
		c.accuse(AcceptedTwice, j, fmt.Sprintf("%d completions, %d effects", len(j.completions), j.effects))
	}
	fails := j.kind == Doomed || j.kind == Hopeless || j.kind == Poison
	if len(j.completions) > 0 {
		if j.kind == Transactional && j.effects == 0 {
			c.accuse(HalfAccepted, j, "it is completed, and its effect is not there")
		}
		if !slices.ContainsFunc(j.runs, func(r *run) bool {
			return finished(r.outcome) || j.kind == Transactional && (!r.ended || r.outcome == journal.Broken)
		}) {
			c.accuse(Lost, j, fmt.Sprintf("it is gone, and none of its %d runs has done it", len(j.runs)))
		}
		at := j.completions[0].At
		for _, b := range j.runs {
			if b.start > at+tick && !c.broken(b, b.start) && !slices.ContainsFunc(j.runs, func(a *run) bool { return a.start < b.start && c.broken(a, at) }) {
				c.accuse(Again, j, fmt.Sprintf("a run began %v after its completion was accepted", time.Duration(b.start-at)))
				break
			}
		}
	} else if j.kind == Transactional && j.effects > 0 {
		c.accuse(HalfAccepted, j, "its effect is there, and it is not completed")
	}
	if j.row == nil {
		return
	}
	switch {
	case !j.row.SetAside:
		c.accuse(Stuck, j, fmt.Sprintf("it still waits, with attempt %d; %s", j.row.Attempt, j.row.Reason))
	case !fails:
		c.accuse(Aside, j, "it was set aside: "+j.row.Reason)
	}
}

// judgeTime judges when a run began.
func (c *court) judgeTime(j *job, i int) {
	b := j.runs[i]
	if j.begun != 0 && b.start < j.begun+j.delay-tick {
		c.accuse(Early, j, fmt.Sprintf("a run began %v before its time", time.Duration(j.begun+j.delay-b.start)))
	}
	if i == 0 {
		if j.how == journal.PutOK {
			c.judgeLate(j, b)
		}
		return
	}
	if a := j.runs[i-1]; c.superseded(j, a, b) {
		return
	} else if (a.outcome == journal.Failed || a.outcome == journal.Snoozed) && !c.broken(a, b.start) && b.start < a.end+a.delay-tick {
		c.accuse(Early, j, fmt.Sprintf("a run began %v before its delay was over", time.Duration(a.end+a.delay-b.start)))
	}
}

// judgeLate judges how late the job's first run began.
func (c *court) judgeLate(j *job, b *run) {
	from := max(j.begun+j.delay, j.told)
	c.late = append(c.late, max(0, b.start-from))
	until := from + lateAfter
	for _, f := range c.faults {
		if f.begin <= b.start && f.end >= from-near {
			until = max(until, min(f.end, never-lateAfterFault)+lateAfterFault)
		}
	}
	if b.start > until {
		c.accuse(Late, j, fmt.Sprintf("its first run began %v after its time", time.Duration(b.start-from)))
	}
}

// judgeAttempt judges the number of a run.
func (c *court) judgeAttempt(j *job, i int) {
	b, failed := j.runs[i], 0
	for _, a := range j.runs[:i] {
		if a.outcome == journal.Failed || a.outcome == journal.Broken {
			failed++
		}
	}
	deaths, _ := slices.BinarySearch(c.freed, b.start+slack)
	switch {
	case b.attempt < 1 || b.attempt > 1+failed+deaths:
		c.accuse(Attempts, j, fmt.Sprintf("attempt %d after %d failures and %d deaths", b.attempt, failed, deaths))
	case j.kind == Doomed && b.attempt > DoomedAttempts:
		c.accuse(Attempts, j, fmt.Sprintf("attempt %d of %d", b.attempt, DoomedAttempts))
	case i > 0:
		a := j.runs[i-1]
		want := a.attempt
		switch a.outcome {
		case journal.Failed:
			want++
		case journal.Snoozed:
		default:
			return
		}
		// Others may have claimed it and died before they began. A death is counted when the dead one is found, which
		// may be later than the next run.
		before, _ := slices.BinarySearch(c.freed, j.begun)
		if (b.attempt < want || b.attempt > want+deaths-before) && !c.broken(a, b.start) {
			c.accuse(Attempts, j, fmt.Sprintf("attempt %d after attempt %d, which %s", b.attempt, a.attempt, a.outcome))
		}
	}
}

// judgePair judges a run beside an earlier one of the same job.
func (c *court) judgePair(j *job, a, b *run) {
	// Either of them may be of a claim that was lost; the second one, if its dispatcher has not heard of that.
	switch broken := c.broken(a, b.start) || c.broken(b, b.start); {
	case b.start < a.end && broken:
		c.v.OverlapsBroken++
	case b.start < a.end:
		c.accuse(Overlap, j, "two handlers at once, and the first one's session lived")
	case finished(a.outcome) && !broken && c.superseded(j, a, b):
		c.v.Superseded++
	case finished(a.outcome) && !broken:
		c.accuse(Again, j, "a run that did it, under an unbroken claim, was followed by another")
	}
}

// superseded tells whether the outcome of a run may have been refused since that of an earlier one of the same attempt was
// written first, late: its dispatcher had lost the claim and still wrote what became of it. One of the two is accepted,
// as it has to be, and the next run is by its word.
func (c *court) superseded(j *job, a, b *run) bool {
	return slices.ContainsFunc(j.runs, func(z *run) bool {
		return z != a && z.start < a.start && z.attempt == a.attempt && z.ended && !finished(z.outcome) && c.broken(z, b.start)
	})
}

// broken tells whether the lock session of a run came to its end until then. It may have ended before the run began, if
// the dispatcher had not noticed.
func (c *court) broken(r *run, until int64) bool {
	p := r.process
	if len(p.sessions) == 0 { // it does not tell of its sessions: any fault may have broken them
		return p.died <= until+slack || slices.ContainsFunc(c.faults, func(f fault) bool { return f.begin <= until && f.end >= r.start-near })
	}
	for _, s := range slices.Backward(p.sessions) {
		if s.freed <= until+slack && s.freed >= r.start-slack {
			return true
		}
		if s.up <= r.start { // that of the claim
			return s.freed <= until+slack
		}
	}
	return false
}

// contexts judges how soon the contexts of handlers ended after the loss of their session.
func (c *court) contexts() {
	for _, name := range slices.Sorted(maps.Keys(c.processes)) {
		p := c.processes[name]
		for _, s := range p.sessions {
			lost := min(s.freed, s.lost)
			if s.backend == never && s.lost != never {
				lost = s.lost // nobody knows better
			}
			if lost == never || lost+cancelWithin >= p.died {
				continue
			}
			for _, r := range p.runs {
				if r.start < s.up || r.start >= lost || r.end <= lost {
					continue
				}
				ended := r.end
				if r.cancelled != 0 {
					ended = min(ended, r.cancelled)
				}
				if ended == never {
					ended = lost + 10*cancelWithin
				}
				took := ended - lost - p.stopped(lost, ended)
				c.ended = append(c.ended, max(0, took))
				if took > cancelWithin {
					c.blame(Uncancelled, fmt.Sprintf("%s lost its session, and the context of job %d ended %v later", p.name, r.job, time.Duration(took)), r.events...)
				}
			}
		}
	}
}

// stopped is for how long the process was stopped in that time.
func (p *process) stopped(from, to int64) (sum int64) {
	for _, s := range p.stops {
		sum += max(0, min(to, s[1])-max(from, s[0]))
	}
	return sum
}

// returns judges how soon the work was back after each fault.
func (c *court) returns(pace float64) {
	slices.Sort(c.done)
	for _, f := range c.faults {
		if !f.completed || f.end == never {
			continue
		}
		r := Return{Fault: f.name, Number: f.number, Back: -1, Foreign: f.foreign, Excused: f.excused || f.foreign >= busy}
		r.Before = c.rate(f.begin-backWithin, f.begin)
		watched := min(f.end+backWithin, f.watch)
		r.After = c.rate(f.end, max(watched, f.end+int64(100*time.Millisecond)))
		want := backShare * min(pace, r.Before)
		second := int64(time.Second)
		for at := f.end; at <= f.watch; at += int64(50 * time.Millisecond) {
			if c.rate(at-second, at) >= want {
				r.Back = time.Duration(at - f.end)
				break
			}
		}
		c.v.Returns = append(c.v.Returns, r)
		if (r.Back < 0 && f.watch >= f.end+backWithin || r.Back > time.Duration(backWithin)) && !r.Excused {
			c.blame(Slow, fmt.Sprintf("fault %d, %s: %.0f jobs/s before; %.0f/s in the %v after its end", f.number, f.name, r.Before, r.After, time.Duration(watched-f.end).Round(time.Millisecond)))
		}
	}
}

// rate is how many runs ended well in that time, a second.
func (c *court) rate(from, to int64) float64 {
	first, _ := slices.BinarySearch(c.done, from)
	last, _ := slices.BinarySearch(c.done, to)
	return float64(last-first) / time.Duration(to-from).Seconds()
}

func (c *court) isForgiven(at int64) bool {
	return slices.ContainsFunc(c.forgiven, func(span [2]int64) bool { return at >= span[0] && at <= span[1] })
}

// accuse is blame with all that is known of a job.
func (c *court) accuse(what What, j *job, text string) {
	if c.v.Counts[what] >= keep {
		c.v.Counts[what]++
		return
	}
	var evidence []journal.Event
	if j.begun != 0 {
		evidence = append(evidence, journal.Event{Time: j.begun, Kind: journal.PutBegin, Token: j.token, Due: j.delay, Text: j.kind})
	}
	if j.told != 0 {
		evidence = append(evidence, journal.Event{Time: j.told, Kind: j.how, Token: j.token})
	}
	id := int64(0)
	for _, r := range j.runs {
		evidence = append(evidence, r.events...)
		id = r.job
		for _, s := range r.process.sessions {
			if s.freed >= r.start-slack && s.freed != never {
				evidence = append(evidence, journal.Event{Time: s.freed, Kind: journal.BackendEnded, Job: s.pid, Text: r.process.name, Process: r.process.name})
				break
			}
		}
	}
	for _, done := range j.completions {
		evidence = append(evidence, journal.Event{Time: done.At, Kind: "accepted", Token: done.Token, Job: done.Job, Attempt: done.Attempt})
	}
	slices.SortStableFunc(evidence, func(a, b journal.Event) int { return cmp.Compare(a.Time, b.Time) })
	c.blame(what, fmt.Sprintf("token %d, job %d, %s: %s", j.token, id, cmp.Or(j.kind, "unknown"), text), evidence...)
}

func (c *court) blame(what What, text string, evidence ...journal.Event) {
	if c.v.Counts[what]++; c.v.Counts[what] <= keep || what == Leaked {
		c.v.Violations = append(c.v.Violations, Violation{What: what, Text: text, Evidence: evidence})
	}
}

// leak blames what was left, as many as there are.
func (c *court) leak(l Leak) {
	if l.Count > 0 {
		c.v.Counts[Leaked] += l.Count - 1
		c.blame(Leaked, fmt.Sprintf("%d %s", l.Count, l.What))
	}
}

// finished tells whether a run with this outcome has ended the job.
func finished(outcome string) bool {
	return outcome == journal.Done || outcome == journal.DoneTx || outcome == journal.Discarded
}

func quantiles(ns []int64) Quantiles {
	if len(ns) == 0 {
		return Quantiles{}
	}
	slices.Sort(ns)
	at := func(share float64) time.Duration { return time.Duration(ns[int(share*float64(len(ns)-1))]) }
	return Quantiles{N: len(ns), P50: at(0.5), P99: at(0.99), Max: at(1)}
}
