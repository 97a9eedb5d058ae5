//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// as is the program, and the daemon, under another role.
func (d *database) as(role string) *database {
	u, err := url.Parse(d.url)
	if err != nil {
		d.Fatal(err)
	}
	query := u.Query()
	query.Set("role", role)
	u.RawQuery = query.Encode()
	return &database{d.T, u.String(), d.jobs, d.query}
}

// withRoles is a database that has a table with roles of its own, since roles belong to the whole server.
func withRoles(t *testing.T) (d *database, table []string) {
	t.Helper()
	d = newDatabase(t)
	name := "t" + strings.ToLower(rand.Text()[:10])
	t.Cleanup(func() {
		for _, role := range []string{"enqueue", "worker", "reader", "owner"} {
			role = "pq_dispatch_" + name + "_" + role
			if _, err := d.query.Exec(context.Background(), `drop owned by `+role+` cascade; drop role `+role, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Error(err)
			}
		}
	})
	return d, []string{"--table", name}
}

func TestMigrateMakesRolesForEachKindOfProgram(t *testing.T) {
	d, table := withRoles(t)
	prefix := "pq_dispatch_" + table[1] + "_"
	for range 2 {
		r := d.run(append(table, "migrate", "up", "--roles")...)
		if r.code != exitOK {
			t.Fatal(r.stderr)
		}
		contains(t, "message", r.stderr, "the roles "+prefix+"enqueue, "+prefix+"worker, "+prefix+"reader and "+prefix+"owner have their rights on it")
	}
	enqueue, worker, reader, owner := d.as(prefix+"enqueue"), d.as(prefix+"worker"), d.as(prefix+"reader"), d.as(prefix+"owner")

	enqueue.must(append(table, "put", "apples", `"secret data"`)...)
	contains(t, "list", reader.must(append(table, "ls")...), "apples")
	contains(t, "job", reader.must(append(table, "show", "1")...), "secret data")
	reader.must(append(table, "stats")...)
	reader.must(append(table, "queues")...)
	reader.must(append(table, "dispatchers")...)
	for command, who := range map[string]*database{"get apples": enqueue, "ls": enqueue, "put apples 1": worker, "cancel 1": reader, "move 1 --to pears": worker, "migrate down --to 0 --yes": worker} {
		r := who.run(append(table, strings.Fields(command)...)...)
		if r.code == exitOK || !strings.Contains(r.stderr, "permission denied") && !strings.Contains(r.stderr, "must be owner") {
			t.Errorf("%s: got exit code %d and %q, want that it is denied", command, r.code, r.stderr)
		}
	}

	// The daemon needs no more than the worker's rights, metrics and API included.
	done := filepath.Join(t.TempDir(), "done")
	s := worker.daemon("database: {table: " + table[1] + "}\nhttp: {address: '127.0.0.1:0', api: {enabled: true, token: abcdefghijklmnopqrstuvwxyz}}\n" +
		"queues: {apples: {exec: {command: " + sh(`cat > "$1.new"; mv "$1.new" "$1"`, done) + "}}}\n")
	d.eventually("the job was run", func() bool { return text(done) == `"secret data"` })
	if status, _ := s.get("/readyz"); status != 200 {
		t.Errorf("readyz: got %d, want 200", status)
	}
	if _, metrics := s.get("/metrics"); !strings.Contains(metrics, "apples") {
		t.Errorf("metrics: got none about the queue:\n%s", metrics)
	}
	s.signal(syscall.SIGTERM)
	<-s.done
	if strings.Contains(s.log.String(), "permission denied") {
		t.Errorf("log: got %s, want nothing denied", s.log)
	}
	owner.must(append(table, "migrate", "down", "--to", "0", "--yes")...)
}

func TestThePrintedScriptMakesTheRolesToo(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed")
	}
	d, table := withRoles(t)
	file := filepath.Join(t.TempDir(), "up.sql")
	if err := os.WriteFile(file, []byte(cli("", append(table, "migrate", "print", "--roles")...).stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", d.url, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	d.as("pq_dispatch_" + table[1] + "_enqueue").must(append(table, "put", "apples", "1")...)
}

func TestRolesGoWithTheLastVersionOnly(t *testing.T) {
	d := newDatabase(t)
	r := d.run("migrate", "up", "--to", "2", "--roles")
	if r.code != exitUsage {
		t.Errorf("got exit code %d and %q, want %d", r.code, r.stderr, exitUsage)
	}
}
