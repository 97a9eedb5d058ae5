// The server's directory, and the removal of those whose process was killed.

package devpg

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

const (
	dirPattern = "pq-dispatch-devpg-*"
	// settling is how long after its making a directory is left alone by sweep: its lock may not be taken yet.
	settling = time.Minute
)

// makeDir makes a directory in parent and takes its lock. A lock, and not a process id in a file: an id
// is given out again, and means nothing to a container that shares the temporary directory.
func makeDir(parent string) (dir string, owner *os.File, err error) {
	if dir, err = os.MkdirTemp(parent, dirPattern); err != nil {
		return "", nil, err
	}
	owner, err = os.OpenFile(filepath.Join(dir, "owner"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = tryLock(owner)
		if errors.Is(err, errors.ErrUnsupported) {
			err = nil
		}
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, owner, nil
}

// sweep removes the directories in parent whose process is gone. It is a service to the disk: what it
// may not remove, another user's for one, it passes over.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, dirPattern))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < settling {
			continue
		}
		owner, err := os.OpenFile(filepath.Join(dir, "owner"), os.O_RDWR, 0)
		switch {
		case err == nil:
			if tryLock(owner) == nil {
				_ = os.RemoveAll(dir)
			}
			_ = owner.Close()
		case errors.Is(err, os.ErrNotExist): // killed before it came to the lock
			_ = os.RemoveAll(dir)
		}
	}
}
