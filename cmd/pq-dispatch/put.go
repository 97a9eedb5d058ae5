// put: one job, or with --jsonl one for each line.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// maxInput bounds what is read for one job, in bytes of text. The store's own limit is on what remains
// of it without white space.
const maxInput = 8 << 20

// putFlags are the flags of put.
type putFlags struct {
	file, scheduleAt, expectedAt, task string
	jsonl                              bool
	maxAttempts                        positive
}

func (a *app) putCommand() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put QUEUE [DATA]",
		Short: "Put a job, or many",
		Long: `Puts a job and prints its id. DATA is JSON; without it, or when it is -, the data is read from standard
input, and with --file from there.

With --jsonl each line of the input is a job of its own, empty ones left out, and all are put in one
transaction: if one of them cannot be, none is, and the error names its line.

Among the jobs that are due the one with the earliest --expected-at runs first, those without one last,
and then the one put first. A time is absolute, such as 2030-01-02T15:04:05Z, or a delay such as 30s,
5m, 1h or 2d.`,
		Example: `  pq-dispatch put apples '{"kind": "Cox"}'
  pq-dispatch put apples '{"kind": "Cox"}' --schedule-at 5m --max-attempts 3
  jq -c '.[]' apples.json | pq-dispatch put apples --jsonl`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeFirstQueue,
	}
	cmd.Flags().StringVar(&f.file, "file", "", "read the data from this `path`; - is standard input")
	cmd.Flags().BoolVar(&f.jsonl, "jsonl", false, "put a job for each line of the input, all or none")
	cmd.Flags().StringVar(&f.scheduleAt, "schedule-at", "", "`time` before which it does not run")
	cmd.Flags().StringVar(&f.expectedAt, "expected-at", "", "`time` by which it is wanted: its priority")
	cmd.Flags().StringVar(&f.task, "task", "", "`name` of the task that it is of")
	cmd.Flags().Var(&f.maxAttempts, "max-attempts", "how often it may run before it is set aside (default: the worker's)")
	cmd.RunE = a.withPool(func(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, args []string) error {
		queue := jobs.Queue(args[0])
		if err := plainName(queue, args[0]); err != nil {
			return err
		}
		if cmd.Flags().Changed("task") && f.task == "" {
			return &usageError{"--task: the name is empty"}
		}
		options, err := f.options()
		if err != nil {
			return err
		}
		if f.jsonl {
			return a.putLines(ctx, pool, jobs, queue.Name(), args[1:], &f, options)
		}
		return a.putOne(ctx, jobs, queue.Name(), args[1:], &f, options)
	})
	return cmd
}

func (f *putFlags) options() (options []store.PutOption, err error) {
	var option store.PutOption
	if f.scheduleAt != "" {
		if option, err = moment("schedule-at", f.scheduleAt, store.ScheduleAt[time.Time], store.ScheduleAt[time.Duration]); err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	if f.expectedAt != "" {
		if option, err = moment("expected-at", f.expectedAt, store.ExpectedAt[time.Time], store.ExpectedAt[time.Duration]); err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	if f.task != "" {
		options = append(options, store.OfTask(f.task))
	}
	if f.maxAttempts > 0 {
		options = append(options, store.MaxAttempts(int(f.maxAttempts)))
	}
	return options, nil
}

func (a *app) putOne(ctx context.Context, jobs *store.Store, queue string, args []string, f *putFlags, options []store.PutOption) error {
	data, err := a.data(ctx, args, f)
	if err != nil {
		return err
	}
	if err := wellFormed(data); err != nil {
		return err
	}
	id, err := jobs.Plain(queue).Put(ctx, json.RawMessage(data), options...)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, id)
	return err
}

// data is the text of one job.
func (a *app) data(ctx context.Context, args []string, f *putFlags) ([]byte, error) {
	if len(args) == 1 && args[0] != "-" {
		if f.file != "" {
			return nil, &usageError{"put: give DATA or --file, not both"}
		}
		return []byte(args[0]), nil
	}
	input, err := a.input(ctx, args, f)
	if err != nil {
		return nil, err
	}
	defer input.Close()
	data, err := io.ReadAll(io.LimitReader(input, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("%w: over %d bytes of text; store it elsewhere and put a reference to it", store.ErrTooLarge, maxInput)
	}
	return data, nil
}

// input opens the file or standard input.
func (a *app) input(ctx context.Context, args []string, f *putFlags) (io.ReadCloser, error) {
	switch {
	case len(args) == 1 && args[0] != "-":
		return nil, &usageError{"put --jsonl: the lines are read from standard input or --file, not from DATA"}
	case len(args) == 1 && f.file != "":
		return nil, &usageError{"put: give - or --file, not both"}
	case f.file != "" && f.file != "-":
		file, err := os.Open(f.file)
		if err != nil {
			return nil, &usageError{"--file: " + err.Error()}
		}
		return file, nil
	case len(args) == 0 && f.file == "" && isTerminal(a.stdin):
		return nil, &usageError{"put: no data: give DATA or --file, or - to type it here"}
	}
	return io.NopCloser(&interruptibleReader{ctx: ctx, r: a.stdin}), nil
}

func wellFormed(data []byte) error {
	if json.Valid(data) {
		return nil
	}
	var first, second any
	in := json.NewDecoder(bytes.NewReader(data))
	if in.Decode(&first) == nil && in.Decode(&second) == nil {
		return fmt.Errorf("%w: it is not JSON but several values of it; put them with --jsonl, one a line", store.ErrData)
	}
	err := json.Unmarshal(data, &first)
	return fmt.Errorf("%w: it is not JSON (%w); a text needs its quotes: '\"text\"'", store.ErrData, err)
}

// putLines puts in a transaction of its own: an end of the lines that is an error must take back the
// jobs of those before it.
func (a *app) putLines(ctx context.Context, pool *pgxpool.Pool, jobs *store.Store, queue string, args []string, f *putFlags, options []store.PutOption) error {
	input, err := a.input(ctx, args, f)
	if err != nil {
		return err
	}
	defer input.Close()
	in := &lines{input: input, progress: progress{w: a.stderr, on: a.terminal}}
	var ids []int64
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
		ids, err = store.PutMany(ctx, jobs.With(tx).Plain(queue), in.all(), options...)
		if in.err != nil {
			return in.err
		}
		return in.blame(err)
	})
	in.progress.end()
	if err != nil {
		return fmt.Errorf("nothing was put: %w", err)
	}
	out := bufio.NewWriter(a.stdout)
	for _, id := range ids {
		fmt.Fprintln(out, id)
	}
	return out.Flush()
}

// lines reads jobs, a line each.
type lines struct {
	input    io.Reader
	number   int   // of the last line read, from 1
	err      error // why the lines ended before the input did
	progress progress
}

func (l *lines) all() iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		scanner := bufio.NewScanner(l.input)
		scanner.Buffer(make([]byte, 64<<10), maxInput)
		put := 0
		for scanner.Scan() {
			l.number++
			line := bytes.TrimSpace(scanner.Bytes())
			if len(line) == 0 {
				continue
			}
			if err := wellFormed(line); err != nil {
				l.err = fmt.Errorf("line %d: %w", l.number, err)
				return
			}
			if !yield(line) {
				return
			}
			put++
			l.progress.show(put)
		}
		switch err := scanner.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			l.err = fmt.Errorf("line %d: %w: over %d bytes of text", l.number+1, store.ErrTooLarge, maxInput)
		case err != nil:
			l.err = fmt.Errorf("read line %d: %w", l.number+1, err)
		}
	}
}

// blame names the line that an error is about: the last one read, since each is looked at as it is
// read. What the server refuses, it refuses a few thousand lines at a time.
func (l *lines) blame(err error) error {
	if !errors.Is(err, store.ErrData) && !errors.Is(err, store.ErrTooLarge) {
		return err
	}
	if _, server := errors.AsType[*pgconn.PgError](err); server {
		return fmt.Errorf("line %d or one before it: %w", l.number, err)
	}
	return fmt.Errorf("line %d: %w", l.number, err)
}
