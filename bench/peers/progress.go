// One line that tells what is going on, on a terminal; elsewhere nothing.

package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

type progress struct {
	to       io.Writer
	terminal bool
	mu       sync.Mutex // of writing
}

func newProgress(to io.Writer) *progress {
	f, ok := to.(*os.File)
	return &progress{to: to, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *progress) step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprintf(p.to, "\r\x1b[K"+format, args...)
	}
}

func (p *progress) end() { p.step("") }
