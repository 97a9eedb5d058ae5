//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes the test binary start a server, tell about it and wait to be killed.
const childEnv = "DEVPG_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		s, err := Start(context.Background(), Options{Own: true})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.own.postmaster.cmd.Process.Pid, s.own.dir)
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed, or the one who is to do that has died
		os.Exit(1)
	}
	code := m.Run()
	if common != nil {
		if err := common.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// gone reports whether a process has ended; one that only waits for its parent to take note has.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestKilledProcessTakesItsServerAlongAndItsDirectoryIsSweptLater(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux signals the children of a killed process")
	}
	scratch := openDir(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1", "TMPDIR="+scratch)
	child.Stderr = os.Stderr
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	number, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("the child said %q", line)
	}
	if gone(pid) {
		t.Fatalf("postmaster %d is not there", pid)
	}
	age(t, dir)
	sweep(scratch)
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err != nil {
		t.Fatalf("sweep touched the directory of a live server: %v", err)
	}

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for !gone(pid) {
		select {
		case <-tick.C:
		case <-deadline.C:
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("postmaster %d is still there a minute after its parent was killed", pid)
		}
	}

	age(t, dir)
	sweep(scratch)
	if left, _ := os.ReadDir(scratch); len(left) != 0 {
		t.Errorf("sweep left %v", left)
	}
}

// age makes a directory old enough for sweep.
func age(t *testing.T, dir string) {
	t.Helper()
	old := time.Now().Add(-2 * settling)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
}

func TestSweepKnowsTheAbandonedByLockAndAge(t *testing.T) {
	parent := t.TempDir()
	for _, c := range []struct {
		name                string
		locked, file, young bool
		other               bool // not a name of ours
		want                bool // stays
	}{
		{name: "abandoned", file: true},
		{name: "abandoned before it was locked"},
		{name: "in use", file: true, locked: true, want: true},
		{name: "in use and young", file: true, locked: true, young: true, want: true},
		{name: "just made", young: true, want: true},
		{name: "of another program", other: true, want: true},
	} {
		dir, owner, err := makeDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		if !c.locked {
			owner.Close()
		}
		if !c.file {
			os.Remove(filepath.Join(dir, "owner"))
		}
		if c.other {
			renamed := filepath.Join(parent, "other")
			if err := os.Rename(dir, renamed); err != nil {
				t.Fatal(err)
			}
			dir = renamed
		}
		if !c.young {
			age(t, dir)
		}
		sweep(parent)
		if _, err := os.Stat(dir); (err == nil) != c.want {
			t.Errorf("%s: got stays %v, want %v", c.name, err == nil, c.want)
		}
		owner.Close()
		os.RemoveAll(dir)
	}
}

func TestDownloadHappensOnceWhereNothingIsInstalled(t *testing.T) {
	o := Options{}
	var log strings.Builder
	o.Log = &log
	downloads := 0
	o.Download = func(ctx context.Context, home string) error {
		downloads++
		install(t, filepath.Join(home, "bin"), "postgres (PostgreSQL) 18.3", "postgres", "initdb")
		return nil
	}
	cache := openDir(t)
	for range 2 {
		dir, err := places{}.search(t.Context(), cache, o)
		if want := filepath.Join(cache, "postgresql", "bin"); err != nil || dir != want {
			t.Errorf("got %q, %v, want %q", dir, err, want)
		}
	}
	if got := strings.Count(log.String(), "download"); got != 1 || downloads != 1 {
		t.Errorf("got %d downloads and %q in the log, want 1 and a line", downloads, log.String())
	}
}

func TestNothingFoundSaysWhatWasTriedAndWhatToDo(t *testing.T) {
	nowhere := places{globs: []string{"/nowhere/*/bin"}}
	for _, o := range []Options{
		{},
		{Download: func(context.Context, string) error { return io.ErrUnexpectedEOF }},
		{Download: func(context.Context, string) error { return nil }}, // brings nothing
	} {
		_, err := nowhere.search(t.Context(), openDir(t), o)
		for _, want := range []string{"PATH: holds no postgres", "/nowhere/*/bin", "download: ", "apt install", EnvBin, EnvURL} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		}
	}
}

func TestServerIsInAProcessGroupOfItsOwn(t *testing.T) {
	s := anyServer(t)
	pid := s.own.postmaster.cmd.Process.Pid
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("got group %d, %v, want %d: a Ctrl-C would reach it", group, err, pid)
	}
}

// install writes a fake installation whose postgres says what is given, or nothing and fails.
func install(t *testing.T, dir, says string, programs ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho '" + says + "'\n"
	if says == "" {
		script = "#!/bin/sh\necho 'libicu.so: no such file' >&2\nexit 1\n"
	}
	for _, program := range programs {
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInstallationsAreFoundInOrder(t *testing.T) {
	root := openDir(t)
	at := func(name string) string { return filepath.Join(root, name) }
	both := []string{"postgres", "initdb"}
	fifteen := install(t, at("fifteen"), "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", both...)
	eighteen := install(t, at("eighteen"), "postgres (PostgreSQL) 18.4", both...)
	beta := install(t, at("opt/9beta/bin"), "postgres (PostgreSQL) 19beta1", both...)
	nine := install(t, at("opt/90/bin"), "postgres (PostgreSQL) 9.6.24", both...)
	_ = install(t, at("opt/16/bin"), "postgres (PostgreSQL) 16.9", both...)
	broken := install(t, at("broken"), "", both...)
	half := install(t, at("half"), "postgres (PostgreSQL) 17.5", "postgres")
	foreign := install(t, at("foreign"), "EnterpriseThing 12", both...)
	asks := filepath.Join(install(t, at("asks"), eighteen, "pg_config"), "pg_config")
	links := at("links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(fifteen, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	glob := at("opt/*/bin")

	for _, c := range []struct {
		name   string
		places places
		want   string
		tried  []string // of the reasons, what they must mention
		fails  string   // of the error
	}{
		{"named wins", places{named: eighteen, path: []string{fifteen}, globs: []string{glob}}, eighteen, nil, ""},
		{"named and broken is an error, not another version", places{named: broken, path: []string{fifteen}}, "", nil, "libicu.so"},
		{"named and too old", places{named: nine, path: []string{fifteen}}, "", nil, "version 9 is too old"},
		{"named and missing", places{named: at("nowhere"), path: []string{fifteen}}, "", nil, "has no postgres"},
		{"PATH before pg_config", places{path: []string{"", at("nowhere"), fifteen}, pgConfig: asks}, fifteen, nil, ""},
		{"first good one of PATH", places{path: []string{nine, broken, half, eighteen, fifteen}}, eighteen, []string{"version 9 is too old", "libicu.so", "has no initdb"}, ""},
		{"links lead to the whole installation", places{path: []string{links}}, fifteen, nil, ""},
		{"pg_config before packages", places{pgConfig: asks, globs: []string{glob}}, eighteen, []string{"PATH: holds no postgres"}, ""},
		{"newest of the packages", places{globs: []string{fifteen, glob, eighteen}}, beta, []string{"version 9 is too old"}, ""},
		{"nothing good", places{path: []string{foreign}, pgConfig: at("nowhere/pg_config"), globs: []string{half, at("none*")}}, "",
			[]string{"EnterpriseThing 12", "pg_config: ", "has no initdb", "none*: not there"}, ""},
	} {
		dir, tried, err := c.places.find(t.Context())
		if dir != c.want {
			t.Errorf("%s: got %q, want %q (tried %q)", c.name, dir, c.want, tried)
		}
		for _, want := range c.tried {
			if !strings.Contains(strings.Join(tried, "\n"), want) {
				t.Errorf("%s: got reasons %q, want one with %q", c.name, tried, want)
			}
		}
		if (err != nil) != (c.fails != "") || err != nil && (!strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), EnvBin)) {
			t.Errorf("%s: got error %v, want %q", c.name, err, c.fails)
		}
	}
}

func TestBinaryClosedToTheServiceAccountIsPassedOver(t *testing.T) {
	if a, _ := serviceAccount(); a == nil {
		t.Skip("only root runs PostgreSQL as another user")
	}
	closed := install(t, filepath.Join(t.TempDir(), "bin"), "postgres (PostgreSQL) 18.4", "postgres", "initdb")
	open := install(t, filepath.Join(openDir(t), "bin"), "postgres (PostgreSQL) 15.1", "postgres", "initdb")
	if dir, tried, err := (places{path: []string{closed, open}}).find(t.Context()); dir != open || err != nil {
		t.Errorf("got %q, %v, want %q (tried %q)", dir, err, open, tried)
	}
}
