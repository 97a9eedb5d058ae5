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
	t.Setenv(baseEnv, "no-such-commit")
	if _, err := base(t.Context()); err == nil || !strings.Contains(err.Error(), "no-such-commit") {
		t.Errorf("base of an unknown commit: got %v, want an error that names it", err)
	}
}
