package devpg

import (
	"bytes"
	"sync"
)

// Lines is an [Options.Log] that is read line by line.
type Lines struct {
	Each func(line []byte) // is called with one whole line at a time, without its end, which it must not keep

	mu      sync.Mutex
	partial []byte
}

// Write takes a part of the log.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		line, rest, whole := bytes.Cut(l.partial, []byte{'\n'})
		if !whole {
			return len(p), nil
		}
		l.Each(line)
		l.partial = bytes.Clone(rest)
	}
}
