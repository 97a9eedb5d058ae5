// Package proc is what the kernel says of processes, of this machine, in /proc. Where there is none, nothing is known.
package proc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ServerCPU is the processor time of all processes of the PostgreSQL server that has this backend, in seconds: of those that
// live, and of those that its postmaster has waited for. NaN: it cannot be told.
func ServerCPU(backend int) float64 {
	own, err := Read(backend)
	if err != nil || own.Name != "postgres" {
		return math.NaN()
	}
	postmaster, err := Read(own.Parent)
	if err != nil || postmaster.Name != "postgres" {
		return math.NaN()
	}
	total := postmaster.cpu + postmaster.reaped
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if s, err := Read(pid); err == nil && s.Parent == own.Parent {
			total += s.cpu
		}
	}
	return total
}

// Stat is a line of /proc/PID/stat, times in seconds.
type Stat struct {
	Name        string
	Parent      int
	cpu, reaped float64 // of the process, and of its ended children
}

// clockTick is the unit of times in /proc on all platforms of Go.
const clockTick = 0.01

var errNoStat = errors.New("not a line of /proc/PID/stat")

// Read reads the line of a process, which has to be there.
func Read(pid int) (Stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(string(text))
}

// parseStat reads a line; the name in it may hold spaces and parentheses.
func parseStat(line string) (s Stat, err error) {
	begin, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if begin < 0 || end < begin {
		return s, errNoStat
	}
	s.Name = line[begin+1 : end]
	fields := strings.Fields(line[end+1:]) // from the third: state, ppid, ...
	if len(fields) < 15 {
		return s, errNoStat
	}
	if s.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return s, errNoStat
	}
	var ticks [4]float64 // utime, stime, cutime, cstime
	for i := range ticks {
		if ticks[i], err = strconv.ParseFloat(fields[11+i], 64); err != nil {
			return s, errNoStat
		}
	}
	s.cpu, s.reaped = (ticks[0]+ticks[1])*clockTick, (ticks[2]+ticks[3])*clockTick
	return s, nil
}

// ProcessCPU is the processor time of a process in seconds, by the scheduler's own count of each
// thread, which is finer than the ticks. NaN: it cannot be told.
func ProcessCPU(pid int) float64 {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if len(paths) == 0 {
		return math.NaN()
	}
	total := 0.0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return math.NaN()
		}
		total += ns / float64(time.Second)
	}
	return total
}

// PeakMemory is the most memory that this process has had, in MiB; 0: it cannot be told.
func PeakMemory() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0 // not measured
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024
		}
	}
	return 0
}
