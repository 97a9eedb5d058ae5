// The daemon of this source tree and of an earlier commit, as binaries.

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// baseEnv names the commit to upgrade from; the default is the latest earlier one with the same schema.
const baseEnv = "FAULTS_BASE"

// base is the commit from which a rolling upgrade begins. An error says why there can be none: no git, no history (a
// shallow clone has one commit), no sources, or no earlier commit with the same schema: before the first release, migrations
// are still changed in place under the same number, and no daemon can be expected to work with the functions of another commit.
// What has changed in comments only is the same.
func base(ctx context.Context) (commit string, err error) {
	root, err := sources(ctx)
	if err != nil {
		return "", err
	}
	if name := os.Getenv(baseEnv); name != "" { // whoever names it knows
		out, err := command(ctx, root, "git", "rev-parse", "--verify", "--quiet", name+"^{commit}")
		if err != nil {
			return "", fmt.Errorf("there is no commit %s to upgrade from: %s has to name one", name, baseEnv)
		}
		return strings.TrimSpace(out), nil
	}
	// Further back than the latest commit that has changed them, the files are the same only if that was undone.
	out, err := command(ctx, root, "git", "rev-list", "-n", "20", "HEAD~1")
	if err != nil {
		return "", fmt.Errorf("there is no commit before the present one to upgrade from (no git, or a shallow clone): name one by %s", baseEnv)
	}
	present, err := schemaOf(func(file string) ([]byte, error) { return os.ReadFile(filepath.Join(root, file)) })
	if err != nil {
		return "", err
	}
	for commit := range strings.FieldsSeq(out) {
		former, err := schemaOf(func(file string) ([]byte, error) {
			text, err := command(ctx, root, "git", "show", commit+":"+file)
			return []byte(text), err
		})
		if err == nil && former == present {
			return commit, nil
		}
	}
	return "", fmt.Errorf("none of the latest commits has the present schema: name one whose daemons work with it by %s", baseEnv)
}

// schemaOf is the text of the migrations without comments and empty lines.
func schemaOf(read func(file string) ([]byte, error)) (string, error) {
	var schema strings.Builder
	for _, file := range []string{"schema", "functions", "triggers", "operations"} {
		text, err := read("sql/" + file + ".sql")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "--")
			if line = strings.TrimSpace(line); line != "" {
				schema.WriteString(line + "\n")
			}
		}
	}
	return schema.String(), nil
}

// sources is the root of the source tree, below which this program was started.
func sources(ctx context.Context) (string, error) {
	root, err := command(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	return strings.TrimSpace(root), nil
}

// buildDaemon compiles pq-dispatch from a source tree, on one processor and behind others, as faults of other stages are
// injected meanwhile.
func buildDaemon(ctx context.Context, root, program string) error {
	build := []string{"go", "build", "-p", "1", "-o", program, "./cmd/pq-dispatch"}
	if nice, err := exec.LookPath("nice"); err == nil {
		build = append([]string{nice, "-n", "10"}, build...)
	}
	if _, err := command(ctx, root, build[0], build[1:]...); err != nil {
		return fmt.Errorf("build the daemon: %w", err)
	}
	return nil
}

// checkOut writes the source tree of a commit into a directory. It does not touch the repository, as a worktree would.
func checkOut(ctx context.Context, root, commit, dir string) (err error) {
	c := exec.CommandContext(ctx, "git", "archive", "--format=tar", commit)
	c.Dir = root
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Wait()) }()
	archive := tar.NewReader(out)
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			_, err := io.Copy(io.Discard, out)
			return err
		case err != nil:
			return err
		case !filepath.IsLocal(header.Name) || header.Typeflag != tar.TypeReg:
			continue
		}
		name := filepath.Join(dir, header.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		text, err := io.ReadAll(archive)
		if err == nil {
			err = os.WriteFile(name, text, 0o600)
		}
		if err != nil {
			return err
		}
	}
}

// command runs a program and returns its output; its errors are in the error.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %w\n%s", name, args[0], err, exit.Stderr)
	}
	return string(out), err
}
