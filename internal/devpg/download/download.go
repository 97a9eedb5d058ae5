// Package download fetches PostgreSQL's programs from Maven Central, where nothing is installed.
//
// It is apart from devpg because of what it links: embedded-postgres brings package testing (by a
// misnamed test file) and a second database driver, which have no place in a program that does not ask for them.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const mavenCentral = "https://repo1.maven.org/maven2"

// PostgreSQL is for devpg.Options.Download: it makes the directory home with bin, lib and share in it,
// whole or not at all. The fetching library takes no context: when ctx ends first, its download
// goes on behind our back, and at its end may make home after all.
func PostgreSQL(ctx context.Context, home string) error {
	return from(ctx, mavenCentral, home)
}

func from(ctx context.Context, repository, home string) error {
	fetched := make(chan error, 1)
	go func() { fetched <- fetch(repository, home) }()
	select {
	case err := <-fetched:
		if err != nil {
			return fmt.Errorf("download PostgreSQL %s from %s: %w", embeddedpostgres.V18, repository, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func fetch(repository, home string) error {
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(home), "fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	// The library has no call that only fetches. Given a data directory that seems to be initialised, its
	// Start fetches, unpacks, and then fails at once to start a server there.
	data := filepath.Join(scratch, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("18\n"), 0o600); err != nil {
		return err
	}
	port, err := freePort() // it looks whether its port is free first of all
	if err != nil {
		return err
	}
	unpacked := filepath.Join(scratch, "unpacked")
	library := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().Version(embeddedpostgres.V18).
		BinaryRepositoryURL(repository).CachePath(filepath.Join(scratch, "archive")).BinariesPath(unpacked).
		RuntimePath(filepath.Join(scratch, "run")).DataPath(data).Port(port).Logger(io.Discard))
	failure := library.Start()
	if failure == nil { // not to be expected of that data directory
		failure = errors.Join(errors.New("a server started that should not have"), library.Stop())
	}
	if !unpackedIn(unpacked) {
		return failure
	}
	if err := os.Chmod(unpacked, 0o755); err != nil {
		return err
	}
	if err := os.Rename(unpacked, home); err != nil && !unpackedIn(home) {
		return err // else another process was quicker, and its copy serves
	}
	return nil
}

// unpackedIn reports whether the last of the programs has arrived.
func unpackedIn(home string) bool {
	found, _ := filepath.Glob(filepath.Join(home, "bin", "postgres*"))
	return len(found) > 0
}

func freePort() (uint32, error) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return 0, err
	}
	return uint32(l.Addr().(*net.TCPAddr).Port), l.Close()
}
