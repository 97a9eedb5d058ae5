// What the machine is. Where there is no /proc, little is known.

package main

import (
	"os"
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
