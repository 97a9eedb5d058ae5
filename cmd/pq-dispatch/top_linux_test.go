package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// screen is the program in a pseudo-terminal.
type screen struct {
	*testing.T
	cmd              *exec.Cmd
	terminal, theirs *os.File // our end and the program's
	before           unix.Termios
	done             chan struct{} // closed when the program has ended
	wide             bool

	mu      sync.Mutex
	written []byte // since the last change of size
	all     []byte
}

func openScreen(t *testing.T, url string, environment ...string) *screen {
	t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{T: t, terminal: ours, theirs: theirs}
	t.Cleanup(func() {
		theirs.Close()
		ours.Close()
	})
	if err := pty.Setsize(ours, &pty.Winsize{Rows: 24, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	s.before = s.settings()
	s.cmd = exec.Command(os.Args[0], "--database-url", url, "top", "--interval", "100ms")
	s.cmd.Env = append(os.Environ(), append([]string{envProgram + "=1", "TERM=xterm-256color", "COLORTERM=", "NO_COLOR="}, environment...)...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = theirs, theirs, theirs
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.done = pgtest.Start(t, s.cmd)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 64<<10)
		for {
			n, err := ours.Read(buffer)
			s.mu.Lock()
			s.written = append(s.written, buffer[:n]...)
			s.all = append(s.all, buffer[:n]...)
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { // before the ends are closed, which ends the reading
		theirs.Close()
		<-s.done
		ours.Close()
		<-read
	})
	return s
}

func (s *screen) settings() unix.Termios {
	s.Helper()
	settings, err := unix.IoctlGetTermios(int(s.theirs.Fd()), unix.TCGETS)
	if err != nil {
		s.Fatal(err)
	}
	return *settings
}

// shows waits until the screen shows all the texts. A change of size has the program draw all of it again: else it
// writes only what has changed, which could be half a word.
func (s *screen) shows(texts ...string) {
	s.Helper()
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(testPatience)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		s.written = nil
		s.mu.Unlock()
		s.wide = !s.wide
		size := &pty.Winsize{Rows: 24, Cols: 100}
		if s.wide {
			size.Cols = 110
		}
		if err := pty.Setsize(s.terminal, size); err != nil {
			s.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-s.done:
			s.Fatalf("it has ended: %q", s.output())
		case <-deadline.C:
			s.Fatalf("got the screen %q, want it to show %q", s.last(), texts)
		}
		last, missing := s.last(), false
		for _, text := range texts {
			missing = missing || !strings.Contains(last, text)
		}
		if !missing {
			return
		}
	}
}

// last is what the program has written since the last change of size.
func (s *screen) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ansi.Strip(string(s.written))
}

func (s *screen) output() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.all)
}

func (s *screen) press(keys string) {
	s.Helper()
	if _, err := s.terminal.WriteString(keys); err != nil {
		s.Fatal(err)
	}
}

// ends waits for the program's end, and for the terminal to be as it was.
func (s *screen) ends(code int) {
	s.Helper()
	deadline := time.NewTimer(testPatience)
	defer deadline.Stop()
	select {
	case <-s.done:
	case <-deadline.C:
		s.Fatalf("it does not end; the screen is %q", s.last())
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.Errorf("exit code: got %d, want %d; output %q", got, code, s.output())
	}
	if after := s.settings(); after != s.before {
		s.Errorf("the terminal's settings: got %+v, want %+v as before", after, s.before)
	}
	// What it switched on it switched off, last of all: the other screen, the hidden cursor, the marks of pastes.
	if _, err := s.theirs.WriteString("after"); err != nil { // what it wrote has been read when this has
		s.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !bytes.HasSuffix(s.output(), []byte("after")) {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.Fatalf("got the output %q, want it to end in what the test wrote", s.output())
		}
	}
	output := s.output()
	for _, mode := range []struct{ name, on, off string }{{"the other screen", "\x1b[?1049h", "\x1b[?1049l"}, {"no cursor", "\x1b[?25l", "\x1b[?25h"}, {"marked pastes", "\x1b[?2004h", "\x1b[?2004l"}} {
		if bytes.LastIndex(output, []byte(mode.on)) > bytes.LastIndex(output, []byte(mode.off)) {
			s.Errorf("%s is left on: %q", mode.name, output)
		}
	}
}

const arrowDown = "\x1b[B"

func TestTopInATerminal(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", `"Cox"`, "--task", "eat")
	d.must("put", "pears", "1", "--schedule-at", "1h")
	s := openScreen(t, d.url)
	s.shows("> apples", "  pears", "ready 1 ", "scheduled 1 ")
	s.press(arrowDown)
	s.shows("> pears", "  apples")
	s.press("P")
	s.shows("pause pears? y/n")
	if n := d.number(`select count(*) from pq_dispatch.pauses`); n != 0 {
		t.Error("it was paused before that was confirmed")
	}
	s.press("y")
	s.shows("pears is paused")
	if n := d.number(`select count(*) from pq_dispatch.pauses where q_name = 'pears'`); n != 1 {
		t.Errorf("got %d pauses in the database, want 1", n)
	}
	s.press("k\r")
	s.shows("apples: [waiting]", "eat")
	d.must("put", "apples", "2", "--task", "drink")
	s.shows("drink")
	s.press("q")
	s.shows("> apples", "ready 2 ")
	s.press("?")
	s.shows("KEYS")
	s.press("qq")
	s.ends(exitOK)
}

func TestTopEndsBySignalAndLeavesTheTerminalAsItWas(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1")
	s := openScreen(t, d.url)
	s.shows("> apples")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.ends(128 + int(syscall.SIGTERM))
}

// color is a sequence that sets one of the foreground or the background.
var color = regexp.MustCompile(`\x1b\[([0-9;]*;)?[34][0-8][;m]`)

func TestTopHasNoColorsWhereNoneAreWanted(t *testing.T) {
	d := newDatabase(t)
	d.must("pause", "apples") // shown in a color
	s := openScreen(t, d.url)
	s.shows("> apples")
	s.press("P")
	s.shows("resume apples?")
	s.press("\x03") // ctrl+c
	s.ends(exitOK)
	if !color.Match(s.output()) {
		t.Errorf("got no color: %q", s.output())
	}
	s = openScreen(t, d.url, "NO_COLOR=yes")
	s.shows("> apples")
	s.press("P")
	s.shows("resume apples?")
	s.press("\x03")
	s.ends(exitOK)
	if color.Match(s.output()) {
		t.Errorf("got colors: %q", s.output())
	}
}

func TestTopWaitsForALostDatabase(t *testing.T) {
	server := pgtest.Server(t, devpg.Options{})
	url := server.URL("")
	if r := cli("", "migrate", "up", "--database-url", url); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	if r := cli("", "put", "apples", "1", "--database-url", url); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	s := openScreen(t, url)
	s.shows("> apples")
	if err := server.Stop(t.Context(), devpg.Fast); err != nil {
		t.Fatal(err)
	}
	s.shows("no answer since", "> apples")
	if err := server.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.shows("the database is back", "> apples")
	s.press("q")
	s.ends(exitOK)
}

// A look that hangs does not keep the program from ending, nor leave its connection.
func TestTopQuitsDuringALook(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1")
	s := openScreen(t, d.url)
	s.shows("> apples")
	tx, err := d.query.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `lock table queue`); err != nil {
		t.Fatal(err)
	}
	d.eventually("a look waits", func() bool {
		return d.number(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) > 0
	})
	s.press("q")
	s.ends(exitOK)
}
