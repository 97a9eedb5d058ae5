//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestAReloadAddsChangesAndRemovesQueues(t *testing.T) {
	d := newDatabase(t)
	dir := t.TempDir()
	// A job writes how it was run, and goes on until it may end.
	eat := func(how string) string {
		return sh(`cd "$1"; echo $$ > "running $PQ_DISPATCH_JOB_ID"; until test -e "go $PQ_DISPATCH_JOB_ID"; do sleep 0.01; done; echo "$2" > "done $PQ_DISPATCH_JOB_ID"`, dir, how)
	}
	config := func(how, rest string) string {
		return "queues:\n  apples: {exec: {command: " + eat(how) + "}}\n  mails: {worker: {command: [" + worker(t) + "], processes: 1}}\n" + rest
	}
	run := func(queue string) (id string) {
		id = strings.TrimSpace(d.must("put", queue, `{"kind": "Cox"}`))
		d.pids(filepath.Join(dir, "running "+id), 1)
		return id
	}
	finish := func(id, how string) {
		if err := os.WriteFile(filepath.Join(dir, "go "+id), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		d.eventually("job "+id+" is done", func() bool { return d.number(`select count(*) from queue where id = $1`, id) == 0 })
		wants(t, "how job "+id+" was run", text(filepath.Join(dir, "done "+id)), how+"\n")
	}
	s := d.daemon(config("old", "  plums: {exec: {command: "+eat("plums")+"}}\n"))
	staying := run("apples") // until after the reload
	leaving := run("plums")
	d.must("put", "mails", `{"kind": "Cox"}`)
	mailer := s.says("a worker process says")["pid"]

	said := s.reload(config("new", "  pears: {exec: {command: "+eat("pears")+"}}\nlog: {level: debug}\nhttp: {address: '127.0.0.1:1'}\n"), "configuration applied")
	wants(t, "what is said to have changed", fmt.Sprint(said["changed"]), "log.level queues.apples.exec.command queues.pears queues.plums")
	wants(t, "what is said to wait", fmt.Sprint(s.says("these take effect with the next start")["keys"]), "http.address")
	finish(run("apples"), "new")
	finish(run("pears"), "pears")
	d.must("put", "plums", "1")
	finish(staying, "old")
	finish(leaving, "plums")
	d.must("put", "mails", `{"kind": "Cox"}`)
	wants(t, "the worker, which is still the same", fmt.Sprint(s.says("a worker process says")["pid"]), fmt.Sprint(mailer))

	// A configuration that is broken, in whatever way, changes nothing.
	for _, tt := range []struct{ config, want string }{
		{config("newer", "") + "grace: x\n", "pq-dispatch.yaml:4:8: grace"},
		{config("newer", "  pears: {exec: {comand: [/bin/true]}}\n"), "did you mean command?"},
		{config("newer", "  pears: {exec: {command: [/nowhere/eat]}}\n"), "queue pears"},
		{"queues: {", "pq-dispatch.yaml:1:"},
	} {
		said = s.reload(tt.config, "configuration not applied, the one before stays")
		contains(t, "the reason", fmt.Sprint(said["error"]), tt.want)
		finish(run("apples"), "new")
		finish(run("pears"), "pears")
	}
	s.reload(config("new", "  pears: {exec: {command: "+eat("pears")+"}}\nlog: {level: debug}\n"), "nothing in the configuration has changed that takes effect now")
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
	wants(t, "the job of the queue that was removed", fmt.Sprint(d.number(`select count(*) from queue where q_name = 'plums'`)), "1")
}

func TestAWorkerThatAReloadReplacesEndsWithItsLastJob(t *testing.T) {
	d := newDatabase(t)
	config := func(processes int) string {
		return fmt.Sprintf("queues: {apples: {worker: {command: [%s], processes: %d}}}", worker(t), processes)
	}
	s := d.daemon(config(1))
	d.must("put", "apples", `{"kind": "Cox"}`)
	d.eventually("the worker has started, and is free", func() bool { return d.number(`select count(*) from queue`) == 0 })
	id := strings.TrimSpace(d.must("put", "apples", `{"sleep": 1000}`))
	d.eventually("the job runs", func() bool { // the lock of the one before may be there still
		return d.number(`select count(*) from pg_locks where locktype = 'advisory' and classid = pq_dispatch.lock_class()::oid
			and objid = pq_dispatch.lock_key($1::text::bigint)::oid`, id) == 1
	})
	before := childrenOf(t, s.cmd.Process.Pid)
	s.reload(config(2), "configuration applied")
	for range 3 {
		d.must("put", "apples", `{"kind": "Cox"}`)
	}
	d.eventually("the new workers have done the others", func() bool { return d.number(`select count(*) from queue`) == 1 })
	if now := childrenOf(t, s.cmd.Process.Pid); runtime.GOOS == "linux" && !containsAll(now, before) {
		t.Errorf("processes: got %v, want those of before, %v, among them while they have a job", now, before)
	}
	wants(t, "cancel", d.must("cancel", id), id+" asked\n")
	d.allEnd(before)
	var last string
	if err := d.query.QueryRow(t.Context(), `select last_error from queue where set_aside`).Scan(&last); err != nil {
		t.Error(err)
	}
	contains(t, "last_error", last, "cancelled")
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
}

func containsAll(all, some []int) bool {
	return !slices.ContainsFunc(some, func(n int) bool { return !slices.Contains(all, n) })
}

func TestSystemdIsToldWhatTheDaemonDoes(t *testing.T) {
	d := newDatabase(t)
	socket := filepath.Join(t.TempDir(), "s")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := make(chan string, 1000)
	go func() {
		for buffer := make([]byte, 4<<10); ; {
			n, err := manager.Read(buffer)
			if err != nil {
				return
			}
			told <- string(buffer[:n])
		}
	}()
	s := d.launch("queues: {apples: {exec: {command: [/bin/true]}}}", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000")
	await := func(what string) {
		t.Helper()
		var heard []string
		d.eventually("systemd is told "+what, func() bool {
			select {
			case message := <-told:
				heard = append(heard, message)
				return strings.Contains(message, what)
			default:
				return false
			}
		})
		if what != "WATCHDOG=1" && slices.ContainsFunc(heard[:len(heard)-1], func(m string) bool { return m != "WATCHDOG=1" }) {
			t.Errorf("before %s: got %q, want nothing but the watchdog", what, heard)
		}
	}
	await("READY=1\nSTATUS=working on 1 queues")
	s.says("started") // which it has written before, into a pipe
	await("WATCHDOG=1")
	s.write("queues: {apples: {exec: {command: [/bin/true]}}, pears: {exec: {command: [/bin/true]}}}")
	s.signal(syscall.SIGHUP)
	await("RELOADING=1")
	await("READY=1\nSTATUS=working on 2 queues")
	s.write("nonsense")
	s.signal(syscall.SIGHUP)
	await("RELOADING=1")
	await("READY=1\nSTATUS=working on 2 queues")
	s.signal(syscall.SIGTERM)
	await("STOPPING=1")
	s.ends(exitOK)
}
