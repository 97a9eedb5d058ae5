// The daemon as a process of a run: the real binary, with this program as the worker that it hands jobs to.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
	"github.com/pq-dispatch/pq-dispatch/sql"
)

func init() {
	roles["daemon"] = runDaemon
	commands["worker"] = workForDaemon
}

const daemonWorkers = 4

// daemonSettings are what the role is told.
type daemonSettings struct {
	Program string // pq-dispatch
	Queue   string
}

// The worker's environment says in whose journal it writes. (Names that begin as the daemon's own do, it refuses.)
const (
	envJournal = "FAULTS_JOURNAL"
	envProcess = "FAULTS_PROCESS"
)

// runDaemon is the role: it starts a daemon, watches its lock session, passes SIGTERM on, and ends with it.
func runDaemon(ctx context.Context, s settings, j *journal.Writer, _ <-chan json.RawMessage, out io.Writer) (err error) {
	var told daemonSettings
	if err := json.Unmarshal([]byte(s.Scene), &told); err != nil {
		return err
	}
	pool, err := connect(ctx, settings{URL: s.URL, Name: s.Name + "-watch"})
	if err != nil {
		return err
	}
	defer pool.Close()
	j.Write(journal.Event{Kind: journal.Serves, Text: told.Queue})
	group := child.NewGroup[struct{}]([]string{told.Program}, 15*time.Second)
	defer func() { err = errors.Join(err, group.Stop(func(child.Event[struct{}]) {})) }()
	args, err := daemonArgs(s, told)
	if err != nil {
		return err
	}
	daemon, err := group.Start(s.Process, struct{}{}, args...)
	if err != nil {
		return err
	}
	var ready atomic.Bool
	watching, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	go report(watching, out, func() message { return message{Ready: ready.Load()} })
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	stop := ctx.Done()
	var session int64
	for {
		select {
		case <-look.C:
			pid, err := lockSession(watching, pool, s.Name)
			if err != nil || pid == session {
				continue
			}
			if session != 0 {
				j.Write(journal.Event{Kind: journal.SessionLost})
			}
			if session = pid; pid != 0 {
				j.Write(journal.Event{Kind: journal.SessionUp, Job: pid})
				ready.Store(true)
				_ = os.Remove(addressFile(s)) // it has been read
			}
		case <-stop:
			stop = nil
			p, err := os.FindProcess(daemon.PID())
			if err == nil {
				err = p.Signal(syscall.SIGTERM)
			}
			if err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
		case e := <-group.Events:
			if !e.Ended {
				continue
			}
			if ctx.Err() == nil || daemon.Err() != nil {
				return daemon.Failure()
			}
			return nil
		}
	}
}

// daemonArgs are the daemon's. Its address, which holds a password, is in a file.
func daemonArgs(s settings, told daemonSettings) ([]string, error) {
	address, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	query := address.Query()
	query.Set("application_name", s.Name)
	address.RawQuery = query.Encode()
	file := addressFile(s)
	if err := os.WriteFile(file, []byte(address.String()), 0o600); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	queues, err := json.Marshal(map[string]any{told.Queue: map[string]any{
		"concurrency":  daemonWorkers,
		"max_attempts": 1000,
		"worker": map[string]any{
			"command":   []string{program, "worker"},
			"processes": daemonWorkers,
			"env":       map[string]string{envJournal: s.Journal, envProcess: s.Process},
		},
	}})
	return []string{"run", "--database.url_file", file, "--grace", "5s", "--log.level", "error", "--queues", string(queues)}, err
}

func addressFile(s settings) string { return filepath.Join(s.Journal, s.Process+".url") }

// lockSession is the process id of the server's side of a dispatcher's lock session; 0 if it has none.
func lockSession(ctx context.Context, pool *pgxpool.Pool, application string) (pid int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err = pool.QueryRow(ctx, `
		select coalesce(max(k.pid), 0)
		from pg_locks k
		join pg_stat_activity a using (pid)
		where k.locktype = 'advisory' and k.classid = $1 and k.objsubid = 2 and a.application_name = $2`,
		sql.BeaconClass, application).Scan(&pid)
	return pid, err
}

// workForDaemon is the command by which a daemon starts its workers. It speaks the protocol of docs/workers.md.
func workForDaemon(context.Context, []string) error {
	j, err := journal.Append(os.Getenv(envJournal), os.Getenv(envProcess))
	if err != nil {
		return err
	}
	defer j.Close()
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]any{"ready": true, "protocol": 1}); err != nil {
		return err
	}
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var given struct {
			Type    string `json:"type"`
			ID      string `json:"id"`
			Queue   string `json:"queue"`
			Attempt int    `json:"attempt"`
			Data    load   `json:"data"`
		}
		if err := json.Unmarshal(line, &given); err != nil {
			return fmt.Errorf("faults: worker: %w", err)
		}
		if given.Type != "job" {
			continue // its time is over: it is soon done anyway
		}
		if err := out.Encode(workOn(j, given.ID, given.Queue, given.Attempt, given.Data)); err != nil {
			return err
		}
	}
}

// said is what a worker answers.
type said struct {
	ID      string  `json:"id"`
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitzero"`
	Delay   float64 `json:"delay,omitzero"` // s
}

// workOn does a job, and writes down what it does, as handlers of the library do.
func workOn(j *journal.Writer, id, queue string, attempt int, l load) (answer said) {
	number, _ := strconv.ParseInt(id, 10, 64)
	event := journal.Event{Kind: journal.Start, Token: l.Token, Job: number, Attempt: attempt}
	event.Text = queue
	j.Write(event)
	_ = scene.Wait(context.Background(), time.Duration(l.Work)*time.Millisecond)
	event.Kind, event.Text = journal.End, journal.Done
	answer = said{ID: id, Outcome: "done"}
	if l.Kind == flaky && attempt <= l.Fails {
		event.Text, event.Due = journal.Failed, int64(l.Delay)*int64(time.Millisecond)
		answer = said{ID: id, Outcome: "retry", Error: "fails for a while", Delay: float64(l.Delay) / 1000}
	}
	j.Write(event)
	return answer
}
