// What the demo's child processes do: put the files, or run the dispatcher.

package demo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/scratch"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const (
	concurrency = 8               // handlers at once in a process, each with a connection
	grace       = 2 * time.Second // for handlers, when the process is told to stop
	sweep       = time.Second     // and so the longest that a killed process's jobs wait
	putBatch    = 250             // files put in one transaction: the first are at work while others are found
	reporting   = 100 * time.Millisecond
	stepTime    = 100 * time.Millisecond // that a job of the order queue takes
)

// settings are what a process is told on its standard input, as one JSON object. (Arguments and
// environment are there for others to see, and the URL may hold a password.)
type settings struct {
	Name        string
	DatabaseURL string
	Schema      string
	Dir         string
	Queues      []string // of a worker
}

// message is what a process tells on its standard output, one JSON object a line. Numbers are totals.
type message struct {
	Ready   bool      `json:",omitempty"` // of a worker, once: it runs jobs
	Done    int       `json:",omitempty"`
	Running int       `json:",omitempty"` // now
	Late    []int64   `json:",omitempty"` // latenesses in microseconds, since the last message
	Put     int       `json:",omitempty"` // of the producer
	Skipped []Problem `json:",omitempty"` // since the last message
}

// file is the data of a job: which file to hash. Paths are bytes, for a file name need not be UTF-8.
type file struct {
	Path []byte `json:"path"`
	Size int64  `json:"size"`
}

// Process is a process of the demo: a "worker" or the "producer". It reads its settings from stdin
// and stops, as when ctx ends, at stdin's end: which it comes to when its parent lets go of it, or is
// killed. A goroutine goes on reading stdin until then.
func Process(ctx context.Context, role string, stdin io.Reader, stdout, stderr io.Writer) error {
	var s settings
	ctx, cancel, err := child.Settings(ctx, stdin, &s, nil)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer cancel()
	run := map[string]func(context.Context, settings, *json.Encoder, io.Writer) error{
		"worker":   runWorker,
		"producer": runProducer,
	}[role]
	if run == nil {
		return fmt.Errorf("demo: unknown role %q, want worker or producer", role)
	}
	if err := run(ctx, s, json.NewEncoder(stdout), stderr); err != nil {
		return fmt.Errorf("demo: %s: %w", s.Name, err)
	}
	return nil
}

// connect opens a pool of at most that many connections, named after the process.
func connect(ctx context.Context, s settings, connections int32) (*pgxpool.Pool, *store.Store, error) {
	pool, err := scratch.Pool(ctx, s.DatabaseURL, s.Schema, s.Name, connections)
	if err != nil {
		return nil, nil, err
	}
	return pool, scratch.Store(pool, s.Schema), nil
}

// runProducer puts a job for each file, in batches, with a row for each that says so.
func runProducer(ctx context.Context, s settings, out *json.Encoder, _ io.Writer) error {
	pool, jobs, err := connect(ctx, s, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	var said message
	skipped := func(path string, err error) { said.Skipped = append(said.Skipped, newProblem(failed, path, "%v", err)) }
	next, stop := iter.Pull2(regularFiles(ctx, s.Dir, skipped))
	defer stop()
	for more := true; more; {
		var paths [][]byte
		batch := func(yield func(file) bool) {
			for range putBatch {
				path, info, ok := next()
				if !ok {
					more = false
					return
				}
				paths = append(paths, []byte(path))
				if !yield(file{Path: []byte(path), Size: info.Size()}) {
					return
				}
			}
		}
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			ids, err := store.PutMany(ctx, jobs.Queue(filesQueue).With(tx), batch)
			if err != nil {
				return err
			}
			_, err = tx.CopyFrom(ctx, pgx.Identifier{s.Schema, "puts"}, []string{"job_id", "path"},
				pgx.CopyFromSlice(len(ids), func(i int) ([]any, error) { return []any{ids[i], paths[i]}, nil }))
			return err
		})
		if err != nil {
			return err
		}
		said.Put += len(paths)
		if err := out.Encode(said); err != nil {
			return err
		}
		said.Skipped = nil
	}
	return context.Cause(ctx) // a walk that was cut short is not the whole directory
}

// worker is a dispatcher process.
type worker struct {
	settings
	pool *pgxpool.Pool
	root *os.Root // of the directory; what is opened through it does not lead out of it

	mu    sync.Mutex
	tally message // since the last report
}

func runWorker(ctx context.Context, s settings, out *json.Encoder, stderr io.Writer) error {
	// One more than the handlers need for the outcomes, one for the dead.
	const connections = concurrency + 2
	pool, jobs, err := connect(ctx, s, connections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := warm(ctx, pool, connections); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &worker{settings: s, pool: pool, root: root}
	handlers := map[string]dispatcher.HandlerFunc{
		filesQueue: w.hash,
		orderQueue: w.step(stepTime),
		idleQueue:  w.step(0),
	}
	options := map[string]dispatcher.QueueOptions{}
	if slices.Contains(s.Queues, orderQueue) {
		options[orderQueue] = dispatcher.QueueOptions{Concurrency: 1} // else there is no order to be seen
	}
	d := dispatcher.New(jobs, dispatcher.Options{
		Concurrency: concurrency,
		Queue:       dispatcher.QueueOptions{Retry: retry.Fixed(200 * time.Millisecond)},
		Queues:      options,
		Grace:       grace,
		Sweep:       sweep,
		Logger:      slog.New(slog.NewTextHandler(stderr, nil)),
	})
	for _, queue := range s.Queues {
		d.Handle(queue, w.counted(handlers[queue]))
	}
	// The first job that it runs is its own, and shows that it runs.
	own := "first job of " + s.Name
	d.Handle(own, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tally.Ready = true
		return nil
	}))
	if _, err := jobs.Queue(own).Put(ctx, nil); err != nil {
		return err
	}
	reported, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { w.report(reported, out) })
	err = d.Run(ctx)
	end()
	background.Wait()
	return err
}

// warm opens all connections: what that takes is not lateness of the first jobs.
func warm(ctx context.Context, pool *pgxpool.Pool, connections int) error {
	for range connections {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // all of them at the end, else it would be the same one each time
	}
	return nil
}

// counted counts the runs of a handler for the parent's live line.
func (w *worker) counted(h dispatcher.HandlerFunc) dispatcher.HandlerFunc {
	return func(ctx context.Context, job *dispatcher.Job) error {
		w.mu.Lock()
		w.tally.Running++
		w.tally.Late = append(w.tally.Late, job.Lateness.Microseconds())
		w.mu.Unlock()
		err := h(ctx, job)
		w.mu.Lock()
		w.tally.Running--
		if err == nil {
			w.tally.Done++
		}
		w.mu.Unlock()
		return err
	}
}

// report tells the tally until ctx ends, and then once more. A parent that does not listen any more
// is no reason to stop: the end of stdin tells that.
func (w *worker) report(ctx context.Context, out *json.Encoder) {
	tick := time.NewTicker(reporting)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		w.mu.Lock()
		said := w.tally
		w.tally.Ready, w.tally.Late = false, nil
		w.mu.Unlock()
		_ = out.Encode(said)
	}
}

// hash handles a job of the files queue. Whoever reads the file is the one who knows whether it can
// be read: a file that is gone is a result too, one that cannot be read is an error that no retry mends.
func (w *worker) hash(ctx context.Context, job *dispatcher.Job) error {
	var f file
	if err := job.Decode(&f); err != nil {
		return err
	}
	print, err := fingerprintOf(ctx, w.root, string(f.Path))
	switch {
	case gone(err):
		print = fingerprint{}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return retry.Permanent(err)
	}
	return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			insert into `+table(w.Schema, "results")+` (job_id, path, worker, digest, size, modified, enqueued_at, lateness_us)
			values ($1, $2, $3, $4, $5, $6, $7, $8)`,
			job.ID, f.Path, w.Name, print.digest, print.size, print.modified, job.EnqueuedAt, job.Lateness.Microseconds())
		if err != nil {
			return err
		}
		return job.CompleteTx(ctx, tx)
	})
}

// step handles a job of the queues order and idle: it notes when it started, and takes its time.
func (w *worker) step(takes time.Duration) dispatcher.HandlerFunc {
	return func(ctx context.Context, job *dispatcher.Job) error {
		var label string
		if err := job.Decode(&label); err != nil {
			return err
		}
		var scheduleAt *time.Time
		if !job.ScheduleAt.IsZero() {
			scheduleAt = &job.ScheduleAt
		}
		return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				insert into `+table(w.Schema, "steps")+` (job_id, queue, label, schedule_at, lateness_us)
				values ($1, $2, $3, $4, $5)`,
				job.ID, job.Queue, label, scheduleAt, job.Lateness.Microseconds())
			if err != nil {
				return err
			}
			timer := time.NewTimer(takes)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			return job.CompleteTx(ctx, tx)
		})
	}
}

// fingerprint is a file's content, and what lstat said just before it was read.
type fingerprint struct {
	digest   []byte // SHA-256
	size     int64  // bytes
	modified int64  // ns since 1970
}

var errNotRegular = fmt.Errorf("not a regular file any more: %w", fs.ErrNotExist)

// fingerprintOf reads as many bytes as the file has when it is opened: one that is always being
// appended to has no end. The error is one that gone knows if there is no such regular file.
func fingerprintOf(ctx context.Context, root *os.Root, path string) (f fingerprint, err error) {
	before, err := root.Lstat(path)
	if err != nil {
		return f, err
	}
	if !before.Mode().IsRegular() {
		return f, errNotRegular // opening a link would follow it, opening a pipe would wait
	}
	opened, err := root.Open(path)
	if err != nil {
		return f, err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return f, err
	}
	if !info.Mode().IsRegular() || !os.SameFile(before, info) {
		return f, errNotRegular
	}
	hash := sha256.New()
	content := io.LimitReader(opened, info.Size())
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(hash, content, 1<<20)
	}
	if err == nil {
		return f, context.Cause(ctx)
	}
	if !errors.Is(err, io.EOF) {
		return f, err
	}
	return fingerprint{digest: hash.Sum(nil), size: info.Size(), modified: info.ModTime().UnixNano()}, nil
}

// gone tells whether there is no such file, be it that a directory above it is none any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
