package bench

import (
	"bytes"
	"io"
	"sync"
)

// serverLog is the log of the server that was started, and counts the statements in it, if it logs them.
type serverLog struct {
	io.Writer // hears it as well

	mu         sync.Mutex
	partial    []byte // of a line
	statements int
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.Split(append(l.partial, p...), []byte("\n"))
	l.partial = bytes.Clone(lines[len(lines)-1])
	for _, line := range lines[:len(lines)-1] {
		// By the simple protocol, as pings are, or by the extended one.
		if bytes.Contains(line, []byte(" LOG:  statement: ")) || bytes.Contains(line, []byte(" LOG:  execute ")) {
			l.statements++
		}
	}
	return l.Writer.Write(p)
}

// count is how many there were so far.
func (l *serverLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.statements
}
