// The server's log, read as it is written: when the server's side of a session has ended, its locks are free, whatever
// the dispatcher knows of it.

package main

import (
	"bytes"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// logSettings make the server write what is read here: seconds since 1970 and the process, then the message.
var logSettings = map[string]string{"log_line_prefix": "%n %p ", "log_disconnections": "on", "log_min_messages": "warning"}

// serverLog writes the journal's events of a server's log. It is an io.Writer for the log.
type serverLog struct {
	devpg.Lines

	mu     sync.Mutex
	offset int64 // of the server's clock from the journal's, in ns; 0: not known yet
}

func newServerLog(j *journal.Writer) *serverLog {
	l := &serverLog{}
	l.Each = func(line []byte) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if e, ok := l.event(line); ok && l.offset != 0 {
			j.Write(e)
		}
	}
	return l
}

// know sets the offset. What is read before it is known, or is 0 again, is not written.
func (l *serverLog) know(offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offset = offset
}

// event reads a line.
func (l *serverLog) event(line []byte) (e journal.Event, ok bool) {
	stamp, line, _ := bytes.Cut(line, []byte{' '})
	pid, text, _ := bytes.Cut(line, []byte{' '})
	seconds, err := strconv.ParseFloat(string(stamp), 64)
	if err != nil || math.IsInf(seconds, 0) || math.IsNaN(seconds) {
		return e, false
	}
	e.Time = int64(seconds*1e3)*int64(time.Millisecond) - l.offset
	if e.Job, err = strconv.ParseInt(string(pid), 10, 64); err != nil {
		return e, false
	}
	switch {
	case bytes.Contains(text, []byte("disconnection: session time")):
		e.Kind = journal.BackendEnded
	case bytes.Contains(text, []byte("received immediate shutdown request")),
		bytes.Contains(text, []byte("terminating any other active server processes")):
		e.Kind, e.Job = journal.ServerDown, 0
	default:
		return e, false
	}
	return e, true
}
