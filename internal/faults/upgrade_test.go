package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommitToUpgradeFromIsThereOrItIsSaidWhyNot(t *testing.T) {
	commit, err := base(t.Context())
	if err != nil {
		if !strings.Contains(err.Error(), baseEnv) {
			t.Errorf("got %v, want to be told of %s", err, baseEnv)
		}
		t.Skip(err)
	}
	root, err := sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := checkOut(t.Context(), root, commit, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cmd", "pq-dispatch", "main.go")); err != nil {
		t.Error(err)
	}
	text := func(sql string) func(string) ([]byte, error) {
		return func(string) ([]byte, error) { return []byte(sql), nil }
	}
	same, err := schemaOf(text("select 1\n\n  select 2 -- why\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := schemaOf(text("-- said otherwise\nselect 1\nselect 2\n")); err != nil || got != same {
		t.Errorf("other comments: got %q, %v, want %q", got, err, same)
	}
	if got, err := schemaOf(text("select 1\nselect 3\n")); err != nil || got == same {
		t.Errorf("another statement: got %q, %v, want another one", got, err)
	}
	t.Setenv(baseEnv, "no-such-commit")
	if _, err := base(t.Context()); err == nil || !strings.Contains(err.Error(), "no-such-commit") {
		t.Errorf("base of an unknown commit: got %v, want an error that names it", err)
	}
}
