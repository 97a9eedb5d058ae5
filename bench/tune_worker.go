// What a dispatcher process does while settings are searched: as worker.go, with more to set, and jobs of a size.

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/handler"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
)

// tuneSettings are what such a process is told on its standard input.
type tuneSettings struct {
	settings
	Prefetch    int
	Connections int      // of its pool; 0: the pool's default
	Command     []string // that runs a job; none: it takes Work
}

// TuneProcess is a dispatcher process of [Tune]. It reads its settings from stdin and stops as [Process] does.
func TuneProcess(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	w := &tuneWorker{worker: newWorker()}
	ctx, cancel, err := child.Settings(ctx, stdin, &w.told, nil)
	if err == nil {
		defer cancel()
		w.settings = w.told.settings
		err = w.run(ctx, json.NewEncoder(stdout), stderr)
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// tuneWorker is the process.
type tuneWorker struct {
	*worker
	told tuneSettings
	exec *handler.Exec // nil: jobs take a time
	fail context.CancelCauseFunc
}

func (w *tuneWorker) run(ctx context.Context, out *json.Encoder, stderr io.Writer) (err error) {
	pool, err := scratch.Pool(ctx, w.DatabaseURL, w.Schema, w.Name, int32(w.told.Connections))
	if err != nil {
		return err
	}
	defer pool.Close()
	if w.told.Command != nil {
		if w.exec, err = newTuneExec(w.told.Command); err != nil {
			return err
		}
		defer func() { _ = w.exec.Close(context.WithoutCancel(ctx)) }() // the dispatcher has ended by then, and all jobs
	}
	jobs := scratch.Store(pool, w.Schema)
	d := dispatcher.New(jobs, dispatcher.Options{
		Concurrency: w.Concurrency,
		Queue:       dispatcher.QueueOptions{Prefetch: w.told.Prefetch},
		Grace:       grace,
		Logger:      slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	d.Handle(queueName, dispatcher.HandlerFunc(w.handle))
	own := "first job of " + w.Name
	d.Handle(own, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		w.Works()
		return nil
	}))
	if _, err := jobs.Queue(own).Put(ctx, nil); err != nil {
		return err
	}
	reported, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { w.report(reported, out) })
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	w.fail = fail
	err = d.Run(running)
	end()
	background.Wait()
	if err == nil && ctx.Err() == nil {
		err = context.Cause(running)
	}
	return err
}

// newTuneExec is a handler of package handler, as the daemon makes them of a configuration that says no more.
func newTuneExec(command []string) (*handler.Exec, error) {
	return handler.NewExec(handler.ExecOptions{
		Program: handler.Program{Command: command, Inherit: []string{"PATH", "HOME"}},
		Logger:  slog.New(slog.DiscardHandler),
	})
}

func (w *tuneWorker) handle(ctx context.Context, job *dispatcher.Job) error {
	now := time.Now()
	w.Entered(job.ID, now)
	stamp, err := stampOf(job.Data)
	if err == nil {
		if stamp != 0 {
			w.mu.Lock()
			w.delays.record(now.Sub(time.Unix(0, stamp)))
			w.mu.Unlock()
		}
		err = w.work(ctx, job)
	}
	switch {
	case err == nil:
		w.Returned(job.ID)
	case ctx.Err() == nil: // it would be tried again, and nothing that is measured would mean anything
		w.fail(fmt.Errorf("a job has failed: %w", err))
	}
	return err
}

func (w *tuneWorker) work(ctx context.Context, job *dispatcher.Job) error {
	if w.exec != nil {
		return w.exec.Handle(ctx, job)
	}
	if w.Work <= 0 {
		return nil
	}
	timer := time.NewTimer(w.Work)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tuneData is a job's data: its stamp, in ns since 1970, or 0, and what makes it as long as it should be. It is
// random, so that the server cannot compress it.
type tuneData struct{ padding string }

const (
	stampKey, paddingKey = `{"at": `, `, "pad": "`
	letters              = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
)

// newTuneData has data of so many bytes, or of what a stamp alone takes.
func newTuneData(size int) tuneData {
	padding := make([]byte, max(0, size-len(stampKey)-stampDigits-len(paddingKey)-len(`"}`)))
	for i := range padding {
		padding[i] = letters[rand.N(len(letters))]
	}
	return tuneData{string(padding)}
}

const stampDigits = 19 // of a time in this century and the next

func (d tuneData) at(stamp int64) json.RawMessage {
	number := strconv.FormatInt(stamp, 10)
	if d.padding == "" {
		return json.RawMessage(number)
	}
	return json.RawMessage(stampKey + number + paddingKey + d.padding + `"}`)
}

var errNoStamp = errors.New("the data has no stamp")

// stampOf reads the data as the database writes it, without a look at the rest of it.
func stampOf(data []byte) (int64, error) {
	data = bytes.TrimPrefix(data, []byte(stampKey))
	end := bytes.IndexFunc(data, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		data = data[:end]
	}
	stamp, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return 0, errNoStamp
	}
	return stamp, nil
}
