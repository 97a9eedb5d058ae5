// A full disk: the server's data directory is moved to a small file system in memory, which then is filled.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/faults/scene"
)

// room is what the small disk has beyond the data that is there at first, in bytes: three segments of WAL and some.
const room = 56 << 20

var _ = register(scene.Fault{
	Name: "disk-full", Family: exhaustFamily,
	About: "the server's disk is full, so that nothing can be written, WAL included, until there is room again",
	Needs: scene.Needs{
		Own: true, Missing: mayMount,
		Slow: "a server that cannot write WAL ends all sessions, and recovers once it can",
	},
	Inject: fillDisk,
})

// mayMount tries, with next to nothing.
func mayMount() string {
	if os.Geteuid() != 0 {
		return "root, to mount a file system"
	}
	dir, err := os.MkdirTemp("", "pq-dispatch-disk-")
	if err != nil {
		return err.Error()
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return "the right to mount a file system: " + err.Error()
	}
	_ = syscall.Unmount(dir, syscall.MNT_DETACH)
	return ""
}

// fillDisk takes both mounts away at its end already. The server, whose working directory is its data directory, does
// not mind; the file system lives as long as it. So nothing is left, whatever ends the run afterwards.
func fillDisk(ctx context.Context, s *scene.Scene) (err error) {
	var data string
	if err := s.Admin.QueryRow(ctx, `show data_directory`).Scan(&data); err != nil {
		return err
	}
	if err := s.Server.Stop(ctx, devpg.Fast); err != nil {
		return err
	}
	disk, err := os.MkdirTemp("", "pq-dispatch-disk-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(disk)) }()
	unmount, err := moveTo(ctx, disk, data)
	defer func() { err = errors.Join(err, unmount()) }()
	if err != nil {
		return fmt.Errorf("move the server to a small disk: %w", err)
	}
	if err := s.Server.Resume(ctx); err != nil {
		return err
	}
	if err := s.Wait(ctx, time.Second); err != nil { // the work is under way again
		return err
	}
	ballast, err := os.OpenFile(filepath.Join(disk, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = ballast.Truncate(0) // so that there is room whatever has happened
		_ = ballast.Close()
	}()
	refused := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(s.Long(10*time.Second, 3*time.Second)); time.Now().Before(end); {
		if err := fill(ballast); err != nil { // again, since the server makes room where it can
			return err
		}
		if _, err := s.Admin.Exec(ctx, `create table if not exists faults.ballast as select repeat('x', 1000) from generate_series(1, 1000)`); err != nil {
			refused++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := ballast.Truncate(0); err != nil {
		return err
	}
	s.Log.Info("the disk was full", "statements refused", refused)
	if refused == 0 {
		return errors.New("the disk was never full: nothing was shown")
	}
	if err := s.Server.Resume(ctx); err != nil { // if it gave up
		return err
	}
	return until(ctx, s, "the server writes again", func() (bool, error) {
		_, err := s.Admin.Exec(ctx, `drop table if exists faults.ballast`)
		return err == nil, nil
	})
}

// moveTo puts a file system in memory with a copy of the data directory in its place. unmount is to be called in any case.
func moveTo(ctx context.Context, disk, data string) (unmount func() error, err error) {
	var mounted []string
	unmount = func() (err error) {
		for _, at := range mounted {
			err = errors.Join(err, syscall.Unmount(at, syscall.MNT_DETACH))
		}
		return err
	}
	size, err := sizeOf(data)
	if err != nil {
		return unmount, err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size+room)); err != nil {
		return unmount, err
	}
	mounted = append(mounted, disk)
	if out, err := exec.CommandContext(ctx, "cp", "-a", data+"/.", disk).CombinedOutput(); err != nil {
		return unmount, fmt.Errorf("cp: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := syscall.Mount(disk, data, "", syscall.MS_BIND, ""); err != nil {
		return unmount, err
	}
	mounted = append(mounted, data)
	return unmount, nil
}

// sizeOf is what a directory takes on a disk of 4 kB blocks, in bytes.
func sizeOf(dir string) (size int64, err error) {
	const block = 4 << 10
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += (info.Size() + block - 1) / block * block
		}
		return err
	})
	return size, err
}

// fill writes to a file until the disk is full.
func fill(f *os.File) error {
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		switch _, err := f.Write(chunk); {
		case errors.Is(err, syscall.ENOSPC):
			chunk = chunk[:len(chunk)/2]
		case err != nil:
			return err
		}
	}
	return nil
}
