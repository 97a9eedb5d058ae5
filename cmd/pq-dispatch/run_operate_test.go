//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

func TestAPausedQueueRunsNothingUntilItIsResumed(t *testing.T) {
	d := newDatabase(t)
	file := filepath.Join(t.TempDir(), "eaten")
	s := d.daemon(`queues: {apples: {exec: {command: ` + sh(`cat >> "$1"; echo >> "$1"`, file) + `}}, pears: {exec: {command: ` + sh(`cat >> "$1"; echo >> "$1"`, file) + `}}}`)
	d.must("pause", "apples")
	d.must("put", "apples", `"paused"`)
	d.must("put", "pears", `"not paused"`)
	d.eventually("the other queue goes on", func() bool { return text(file) == "\"not paused\"\n" })
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
	s = d.daemon(text(s.file)) // a pause outlives the daemon
	d.must("put", "pears", `"again"`)
	d.eventually("the other queue goes on", func() bool { return text(file) == "\"not paused\"\n\"again\"\n" })
	wants(t, "jobs of the paused queue", fmt.Sprint(d.number(`select count(*) from queue where q_name = 'apples'`)), "1")
	d.must("resume", "apples")
	d.empty()
	wants(t, "what was run", text(file), "\"not paused\"\n\"again\"\n\"paused\"\n")
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
}

func TestARunningJobIsCancelledFromTheCommandLine(t *testing.T) {
	d := newDatabase(t)
	file := filepath.Join(t.TempDir(), "pids")
	s := d.daemon(`queues: {apples: {exec: {command: ` + sh(family, file) + `}}}`)
	id := strings.TrimSpace(d.must("put", "apples", "1"))
	pids := d.pids(file, 3)
	var shown map[string]any
	if err := json.Unmarshal([]byte(d.must("show", id, "--json")), &shown); err != nil || shown["state"] != "running" {
		t.Errorf("show: got %v, %v; want it running", shown, err)
	}
	wants(t, "cancel", d.must("cancel", id), id+" asked\n")
	d.allEnd(pids)
	d.eventually("the job is set aside", func() bool {
		return d.number(`select count(*) from queue where set_aside and last_error like 'cancelled%'`) == 1
	})
	wants(t, "retry", d.must("retry", id), id+" retried\n")
	again := d.pids(file, 6)
	s.signal(syscall.SIGTERM)
	s.says("stopping; running jobs may go on")
	s.signal(syscall.SIGTERM)
	s.ends(128 + int(syscall.SIGTERM))
	d.allEnd(again)
}

func TestADaemonBehindAPoolerNeedsADirectAddress(t *testing.T) {
	d := newDatabase(t)
	pooled := pgtest.Pooler(t, d.url) + "&default_query_exec_mode=exec"
	config := `
database: {url: '` + pooled + `', direct_url: '%s'}
` + listening + `
queues: {apples: {exec: {command: [/bin/cat]}}}
`
	behind := &database{t, pooled, d.jobs, d.query}
	refused := behind.launch(fmt.Sprintf(config, ""))
	refused.ends(exitUsage)
	contains(t, "standard error", refused.log.String(), "leads to a pooler in transaction mode")
	contains(t, "standard error", refused.log.String(), "database.direct_url")
	refused = behind.launch(fmt.Sprintf(config, pooled))
	refused.ends(exitUsage)
	contains(t, "standard error", refused.log.String(), "database.direct_url of "+refused.file+":2:")

	s := behind.daemon(fmt.Sprintf(config, d.url))
	for range 20 {
		behind.must("put", "apples", "1")
	}
	d.empty()
	d.eventually("it is ready", func() bool { status, _ := s.get("/readyz"); return status == 200 })
	direct, err := pgx.ParseConfig(d.url)
	if err != nil {
		t.Fatal(err)
	}
	// Its last statement is the one that began to listen, or a heartbeat.
	if n := d.number(`select count(*) from pg_stat_activity where datname = $1 and application_name = 'pq-dispatch' and (query like '%listen%' or query = 'select 1')`, direct.Database); n != 1 {
		t.Errorf("direct connections that listen: got %d, want 1", n)
	}
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
}

func TestADaemonWhoseLogNobodyReadsGoesOn(t *testing.T) {
	d := newDatabase(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	config := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	if err := os.WriteFile(config, []byte(`{log: {level: debug}, queues: {apples: {exec: {command: `+sh(`true`)+`}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{d: d, cmd: exec.Command(os.Args[0], "--database-url", d.url, "run", "-c", config)}
	p.cmd.Env = append(os.Environ(), envProgram+"=1")
	p.cmd.Stderr = w
	d.must("put", "apples", "1")
	p.done = pgtest.Start(t, p.cmd)
	w.Close()
	d.empty()
	p.signal(syscall.SIGTERM)
	p.ends(exitOK)
}
