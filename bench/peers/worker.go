// A worker process of a Go contender: what it is told, what it tells. The Node ones do the same in node/.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
)

// settings are what a worker process is told on its standard input, in one line. It stops when that ends.
type settings struct {
	Name        string
	DatabaseURL string
	Concurrency int    // 0: as the contender's settings say
	WorkMS      int    // that a job takes
	Measure     string // measureStamp or nothing
	Hold        bool   // jobs are not finished: they wait for the process to be killed
	Starts      bool   // tell about each start
	Settings    string // default or tuned
}

// measureStamp is from the time in a job's data until its handler is entered.
const measureStamp = "stamp"

// message is what it tells on its standard output, one a line. Numbers are totals.
type message struct {
	Ready  bool    `json:",omitempty"` // once: it runs jobs
	Done   int     `json:",omitempty"` // handlers that have returned
	First  int64   `json:",omitempty"` // when the first one was entered, in ns since 1970
	Last   int64   `json:",omitempty"` // when the latest one returned
	Starts []start `json:",omitempty"` // since the last message

	// In the last message:
	Delays delays `json:",omitempty"`
	Early  int    `json:",omitempty"` // delays below 0
}

// start is a handler that was entered.
type start struct {
	ID int64
	At int64 // ns since 1970
}

// reporting is the time between two messages at least. Without news there is none.
const reporting = 10 * time.Millisecond

func workerCommand(ctx context.Context, id string, stdin io.Reader, stdout io.Writer) error {
	all := here()
	i := slices.IndexFunc(all, func(c *contender) bool { return c.ID == id })
	if i < 0 {
		return fmt.Errorf("no contender %q with a worker in this program", id)
	}
	w := &worker{news: make(chan struct{}, 1)}
	ctx, cancel, err := child.Settings(ctx, stdin, &w.settings, nil)
	if err != nil {
		return err
	}
	defer cancel()
	w.stopping = ctx.Done()
	reported, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { w.report(reported, json.NewEncoder(stdout)) })
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
	stopping <-chan struct{}

	ready       atomic.Bool
	done        atomic.Int64
	first, last atomic.Int64
	news        chan struct{} // holds one if there is anything to tell

	mu     sync.Mutex // of what follows
	starts []start
	delays histogram
	early  int
}

// works tells that jobs are run from now on.
func (w *worker) works() {
	w.ready.Store(true)
	w.tell()
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
	if w.first.Load() == 0 {
		w.first.CompareAndSwap(0, now.UnixNano())
	}
	w.note(j, now)
	if err := w.spend(ctx); err != nil {
		return err
	}
	w.last.Store(time.Now().UnixNano())
	w.done.Add(1)
	w.tell()
	return nil
}

// note keeps what is to be told about a start.
func (w *worker) note(j job, now time.Time) {
	measured := w.Measure != "" && j.Stamp != 0
	if !measured && !w.Starts {
		return
	}
	w.mu.Lock()
	if measured {
		delay := now.Sub(time.Unix(0, j.Stamp))
		if delay < 0 {
			w.early++
		}
		w.delays.record(delay)
	}
	if w.Starts {
		w.starts = append(w.starts, start{j.ID, now.UnixNano()})
	}
	w.mu.Unlock()
	w.tell()
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

func (w *worker) tell() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// report tells the news until ctx ends, and then all. That nobody listens any more is no reason to stop: the end of
// stdin tells that.
func (w *worker) report(ctx context.Context, out *json.Encoder) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.news:
			_ = out.Encode(w.message(false))
		case <-ctx.Done():
			_ = out.Encode(w.message(true))
			return
		}
		timer.Reset(reporting)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

func (w *worker) message(last bool) message {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := message{Ready: w.ready.Load(), Done: int(w.done.Load()), First: w.first.Load(), Last: w.last.Load(), Starts: w.starts}
	w.starts = nil
	if last {
		m.Delays, m.Early = w.delays.delays(), w.early
	}
	return m
}
