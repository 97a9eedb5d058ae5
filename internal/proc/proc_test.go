package proc

import (
	"math"
	"os"
	"strings"
	"testing"
)

func TestStatLineIsReadWhateverTheNameIs(t *testing.T) {
	const line = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 200 0 0 150 50 300 100 20 0 1 0 12345 1000 200"
	got, err := parseStat(line)
	want := Stat{Name: "a) b (c", Parent: 7, cpu: 2, reaped: 4}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, wrong := range []string{"", "42", "42 (a", "42 )a(", "42 (a) S", strings.Replace(line, " 150 ", " x ", 1), strings.Replace(line, " 7 ", " x ", 1)} {
		if got, err := parseStat(wrong); err == nil {
			t.Errorf("parseStat(%q): got %+v, want an error", wrong, got)
		}
	}
}

func TestOwnProcessHasUsedSomething(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc")
	}
	s, err := Read(os.Getpid())
	if err != nil || s.Parent != os.Getppid() {
		t.Errorf("got %+v, %v; want the parent %d", s, err, os.Getppid())
	}
	if cpu, memory := ProcessCPU(os.Getpid()), PeakMemory(); !(cpu > 0) || memory < 1 {
		t.Errorf("got %v s of processor time and %v MiB, want some", cpu, memory)
	}
	if got := ProcessCPU(1 << 30); !math.IsNaN(got) {
		t.Errorf("got %v for a process that is not there, want NaN", got)
	}
}
