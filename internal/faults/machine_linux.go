// How busy the machine is with others, by which a slow return is told from a busy machine.

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// usage is processor time, in ticks: of the whole machine, busy or not, and that of this process with all below it.
type usage struct{ all, busy, ours int64 }

// measure reads it.
func measure() (u usage) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u
	}
	line, _, _ := bytes.Cut(stat, []byte{'\n'})
	for i, field := range bytes.Fields(line) {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil || i > 8 { // the name; and what guests use is counted in what their hosts do
			continue
		}
		u.all += n
		if i != 4 && i != 5 { // idle, and waiting for a disk
			u.busy += n
		}
	}
	for _, p := range processes() {
		u.ours += p.ticks
	}
	return u
}

// foreign is the percentage of the machine that others have used since an earlier measurement.
func (u usage) foreign(since usage) int {
	all := u.all - since.all
	if all <= 0 {
		return 0
	}
	return int(max(0, (u.busy-since.busy)-(u.ours-since.ours)) * 100 / all)
}

// process is one of ours. Its ticks include those of its children that have ended.
type process struct {
	pid, parent int
	name        string
	ticks       int64
}

// processes are this one and all that it has started, with theirs.
func processes() []process {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]process{}
	var self []process
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent ...: the name may hold anything.
		first, last := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		if first < 0 || last < first {
			continue
		}
		fields := bytes.Fields(text[last+1:])
		if len(fields) < 15 || fields[0][0] == 'Z' {
			continue
		}
		p := process{name: string(text[first+1 : last])}
		p.pid, _ = strconv.Atoi(string(bytes.TrimSpace(text[:first])))
		p.parent, _ = strconv.Atoi(string(fields[1]))
		for _, field := range fields[11:15] { // user, system, and those of children that were waited for
			n, _ := strconv.ParseInt(string(field), 10, 64)
			p.ticks += n
		}
		if p.pid == os.Getpid() {
			self = append(self, p)
		} else {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	for i := 0; i < len(self); i++ {
		self = append(self, children[self[i].pid]...)
	}
	return self
}
