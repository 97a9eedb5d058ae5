// What the processes of a run have in common. Each is this program again, started by the run.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

// settings are what a process is told on its standard input.
type settings struct {
	Role    string
	Name    string // application_name
	Process string // the name and which of that name it is: that of its journal
	Journal string // the directory
	URL     string
	Seed    uint64
	Token   int64   // of a producer: its tokens are greater
	Pace    float64 // of a producer: jobs a second
	Scene   string  // what else a role is told
}

// message is what a process tells on its standard output.
type message struct {
	Ready bool
	Done  int64 // runs that have ended well
	Put   int64 // jobs
	Final bool  // it says no more
}

// role is what a process does until ctx ends: at SIGTERM, and when the run lets go of it. heard is what it is told.
type role func(ctx context.Context, s settings, j *journal.Writer, heard <-chan json.RawMessage, out io.Writer) error

// roles are all of them. Files of other families add theirs.
var roles = map[string]role{"dispatcher": dispatch, "producer": produce}

const roleCommand = "role" // the argument that makes the program one of them

// playRole is the program as a process of a run.
func playRole() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var s settings
	heard := make(chan json.RawMessage, 16)
	ctx, cancel, err := child.Settings(ctx, os.Stdin, &s, func(text json.RawMessage) { heard <- text })
	if err != nil {
		return err
	}
	defer cancel()
	play := roles[s.Role]
	if play == nil {
		return fmt.Errorf("faults: no role %q", s.Role)
	}
	j, err := journal.Create(s.Journal, s.Process)
	if err != nil {
		return err
	}
	defer j.Close()
	j.Write(journal.Event{Kind: journal.Begin, Text: s.Role})
	return play(ctx, s, j, heard, os.Stdout)
}

// connect opens a pool under the process's name, and its connections as one likes them.
func connect(ctx context.Context, s settings, each ...func(*pgx.ConnConfig)) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(s.URL)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = s.Name
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.MaxConns = poolSize
	for _, f := range each {
		f(config.ConnConfig)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	return pool, nil
}

// poolSize is the most connections of a process's pool, beside those that a dispatcher has for itself.
const poolSize = 8

// report tells ten times a second until ctx ends. A run that does not listen any more is no reason to stop.
func report(ctx context.Context, out io.Writer, news func() message) {
	to := json.NewEncoder(out)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = to.Encode(news())
		case <-ctx.Done():
			return
		}
	}
}
