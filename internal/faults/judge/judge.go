// Package judge reads what all processes of a run wrote down, and what the database holds at its end, and counts what
// must not have happened, each with its evidence. It is pure: the same input has the same verdict.
//
// It trusts no clock but the host's monotonic one, and no word of the product on its own success: that a job
// was completed is what a trigger of the run on the queue table has recorded.
//
// A job is known by its token, which its producer has chosen, since the producer may never learn of its id.
package judge

import (
	"maps"
	"math"
	"slices"
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
	// orderMargin is how long a job has to have been there before another is put, and how long after that one it has
	// to begin, for the two to be in the wrong order.
	orderMargin = int64(time.Second)
	// near is the time around a fault in which what happens may be due to it.
	near = int64(5 * time.Second)
	// Busy is the percentage of the processors used by others from which on a slow return is not held against the product: after
	// the fault; nor a late run: after a fault near it, or while it was waited for.
	Busy = 20

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
	Disorder      What = "order"          // after one that was put long after it, in the same process and queue
	Stuck         What = "stuck"          // still waiting at the end
	Aside         What = "set aside"      // wrongly; or not, wrongly
	Attempts      What = "attempt"        // counted wrongly
	Uncancelled   What = "cancel"         // its context did not end in time after the session was lost
	Slow          What = "slow"           // the rate was not back in time after a fault
	Leaked        What = "leak"
	Crashed       What = "crash" // a process ended by itself
)

// All are the violations in the order in which they are told.
var All = []What{Lost, Phantom, AcceptedTwice, HalfAccepted, Again, Overlap, Early, Late, Disorder, Stuck, Aside, Attempts, Uncancelled, Slow, Leaked, Crashed}

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
	Ordered                                         int // jobs whose order was judged
	Overtaken                                       int // jobs that would be out of order, but several processes serve the queue: allowed, and counted
	Superseded                                      int // runs that had done the job, whose completion the late outcome of a lost claim forestalled: it runs again
	Forgiven                                        int // jobs that were lost with a server, as announced
	Torn                                            int // runs without an end, since their process died

	Lateness  Quantiles // first start after due and put
	Cancelled Quantiles // from the loss of the session to the end of a handler's context
	Returns   []Return
	Injected  map[string]int // faults by name
	Overlaps  map[string]int // OverlapsBroken by the latest fault before each; without a name if there was none
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
		v:         &Verdict{Counts: map[What]int{}, Injected: map[string]int{}, Overlaps: map[string]int{}},
		jobs:      map[int64]*job{},
		processes: map[string]*process{},
	}
	c.hear(events)
	c.close()
	c.final(final)
	for _, token := range slices.Sorted(maps.Keys(c.jobs)) {
		c.judge(c.jobs[token])
	}
	c.order()
	c.contexts()
	c.returns(final.Pace)
	for _, l := range final.Leaks {
		c.leak(l)
	}
	c.v.Lateness, c.v.Cancelled = quantiles(c.late), quantiles(c.ended)
	return c.v
}
