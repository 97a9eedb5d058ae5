package bench

import (
	"bytes"
	"sync/atomic"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
)

// statementLog reads the log of a server that logs all statements, and counts them.
type statementLog struct {
	devpg.Lines
	statements atomic.Int64
}

func newStatementLog() *statementLog {
	l := &statementLog{}
	l.Each = func(line []byte) {
		// By the simple protocol, as pings are, or by the extended one.
		if bytes.Contains(line, []byte(" LOG:  statement: ")) || bytes.Contains(line, []byte(" LOG:  execute ")) {
			l.statements.Add(1)
		}
	}
	return l
}
