// Manners towards a terminal, and a person, at the other end.

package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// progress is a line on a terminal that is written over and over.
type progress struct {
	w     io.Writer
	on    bool
	shown time.Time // when it was last written; zero: never
	count int
}

const progressInterval = 100 * time.Millisecond

func (p *progress) show(count int) {
	p.count = count
	if now := time.Now(); p.on && now.Sub(p.shown) >= progressInterval {
		p.shown = now
		fmt.Fprintf(p.w, "\r%d jobs", count)
	}
}

// end writes the last state, if any was ever written.
func (p *progress) end() {
	if !p.shown.IsZero() {
		fmt.Fprintf(p.w, "\r%d jobs\n", p.count)
	}
}

// interruptibleReader gives up waiting for input when its context ends. Standard input cannot be told to:
// the goroutine that waits for it then stays, until the process ends.
type interruptibleReader struct {
	ctx  context.Context
	r    io.Reader
	data []byte // read, not returned yet
	err  error
}

func (i *interruptibleReader) Read(p []byte) (int, error) {
	if len(i.data) == 0 && i.err == nil {
		type chunk struct {
			data []byte
			err  error
		}
		read := make(chan chunk, 1)
		go func() {
			buffer := make([]byte, 64<<10)
			n, err := i.r.Read(buffer)
			read <- chunk{buffer[:n], err}
		}()
		select {
		case c := <-read:
			i.data, i.err = c.data, c.err
		case <-i.ctx.Done():
			i.err = context.Cause(i.ctx)
		}
	}
	n := copy(p, i.data)
	i.data = i.data[n:]
	if n > 0 {
		return n, nil
	}
	return 0, i.err
}
