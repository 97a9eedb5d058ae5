// Jobs that are poison: whoever runs them panics, dies or hangs. They have to be set aside, all others be done.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/judge"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func init() { roles["one-queue"] = serveOne }

var _ = register(
	poisonFault("poison-panic", "a job panics each time", "panic", "panic: "),
	poisonFault("poison-exit", "a job ends its process each time (os.Exit)", "exit", "died"),
	poisonFault("poison-loop", "a job goes on for ever and ignores its context, until its process is ended for that", "loop", "died"),
	poisonFault("poison-memory", "a job takes memory until its process dies of it, under a limit", "memory", "died", memoryLimits),
)

const (
	poisonAttempts = 4 // of a poisonous job
	// innocentAttempts of a job beside it: if a death is counted against it more than twice, it is set aside, and the
	// judge sees that.
	innocentAttempts = 3
	poisonRetry      = 100 * time.Millisecond
	hanging          = time.Second // of a job that loops, until someone ends its process
	poisonTimeout    = 500 * time.Millisecond
)

// poisonFault has two dispatchers of their own take a poisonous job among others. They work on the table, and the server,
// with all others, whose work goes on.
func poisonFault(name, about, how, reason string, missing ...func() string) scene.Fault {
	f := scene.Fault{Name: name, Family: "poison", About: about}
	if len(missing) > 0 {
		f.Needs.Missing = missing[0]
	}
	f.Inject = func(ctx context.Context, s *scene.Scene) (err error) {
		queue := fmt.Sprintf("%s %d", name, s.Rand.Uint32())
		var drinkers []scene.Process
		defer func() {
			for _, d := range drinkers {
				err = errors.Join(err, retireLatest(ctx, s, d))
			}
		}()
		p := newPutter(s)
		innocent := make([]load, 20)
		for i := range innocent {
			innocent[i] = load{Kind: plain, Work: 300}
		}
		poison := []load{{Kind: judge.Poison}}
		if err := p.put(ctx, queue, innocent[:10], 0, store.MaxAttempts(innocentAttempts)); err != nil {
			return err
		}
		if err := p.put(ctx, queue, poison, 0, store.MaxAttempts(poisonAttempts)); err != nil {
			return err
		}
		if err := p.put(ctx, queue, innocent[10:], 0, store.MaxAttempts(innocentAttempts)); err != nil {
			return err
		}
		settings, err := json.Marshal(oneQueue{Queue: queue, How: how})
		if err != nil {
			return err
		}
		for i := range 2 {
			d, err := s.Fleet.Start(ctx, "one-queue", fmt.Sprintf("poisoned-%s-%d", how, i+1), string(settings))
			if err != nil {
				return err
			}
			drinkers = append(drinkers, d)
		}
		if err := p.await(ctx, injectTimeout, "each job is done or set aside",
			`select count(*) from public.queue where q_name = $1 and dequeued_at is null`, queue); err != nil {
			return err
		}
		var why string
		if err := s.Admin.QueryRow(ctx, `select coalesce(last_error, '') from public.queue where (data ->> 't')::bigint = $1 and set_aside`,
			poison[0].Token).Scan(&why); err != nil {
			return fmt.Errorf("the poison was not set aside: %w", err)
		}
		if !strings.Contains(why, reason) {
			return fmt.Errorf("the poison was set aside for another reason: %q, want one with %q", why, reason)
		}
		return nil
	}
	return f
}

// retireLatest ends a process for good, or the one that came in its place, after however many deaths.
func retireLatest(ctx context.Context, s *scene.Scene, p scene.Process) (err error) {
	for {
		select {
		case <-p.Ended():
			if p, err = p.Restarted(ctx); err != nil {
				return err
			}
		default:
			return s.Fleet.Retire(ctx, p)
		}
	}
}

// oneQueue is what a dispatcher of one queue is told: which, and what poisonous jobs of it do.
type oneQueue struct{ Queue, How string }

// serveOne is the role.
func serveOne(ctx context.Context, s settings, j *journal.Writer, _ <-chan json.RawMessage, out io.Writer) error {
	var told oneQueue
	if err := json.Unmarshal([]byte(s.Scene), &told); err != nil {
		return err
	}
	w := &worker{settings: s, journal: j, snoozed: map[int64]bool{}}
	var err error
	if w.pool, err = connect(ctx, s, w.trace); err != nil {
		return err
	}
	defer w.pool.Close()
	d := dispatcher.New(store.New(w.pool, store.Options{}), dispatcher.Options{
		Concurrency: 10,
		Grace:       time.Second,
		Queue:       dispatcher.QueueOptions{Retry: retry.Fixed(poisonRetry), Timeout: poisonTimeout},
		Logger:      slog.New(&listener{Handler: slog.NewTextHandler(os.Stderr, nil), w: w}),
	})
	j.Write(journal.Event{Kind: journal.Serves, Text: told.Queue})
	d.Handle(told.Queue, dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		var l load
		if err := job.Decode(&l); err != nil {
			return err
		}
		if l.Kind != judge.Poison {
			return w.handle(ctx, job, l)
		}
		event := journal.Event{Kind: journal.Start, Token: l.Token, Job: job.ID, Attempt: job.Attempt, Text: job.Queue}
		j.Write(event)
		defer func() {
			event.Kind, event.Text, event.Due = journal.End, journal.Failed, int64(poisonRetry)
			j.Write(event)
		}()
		drink(told.How, job.Attempt)
		return nil
	}))
	err = attend(ctx, d, out, w.done.Load)
	if errors.Is(err, dispatcher.ErrStuck) {
		return nil // that is what it is here for
	}
	return err
}

// drink does what is poisonous.
func drink(how string, attempt int) {
	switch how {
	case "panic":
		panic("poison")
	case "exit":
		os.Exit(0)
	case "memory":
		takeMemory()
	case "loop":
		// Somebody notices a process that hangs, and ends it in order. For its end, which takes some seconds, they wait only
		// the first time.
		time.AfterFunc(hanging, func() {
			if self, err := os.FindProcess(os.Getpid()); err == nil && attempt == 1 {
				_ = self.Signal(syscall.SIGTERM)
			} else if err == nil {
				_ = self.Kill()
			}
		})
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C { // nothing ends it
		}
	}
}
