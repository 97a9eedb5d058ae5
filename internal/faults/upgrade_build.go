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

// baseEnv names the commit to upgrade from; the default is the one before the present.
const baseEnv = "FAULTS_BASE"

// base is the commit from which a rolling upgrade begins. An error says why there can be none: no git, no history (a
// shallow clone has one commit), no sources, or another schema: before the first release, migrations are still changed in
// place, and no daemon can be expected to work with the functions of another commit.
func base(ctx context.Context) (commit string, err error) {
	root, err := sources(ctx)
	if err != nil {
		return "", err
	}
	name := os.Getenv(baseEnv)
	if name == "" {
		name = "HEAD~1"
	}
	out, err := command(ctx, root, "git", "rev-parse", "--verify", "--quiet", name+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("there is no commit %s to upgrade from (no git, or a shallow clone): name one by %s", name, baseEnv)
	}
	commit = strings.TrimSpace(out)
	if os.Getenv(baseEnv) != "" {
		return commit, nil // whoever names it knows
	}
	if _, err := command(ctx, root, "git", "diff", "--quiet", commit, "--", "sql/*.sql"); err != nil {
		return "", fmt.Errorf("the commit before has another schema: name one whose daemons work with the present one by %s", baseEnv)
	}
	return commit, nil
}

// sources is the root of the source tree, below which this program was started.
func sources(ctx context.Context) (string, error) {
	root, err := command(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	return strings.TrimSpace(root), nil
}

// buildDaemon compiles pq-dispatch from a source tree.
func buildDaemon(ctx context.Context, root, program string) error {
	if _, err := command(ctx, root, "go", "build", "-o", program, "./cmd/pq-dispatch"); err != nil {
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
