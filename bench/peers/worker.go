// A worker process of a Go contender: what it is told, what it tells. The Node ones do the same in node/.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/workers"
)

// settings are what a worker process is told on its standard input, in one line. It stops when that ends.
type settings struct {
	Name        string
	DatabaseURL string
	Concurrency int    // 0: as the contender's settings say
	WorkMS      int    // that a job takes
	Measure     string // measureStamp or nothing
	Hold        bool   // jobs are not finished: they wait for the process to be killed
	Starts      bool   // tell about each start, and each end
	Settings    string // default or tuned
}

// measureStamp is from the time in a job's data until its handler is entered.
const measureStamp = "stamp"

// message is what it tells on its standard output, one a line.
type message struct {
	workers.Progress

	// In the last message:
	Delays delays `json:",omitempty"`
	Early  int    `json:",omitempty"` // delays below 0
}

func workerCommand(ctx context.Context, id string, stdin io.Reader, stdout io.Writer) error {
	all := here()
	i := slices.IndexFunc(all, func(c *contender) bool { return c.ID == id })
	if i < 0 {
		return fmt.Errorf("no contender %q with a worker in this program", id)
	}
	w := &worker{Teller: workers.NewTeller()}
	ctx, cancel, err := child.Settings(ctx, stdin, &w.settings, nil)
	if err != nil {
		return err
	}
	defer cancel()
	w.TellStarts, w.TellEnds = w.Starts, w.Starts
	w.stopping = ctx.Done()
	reported, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	// That nobody listens any more is no reason to stop: the end of stdin tells that.
	out := json.NewEncoder(stdout)
	background.Go(func() {
		w.Report(reported, func(p workers.Progress, last bool) { _ = out.Encode(w.message(p, last)) })
	})
	err = all[i].work(ctx, w)
	end()
	background.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

// worker is the process. All handlers write to it.
type worker struct {
	settings
	*workers.Teller
	stopping <-chan struct{}

	mu     sync.Mutex // of what follows
	delays histogram
	early  int
}

// handle is the handler of every contender's jobs.
func (w *worker) handle(ctx context.Context, data []byte) error {
	var j job
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("decode a job: %w", err)
	}
	return w.handleJob(ctx, j)
}

// handleJob is the handler for those that decode the job themselves.
func (w *worker) handleJob(ctx context.Context, j job) error {
	now := time.Now()
	w.Entered(j.ID, now)
	if w.Measure != "" && j.Stamp != 0 {
		w.note(now.Sub(time.Unix(0, j.Stamp)))
	}
	if err := w.spend(ctx); err != nil {
		return err
	}
	w.Returned(j.ID)
	return nil
}

// note counts a delay.
func (w *worker) note(delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delay < 0 {
		w.early++
	}
	w.delays.record(delay)
}

// spend lets the job take its time.
func (w *worker) spend(ctx context.Context) error {
	var over <-chan time.Time
	switch {
	case w.Hold: // never over
	case w.WorkMS > 0:
		timer := time.NewTimer(time.Duration(w.WorkMS) * time.Millisecond)
		defer timer.Stop()
		over = timer.C
	default:
		return nil
	}
	select {
	case <-over:
		return nil
	case <-w.stopping:
		return context.Canceled
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *worker) message(p workers.Progress, last bool) message {
	m := message{Progress: p}
	if last {
		w.mu.Lock()
		defer w.mu.Unlock()
		m.Delays, m.Early = w.delays.delays(), w.early
	}
	return m
}
