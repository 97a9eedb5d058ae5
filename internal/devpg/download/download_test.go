package download

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestDownloadIsCheckedAndUnpackedWhole(t *testing.T) {
	xz, err := exec.LookPath("xz")
	if err != nil {
		t.Skip(err)
	}
	// A stand-in for the repository: an archive of fake programs in the form that the real one has.
	var tarball bytes.Buffer
	w := tar.NewWriter(&tarball)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		text := "#!/bin/sh\nexit 1\n"
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + name, Mode: 0o755, Size: int64(len(text))})
		if _, err2 := io.WriteString(w, text); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
	}
	w.Close()
	compress := exec.CommandContext(t.Context(), xz, "--stdout")
	compress.Stdin = &tarball
	txz, err := compress.Output()
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	z := zip.NewWriter(&jar)
	entry, err := z.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	entry.Write(txz)
	z.Close()

	var corrupt atomic.Bool
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".jar"):
			w.Write(jar.Bytes())
		case strings.HasSuffix(r.URL.Path, ".sha256") && corrupt.Load():
			fmt.Fprintf(w, "%x", sha256.Sum256(nil))
		case strings.HasSuffix(r.URL.Path, ".sha256"):
			fmt.Fprintf(w, "%x", sha256.Sum256(jar.Bytes()))
		}
	}))
	defer repository.Close()
	t.Setenv("TMPDIR", t.TempDir()) // the library forgets a file there
	cache := t.TempDir()
	home := filepath.Join(cache, "postgresql")

	corrupt.Store(true)
	if err := from(t.Context(), repository.URL, home); err == nil {
		t.Error("a wrong checksum: got no error")
	}
	if left, _ := os.ReadDir(cache); len(left) != 0 {
		t.Errorf("a failed download left %v", left)
	}
	corrupt.Store(false)
	for range 2 { // the second time the place is taken, as by another process
		if err := from(t.Context(), repository.URL, home); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if info, err := os.Stat(filepath.Join(home, "bin", name)); err != nil || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s: got %v, %v, want a program", name, info, err)
		}
	}
	if left, _ := os.ReadDir(cache); len(left) != 1 {
		t.Errorf("got %v in the cache, want the programs alone", left)
	}
}

func TestMissingArchiveIsAnErrorThatNamesTheRepository(t *testing.T) {
	repository := httptest.NewServer(http.NotFoundHandler())
	defer repository.Close()
	t.Setenv("TMPDIR", t.TempDir())
	err := from(t.Context(), repository.URL, filepath.Join(t.TempDir(), "postgresql"))
	if err == nil || !strings.Contains(err.Error(), repository.URL) {
		t.Errorf("got %v, want an error with %s", err, repository.URL)
	}
}

func TestCancelledDownloadReturnsAndCleansUpLater(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		w.WriteHeader(http.StatusNotFound)
	}))
	defer repository.Close()
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	cache := t.TempDir()
	if err := from(ctx, repository.URL, filepath.Join(cache, "postgresql")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(release)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for left, err := os.ReadDir(cache); len(left) > 0 || err != nil; left, err = os.ReadDir(cache) {
		<-tick.C // the test's own deadline bounds this
	}
}
