// Graphile Worker and pg-boss: programs in node/, which say themselves what they are and how jobs are put.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

const (
	defaultNode = "node"

	// nodeVerb bounds what a program says about itself, and its migrations.
	nodeVerb = 30 * time.Second
)

// nodeProgram is one of them, with one of its settings.
type nodeProgram struct {
	argv      []string
	put, fill string // SQL, as prepare printed them: see node/protocol.mjs
}

func nodes(dir string) []*contender {
	all := []*contender{}
	binary := sync.OnceValue(func() string { return nodeBinary(dir) })
	for _, p := range []struct{ id, name, file, table, unfinished string }{
		{"graphile", "Graphile Worker", "graphile.mjs", "graphile_worker._private_jobs", "from graphile_worker._private_jobs"},
		{"pgboss", "pg-boss", "pgboss.mjs", "pgboss.job", "from pgboss.job where state < 'completed'"},
	} {
		describe := sync.OnceValues(func() (described map[string]result.Contender, err error) {
			return described, ask(context.Background(), []string{binary(), filepath.Join(dir, p.file)}, "describe", nil, &described)
		})
		for _, setting := range []string{"default", "tuned"} {
			n := &nodeProgram{}
			c := &contender{
				Contender: result.Contender{ID: p.id + "-" + setting, Name: p.name + ", " + setting},
				setting:   setting,
				prepare:   func(ctx context.Context, url string) error { return n.prepare(ctx, url, setting) },
				produce:   n.produce,
				table:     p.table, unfinished: p.unfinished,
			}
			c.describe = func() error {
				if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
					return fmt.Errorf("not installed: run npm ci in %s", dir)
				}
				described, err := describe()
				if err != nil {
					return err
				}
				id := c.ID
				c.Contender = described[setting]
				c.ID = id
				n.argv = []string{binary(), filepath.Join(dir, p.file)}
				c.exec = append(n.argv[:2:2], "work")
				return nil
			}
			all = append(all, c)
		}
	}
	return all
}

// nodeBinary is the one that npm ci has installed, or else that of the machine.
func nodeBinary(dir string) string {
	found, _ := filepath.Glob(filepath.Join(dir, "node_modules", "node-*", "bin", "node*"))
	for _, path := range found {
		if exec.Command(path, "--version").Run() == nil {
			return path
		}
	}
	return "node"
}

// ask runs a verb of a program and reads the line that it prints.
func ask(ctx context.Context, argv []string, verb string, told, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, nodeVerb)
	defer cancel()
	line, err := json.Marshal(told)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], verb)...)
	cmd.Stdin = bytes.NewReader(append(line, '\n'))
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	if err != nil {
		said := ""
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			said = ": " + strings.TrimSpace(string(failed.Stderr))
		}
		return fmt.Errorf("%s %s: %w%s", filepath.Base(argv[1]), verb, err, said)
	}
	return nil
}

func (n *nodeProgram) prepare(ctx context.Context, url, setting string) error {
	var prepared struct{ Put, Fill string }
	err := ask(ctx, n.argv, "prepare", settings{DatabaseURL: url, Settings: setting}, &prepared)
	n.put, n.fill = prepared.Put, prepared.Fill
	return err
}

func (n *nodeProgram) produce(_ context.Context, pool *pgxpool.Pool) (producer, error) {
	return producer{
		put: func(ctx context.Context, j job, due time.Time) error {
			data, err := json.Marshal(j)
			if err != nil {
				return err
			}
			var at *string
			if !due.IsZero() {
				at = new(due.UTC().Format(time.RFC3339Nano))
			}
			_, err = pool.Exec(ctx, n.put, string(data), at)
			return err
		},
		fill: func(ctx context.Context, tx pgx.Tx, first int64, count int) error {
			_, err := tx.Exec(ctx, n.fill, first, count)
			return err
		},
	}, nil
}
