// The lines that go to and come from one process of a worker.

package handler

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// conversation is with a process that runs. Its owner is the goroutine that has opened it, which has to
// end it or let it go.
type conversation struct {
	*process
	lines  chan []byte   // what it says; closed when it can say no more
	deaf   chan struct{} // closed when it cannot be told any more
	stderr tail          // since its last job began

	hurry    <-chan struct{} // closed when there is no more patience
	outgoing chan []byte
	hungUp   bool  // outgoing is closed; for the owner only
	scanned  error // how lines ended; before it is closed
	pumps    sync.WaitGroup
}

// unheard is how many lines may wait for a program that does not read: a job and its cancel are two.
const unheard = 4

// open starts a process.
func (w *Worker) open() (*conversation, error) {
	p, err := w.spawner.start(w.options.command(w.env))
	if err != nil {
		return nil, err
	}
	c := &conversation{
		process: p, lines: make(chan []byte), deaf: make(chan struct{}), outgoing: make(chan []byte, unheard),
		stderr: tail{limit: maxTail}, hurry: w.runs.hurry.Done(),
	}
	c.pumps.Go(c.write)
	c.pumps.Go(c.read)
	c.pumps.Go(func() { c.log(w.log) })
	return c, nil
}

// write passes lines to the program, until there are none to come; then its stdin ends.
func (c *conversation) write() {
	failed := false
	for line := range c.outgoing {
		if failed {
			continue
		}
		if _, err := c.stdin.Write(line); err != nil {
			failed = true
			close(c.deaf)
		}
	}
	_ = c.stdin.Close()
}

func (c *conversation) read() {
	defer close(c.lines)
	scanner := bufio.NewScanner(c.stdout)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		c.lines <- bytes.Clone(scanner.Bytes())
	}
	c.scanned = scanner.Err()
}

// log passes on what the program says on stderr. A very long line becomes several.
func (c *conversation) log(log *slog.Logger) {
	const longest = 8 << 10
	r := bufio.NewReaderSize(c.process.stderr, longest)
	for {
		line, err := r.ReadSlice('\n')
		_, _ = c.stderr.Write(line)
		if text := printable(line); text != "" {
			log.Info("a worker process says", "pid", c.pid(), "stderr", text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// say tells the program something, unless it has not read for so long that nothing more can wait for it.
func (c *conversation) say(line []byte) {
	select {
	case c.outgoing <- line:
	default:
	}
}

// over tells whether the process has ended.
func (c *conversation) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// silence is what end is to be given when lines have ended: what the program did wrong, for which it is
// killed, else the reason and the patience given.
func (c *conversation) silence(patience time.Duration, reason error) (time.Duration, error) {
	if errors.Is(c.scanned, bufio.ErrTooLong) {
		return 0, fmt.Errorf("said a line of more than %d bytes", maxLine)
	}
	return patience, reason
}

// end ends the process, if it has not ended by itself, and returns the reason with how it has, and what
// it said last. Without patience it is killed.
func (c *conversation) end(patience time.Duration, reason error) error {
	if patience > 0 {
		c.await(drainTime, c.hurry) // one that is about to end has a status of its own
	}
	c.stop(patience, c.hurry)
	c.close()
	return fmt.Errorf("worker process %d %w: %s", c.pid(), reason, c.failure(&c.stderr))
}

// letGo tells the process by the end of its stdin that it is not needed any more, and ends it if it is
// still there after that time.
func (c *conversation) letGo(patience time.Duration) {
	c.hangUp()
	c.await(patience, c.hurry)
	c.stop(patience, c.hurry)
	c.close()
}

// hangUp ends the program's stdin, once it has read what was said.
func (c *conversation) hangUp() {
	if !c.hungUp {
		c.hungUp = true
		close(c.outgoing)
	}
}

// close ends the goroutines of a process that has ended, and its pipes.
func (c *conversation) close() {
	c.hangUp()
	for range c.lines { // what it said to nobody
	}
	c.pumps.Wait()
	c.release()
}
