// The machine: what it is, and what its kernel says of processes. Where there is no /proc, nothing is known.

package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

func thisMachine() result.Machine {
	m := result.Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	m.Model = field("/proc/cpuinfo", "model name")
	kib, _ := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	m.MemoryMiB = kib / 1024
	return m
}

// field is the value of the first line "name: value" of a file.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// serverCPU is the processor time of all processes of the server that has this backend, in seconds: of those that live, and
// of those that its postmaster has waited for. (The package bench of the parent module does the same.)
func serverCPU(backend int) float64 {
	own, ok := readStat(backend)
	if !ok {
		return math.NaN()
	}
	postmaster, ok := readStat(own.parent)
	if !ok {
		return math.NaN()
	}
	total := postmaster.cpu + postmaster.reaped
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if s, ok := readStat(pid); ok && s.parent == own.parent {
			total += s.cpu
		}
	}
	return total
}

// stat is of a line of /proc/PID/stat, times in seconds.
type stat struct {
	parent      int
	cpu, reaped float64 // of the process, and of its ended children
}

// clockTick is the unit of times in /proc on all platforms of Go.
const clockTick = 0.01

func readStat(pid int) (stat, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	return parseStat(string(text))
}

// parseStat reads a line; the name in it may hold spaces and parentheses.
func parseStat(line string) (s stat, ok bool) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:]) // from the third: state, ppid, ...
	if len(fields) < 15 {
		return s, false
	}
	var numbers [5]float64 // ppid, utime, stime, cutime, cstime
	for i, at := range []int{1, 11, 12, 13, 14} {
		n, err := strconv.ParseFloat(fields[at], 64)
		if err != nil {
			return s, false
		}
		numbers[i] = n
	}
	return stat{int(numbers[0]), (numbers[1] + numbers[2]) * clockTick, (numbers[3] + numbers[4]) * clockTick}, true
}
