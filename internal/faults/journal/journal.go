// Package journal is what each process of a run under faults writes down as it happens, for the judge to read after
// the end. An event is one line, written by one write(2) to a file that only grows: so what a process has written
// before kill -9 is there, and at most its last line is torn.
package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is what has happened.
type Kind string

// What a producer writes. Token is the first of Attempt jobs with consecutive tokens.
const (
	PutBegin         Kind = "put-begin"         // Due: how many ns later the jobs are to run at the earliest; Text: their kind
	PutOK            Kind = "put-ok"            // committed
	PutFailed        Kind = "put-failed"        // not committed, for certain
	PutIndeterminate Kind = "put-indeterminate" // the reply to the commit never came
	PutRolledBack    Kind = "put-rolledback"    // by the producer's own wish
)

// What a dispatcher writes, about the run of a job: Token, Job, Attempt.
const (
	Start     Kind = "start"     // Text: the queue
	Effect    Kind = "effect"    // its effect has committed
	End       Kind = "end"       // the handler has returned; Text: an outcome; Due: ns until the next attempt
	Cancelled Kind = "cancelled" // its context has ended; Text: the cause
)

// What a dispatcher writes about itself.
const (
	Begin       Kind = "begin"        // Text: its role
	Serves      Kind = "serves"       // Text: a queue from which it claims; all of them before the first session is up
	SessionUp   Kind = "session-up"   // Job: process id of the server's side of the new lock session
	SessionLost Kind = "session-lost" // it has noticed
	Exit        Kind = "exit"         // Attempt: goroutines more than at its begin; Text: an error, if any
)

// What the run writes, in a journal of its own. Text names the process, but for those of faults and servers.
const (
	FaultBegin   Kind = "fault-begin"   // Job: the injection's number; Text: the fault; Due: 1 if it breaks nothing
	FaultEnd     Kind = "fault-end"     // the same
	Watched      Kind = "watched"       // the same, after the work was seen to be back or was waited for; Attempt: percent of the processors that others used since the fault's end; Due: 1 if it may take long
	Open         Kind = "open"          // all processes of the run's beginning are ready
	Ended        Kind = "ended"         // a process, however it did; Attempt: 1 if no fault ends one in that way
	Stopped      Kind = "stopped"       // a process is about to be stopped (SIGSTOP)
	Continued    Kind = "continued"     // a process has been continued
	BackendEnded Kind = "backend-ended" // Job: the id of a server process, whose locks are free
	ServerDown   Kind = "server-down"   // all locks are free
	Forgiven     Kind = "forgiven"      // Due: what was committed from then until now may be gone
	Machine      Kind = "machine"       // Attempt: percent of the processors that others have used since the latest of these
)

// The outcomes of a run, as the handler saw them.
const (
	Done      = "done"      // it returned nil
	DoneTx    = "done-tx"   // it returned nil after CompleteTx and a commit
	Discarded = "discarded" // it returned dispatcher.Discard
	Snoozed   = "snoozed"   // it returned dispatcher.Snooze
	Failed    = "failed"    // it returned an error of its own
	Permanent = "permanent" // it returned an error that no retry mends
	Broken    = "broken"    // it could not do its work: the database or its context failed it
)

// Event is one thing that happened. Which fields a kind has is said beside it; the others are zero.
type Event struct {
	Time    int64 // ns; see Now
	Kind    Kind
	Token   int64 // of the job, which its producer has given it; from 1
	Job     int64 // the job's id
	Attempt int
	Due     int64
	Text    string

	// Process is whose journal it is in, set by Read: the name and, after a dot, which process of that name.
	Process string
}

const suffix = ".journal"

// Writer writes the journal of one process. Its methods may be called from several goroutines.
type Writer struct {
	file *os.File
}

// Create begins a journal in a directory; the process's name is unique there.
func Create(dir, process string) (*Writer, error) {
	file, err := os.OpenFile(filepath.Join(dir, process+suffix), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Writer{file: file}, nil
}

// Write writes an event, which has happened now if it has no time. A journal that cannot be written makes all
// that is judged by it worthless, so that is a panic.
func (w *Writer) Write(e Event) {
	if e.Time == 0 {
		e.Time = Now()
	}
	if _, err := w.file.Write(e.append(make([]byte, 0, 96))); err != nil {
		panic(fmt.Sprintf("journal: %v", err))
	}
}

// Close ends the journal.
func (w *Writer) Close() error { return w.file.Close() }

// append renders the line: seven fields with tabs between them, the text quoted if it has to be.
func (e Event) append(b []byte) []byte {
	b = strconv.AppendInt(b, e.Time, 10)
	b = append(append(b, '\t'), e.Kind...)
	for _, n := range []int64{e.Token, e.Job, int64(e.Attempt), e.Due} {
		b = strconv.AppendInt(append(b, '\t'), n, 10)
	}
	b = append(b, '\t')
	if plain(e.Text) {
		b = append(b, e.Text...)
	} else {
		b = strconv.AppendQuote(b, e.Text)
	}
	return append(b, '\n')
}

// plain tells whether a text can stand in a line as it is.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' })
}

var errLine = errors.New("not a line of a journal")

func parse(line []byte) (e Event, err error) {
	fields := bytes.SplitN(line, []byte{'\t'}, 7)
	if len(fields) != 7 {
		return e, errLine
	}
	var numbers [5]int64
	for i, at := range []int{0, 2, 3, 4, 5} {
		if numbers[i], err = strconv.ParseInt(string(fields[at]), 10, 64); err != nil {
			return e, errLine
		}
	}
	e = Event{
		Time: numbers[0], Kind: Kind(fields[1]),
		Token: numbers[1], Job: numbers[2], Attempt: int(numbers[3]), Due: numbers[4], Text: string(fields[6]),
	}
	if strings.HasPrefix(e.Text, `"`) {
		if e.Text, err = strconv.Unquote(e.Text); err != nil {
			return e, errLine
		}
	}
	return e, nil
}

// Read reads all journals of a directory and returns their events in the order of time. A last line that is torn was
// written as its process was killed, and is left out; anything else that cannot be read is an error.
func Read(dir string) ([]Event, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var events []Event
	for _, name := range files {
		process := strings.TrimSuffix(filepath.Base(name), suffix)
		if events, err = readFile(events, name, process); err != nil {
			return nil, fmt.Errorf("journal: read that of %s: %w", process, err)
		}
	}
	// Equal times keep the order in which their process wrote them.
	slices.SortStableFunc(events, func(a, b Event) int {
		switch {
		case a.Time < b.Time:
			return -1
		case a.Time > b.Time:
			return 1
		}
		return 0
	})
	return events, nil
}

func readFile(events []Event, name, process string) ([]Event, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return read(events, file, process)
}

func read(events []Event, from io.Reader, process string) ([]Event, error) {
	lines := bufio.NewReaderSize(from, 1<<16)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil // what is left has no end of line: torn
		}
		if err != nil {
			return nil, err
		}
		e, err := parse(line[:len(line)-1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: %q", number, err, line)
		}
		e.Process = process
		events = append(events, e)
	}
}
