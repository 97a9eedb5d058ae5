package tune

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

func TestTheDaemonTakesEveryRecipe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	word := rapid.OneOf(rapid.String().Filter(func(s string) bool { return !strings.Contains(s, "\x00") }), rapid.SampledFrom([]string{"a b", "'", `"`, "# no comment", "{", "- x", "*", "\t", "null", "<&>"}))
	rapid.Check(t, func(t *rapid.T) {
		var s Setting
		for _, a := range Axes(1000) {
			*a.field(&s) = rapid.SampledFrom(a.Values).Draw(t, a.Name)
		}
		r := Recipe{Setting: s}
		if rapid.Bool().Draw(t, "has a command") {
			r.Command = append([]string{"/bin/sh"}, rapid.SliceOf(word).Draw(t, "arguments")...)
		}
		if err := os.WriteFile(file, []byte(r.YAML()), 0o600); err != nil {
			t.Fatal(err)
		}
		c, warnings, err := config.Load(file, nil, nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("got %v and %v, want it loaded:\n%s", err, warnings, r.YAML())
		}
		q := c.Queues["jobs"]
		if c.Concurrency != s.Concurrency || q.Prefetch != s.Prefetch {
			t.Fatalf("got concurrency %d and prefetch %d, want those of %v", c.Concurrency, q.Prefetch, s)
		}
		if r.Command != nil {
			if diff := cmp.Diff(r.Command, q.Exec.Command); diff != "" {
				t.Fatalf("command (-want +got):\n%s\n%s", diff, r.YAML())
			}
		}
	})
}

func TestTheGoOptionsOfARecipeCompile(t *testing.T) {
	dir := t.TempDir()
	for name, s := range map[string]Setting{
		"plain":   Default,
		"unusual": {Concurrency: 5, Prefetch: -1, Processes: 4, Connections: 8},
		"reserve": {Concurrency: 200, Prefetch: 50, Processes: 1},
	} {
		text := `package main

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func _(poolConfig *pgxpool.Config, jobs *store.Store) *dispatcher.Dispatcher {
	` + strings.ReplaceAll(strings.TrimSpace(Recipe{Setting: s}.Go()), "\n", "\n\t") + `
	return d
}

func main() {}
`
		file := filepath.Join(dir, name+".go")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, check := range [][]string{{"go", "vet", file}, {"gofmt", "-l", file}} {
			if output, err := exec.CommandContext(t.Context(), check[0], check[1:]...).CombinedOutput(); err != nil || len(output) > 0 {
				t.Errorf("%s: %v\n%s\n%s", check[0], err, output, text)
			}
		}
	}
}

func TestARecipeSaysWhatItCannotSet(t *testing.T) {
	r := Recipe{Setting: Setting{Concurrency: 20, Processes: 2, Connections: 8}}
	for _, want := range []string{"in 2 processes", "pool_max_conns=8"} {
		if !strings.Contains(r.YAML(), want) {
			t.Errorf("got no %q in:\n%s", want, r.YAML())
		}
	}
	for _, want := range []string{"each of 2 processes", "poolConfig.MaxConns = 8"} {
		if !strings.Contains(r.Go(), want) {
			t.Errorf("got no %q in:\n%s", want, r.Go())
		}
	}
}
