// What the demo tells: a live line while it runs, and the summary.

package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
)

const (
	liveInterval = 100 * time.Millisecond // on a terminal
	logInterval  = 3 * time.Second        // elsewhere
	maxNamed     = 10                     // problems in an error
	maxListed    = 1000                   // problems in the JSON
)

// Lateness is in milliseconds, from the moment a job was due until its handler started.
type Lateness struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func (l Lateness) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, max %s", inMS(l.P50), inMS(l.P99), inMS(l.Max))
}

func inMS(ms float64) string {
	if ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// Summary is what a demo has shown. As JSON, keys are only ever added.
type Summary struct {
	Files         int       `json:"files"`           // regular files in the directory before the first job was put
	Bytes         int64     `json:"bytes"`           // hashed
	Put           int       `json:"put"`             // jobs
	Done          int       `json:"done"`            // jobs with a result
	Lost          int       `json:"lost"`            // jobs without one, and files without a job
	Duplicated    int       `json:"duplicated"`      // jobs with two, and files with two jobs
	Mismatched    int       `json:"mismatched"`      // digests that are not the file's
	Failed        int       `json:"failed"`          // files and directories that cannot be read
	Changed       int       `json:"changed"`         // files with another content since they were hashed; no problem
	Vanished      int       `json:"vanished"`        // files that are gone; no problem
	Appeared      int       `json:"appeared"`        // files that came later; no problem
	Seconds       float64   `json:"seconds"`         // from the first put to the last result
	JobsPerSecond float64   `json:"jobs_per_second"` // in that time
	Lateness      Lateness  `json:"lateness_ms"`     // of the files' jobs, their wait behind each other included
	IdleLateness  Lateness  `json:"idle_lateness_ms"`
	Processes     int       `json:"processes"`       // dispatchers that shared the files
	DoneByProcess []int     `json:"done_by_process"` // how they shared them; one that did none has no entry
	Died          int       `json:"died"`            // of them, before the end; their jobs went to the other
	Order         Order     `json:"order"`
	ServerVersion string    `json:"server_version"`
	Problems      []Problem `json:"problems"` // at most 1000
	OK            bool      `json:"ok"`

	dir      string
	embedded bool
}

func (s *Summary) problem(kind, path, format string, args ...any) {
	s.Problems = append(s.Problems, newProblem(kind, path, format, args...))
}

// conclude counts the problems.
func (s *Summary) conclude() {
	for _, p := range s.Problems {
		switch p.Kind {
		case lost:
			s.Lost++
		case duplicated:
			s.Duplicated++
		case mismatched:
			s.Mismatched++
		case failed:
			s.Failed++
		}
	}
	s.OK = len(s.Problems) == 0
}

// err names what is wrong.
func (s *Summary) err() error {
	if len(s.Problems) == 0 {
		return nil
	}
	var b strings.Builder
	for _, p := range s.Problems[:min(len(s.Problems), maxNamed)] {
		b.WriteString("\n\t" + p.String())
	}
	if more := len(s.Problems) - maxNamed; more > 0 {
		fmt.Fprintf(&b, "\n\tand %d more", more)
	}
	return fmt.Errorf("%w:%s", ErrFailed, b.String())
}

func (o Options) print(s Summary) error {
	if o.JSON {
		s.Problems = append([]Problem{}, s.Problems[:min(len(s.Problems), maxListed)]...) // [], not null
		return json.NewEncoder(o.Stdout).Encode(s)
	}
	return s.text(o.Stdout)
}

// text writes the summary for people.
func (s *Summary) text(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }

	where := "a given database"
	if s.embedded {
		where = "started for the demo, fsync off"
	}
	line("server", "PostgreSQL %s (%s)", s.ServerVersion, where)
	if s.Put == 0 {
		line("files", "%s holds no regular file, so there was nothing to hash", printable(s.dir))
	} else {
		var shares []string
		for _, n := range s.DoneByProcess {
			shares = append(shares, strconv.Itoa(n))
		}
		line("files", "%d below %s, %.1f MB, a job for each put by one process", s.Put, printable(s.dir), float64(s.Bytes)/1e6)
		line("done", "%d, hashed by %d processes: %s", s.Done, s.Processes, strings.Join(shares, " + "))
		line("checked", "%d lost, %d twice, %d digests wrong, %d unreadable", s.Lost, s.Duplicated, s.Mismatched, s.Failed)
		if s.Changed+s.Vanished+s.Appeared > 0 {
			line("meanwhile", "%d files were changed, %d vanished, %d appeared", s.Changed, s.Vanished, s.Appeared)
		}
		line("throughput", "%.0f jobs/s: %.2f s from the first put to the last result", s.JobsPerSecond, s.Seconds)
		line("lateness", "%v, waiting behind the other files included", s.Lateness)
	}
	line("idle queue", "%v: %d single jobs, each for a process that sleeps", s.IdleLateness, idleJobs)
	line("order", "%s", strings.Join(s.Order.Jobs, ", "))
	line("", "put at once, in the order delayed, 1 to %d, urgent; the delayed one was due after %.0f ms", ordinaryJobs, s.Order.DelayMS)
	line("", "and started %s later, by the database's clock", inMS(s.Order.DelayedByMS))
	if s.OK {
		line("result", "ok")
	} else {
		line("result", "%d problems", len(s.Problems))
	}
	return w.Flush()
}

// live is the line that shows how far the files are. It belongs to the goroutine of handleFiles.
type live struct {
	to       io.Writer
	terminal bool
	tick     <-chan time.Time
	ticker   *time.Ticker
	put      int
	latest   map[*child.Process]message
	late     []int64 // microseconds, since the last line
}

func newLive(to io.Writer) *live {
	l := &live{to: to, latest: map[*child.Process]message{}}
	interval := logInterval
	if f, ok := to.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		l.terminal, interval = true, liveInterval
	}
	l.ticker = time.NewTicker(interval)
	l.tick = l.ticker.C
	return l
}

// hear takes what a process says. One that has ended runs nothing any more.
func (l *live) hear(e event) {
	m := e.Message
	if e.Ended {
		m = l.latest[e.Process]
		m.Running = 0
	}
	l.put = max(l.put, m.Put)
	l.late = append(l.late, m.Late...)
	m.Late = nil
	l.latest[e.Process] = m
}

func (l *live) show() {
	done, running := 0, 0
	for _, m := range l.latest {
		done, running = done+m.Done, running+m.Running
	}
	line := fmt.Sprintf("put %d  done %d  in flight %d", l.put, done, running)
	if len(l.late) > 0 {
		slices.Sort(l.late)
		line += fmt.Sprintf("  lateness p50 %s p99 %s", inMS(float64(percentile(l.late, 50))/1e3), inMS(float64(percentile(l.late, 99))/1e3))
		l.late = l.late[:0]
	}
	l.write(line)
}

func (l *live) write(line string) {
	if l.terminal {
		fmt.Fprint(l.to, "\r\x1b[K"+line)
	} else {
		fmt.Fprintln(l.to, line)
	}
}

// say writes a line that stays.
func (l *live) say(line string) {
	if l.terminal {
		line += "\n"
	}
	l.write(line)
}

// end shows the last state and leaves the line.
func (l *live) end() {
	l.ticker.Stop()
	l.show()
	if l.terminal {
		fmt.Fprintln(l.to)
	}
}

// percentile of a sorted list that is not empty: the least value that so many percent do not exceed.
func percentile(sorted []int64, percent int) int64 {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}
