// What a dispatcher process of a benchmark does, which its parent has started.

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/proc"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
	"github.com/pq-dispatch/pq-dispatch/internal/workers"
)

// settings are what a process is told on its standard input.
type settings struct {
	Name        string
	DatabaseURL string
	Schema      string
	Queues      []string
	Concurrency int           // 0: the dispatcher's default
	Sweep       time.Duration // 0: the dispatcher's default

	Profile string // a file for a CPU profile of the process; empty: none

	Work   time.Duration // that a job takes
	Hold   bool          // a job's first run lasts until the parent says otherwise
	Starts bool          // tell about each start
	Delay  delaySince    // measure, and tell about it in the end
}

// delaySince says from when on a delay is measured until the handler is entered.
type delaySince string

const (
	fromStamp    delaySince = "stamp"    // the time in the job's data, in ns since 1970; 0: do not count this one
	fromSchedule delaySince = "schedule" // the job's schedule_at
)

// message is what a process tells on its standard output.
type message struct {
	workers.Progress

	// In the last message:
	Delays *histogram `json:",omitempty"`
	Early  int        `json:",omitempty"` // delays below 0
	Memory float64    `json:",omitempty"` // the most that it has had, in MiB
}

const (
	grace = 100 * time.Millisecond // for handlers, when the process is told to stop
	// patience is for a process that was told to stop: more than that and what the dispatcher itself
	// takes to give up on handlers.
	patience = grace + 10*time.Second
)

// Process is a dispatcher process of a benchmark. It reads its settings from stdin and stops, as when
// ctx ends, at stdin's end: which it comes to when its parent lets go of it, or is killed.
func Process(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	w := newWorker()
	ctx, cancel, err := child.Settings(ctx, stdin, &w.settings, func(json.RawMessage) { w.release() })
	if err == nil {
		defer cancel()
		err = w.run(ctx, json.NewEncoder(stdout), stderr)
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// worker is the process. Handlers of all its jobs write to it; those of the fastest benchmarks only
// to what is atomic.
type worker struct {
	settings
	*workers.Teller

	mu       sync.Mutex
	delays   *histogram
	early    int
	released chan struct{} // closed when the parent ends the present holds
}

func newWorker() *worker {
	return &worker{Teller: workers.NewTeller(), delays: newHistogram(), released: make(chan struct{})}
}

func (w *worker) run(ctx context.Context, out *json.Encoder, stderr io.Writer) error {
	w.TellStarts = w.Starts
	pool, err := scratch.Pool(ctx, w.DatabaseURL, w.Schema, w.Name, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	jobs := scratch.Store(pool, w.Schema)
	d := dispatcher.New(jobs, dispatcher.Options{
		Concurrency: w.Concurrency,
		Grace:       grace,
		Sweep:       w.Sweep,
		Logger:      slog.New(slog.NewTextHandler(stderr, nil)),
	})
	for _, queue := range w.Queues {
		d.Handle(queue, dispatcher.HandlerFunc(w.handle))
	}
	// The first job that it runs is its own, and shows that it runs.
	own := "first job of " + w.Name
	d.Handle(own, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		w.Works()
		return nil
	}))
	if _, err := jobs.Queue(own).Put(ctx, nil); err != nil {
		return err
	}
	if w.Profile != "" {
		file, err := os.Create(w.Profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	reported, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { w.report(reported, out) })
	err = d.Run(ctx)
	end()
	background.Wait()
	return err
}

func (w *worker) handle(ctx context.Context, job *dispatcher.Job) error {
	now := time.Now()
	w.Entered(job.ID, now)
	if w.Delay != "" {
		if err := w.note(job, now); err != nil {
			return err
		}
	}
	var err error
	switch {
	case w.Hold && job.Attempt == 1:
		err = w.hold(ctx)
	case w.Work > 0:
		timer := time.NewTimer(w.Work)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			err = context.Cause(ctx)
		}
	}
	if err == nil {
		w.Returned(job.ID)
	}
	return err
}

// note counts the delay of a start.
func (w *worker) note(job *dispatcher.Job, now time.Time) error {
	var since time.Time
	switch w.Delay {
	case fromSchedule:
		since = job.ScheduleAt
	case fromStamp:
		stamp, err := strconv.ParseInt(string(job.Data), 10, 64)
		if err != nil {
			return fmt.Errorf("the data is no stamp: %w", err)
		}
		if stamp != 0 {
			since = time.Unix(0, stamp)
		}
	}
	if since.IsZero() {
		return nil
	}
	delay := now.Sub(since)
	w.mu.Lock()
	defer w.mu.Unlock()
	if delay < 0 {
		w.early++
	}
	w.delays.record(delay)
	return nil
}

// hold waits for the parent.
func (w *worker) hold(ctx context.Context) error {
	w.mu.Lock()
	released := w.released
	w.mu.Unlock()
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// release ends all present holds.
func (w *worker) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.released)
	w.released = make(chan struct{})
}

// report tells the news until ctx ends. A parent that does not listen any more is no reason to stop: the end of stdin tells that.
func (w *worker) report(ctx context.Context, out *json.Encoder) {
	w.Report(ctx, func(p workers.Progress, last bool) {
		m := message{Progress: p}
		if last {
			m.Delays, m.Early, m.Memory = w.delays, w.early, proc.PeakMemory()
		}
		_ = out.Encode(m)
	})
}
