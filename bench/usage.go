// What work costs: the server's processor time and WAL, a process's memory. Read from /proc where
// there is one.

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// usage is what the server has used so far. What cannot be read is NaN, and so is what is made of it.
type usage struct {
	wal float64 // bytes
	cpu float64 // seconds, of all of its processes
}

func (h *harness) usage(ctx context.Context) (u usage, err error) {
	var pid int
	var local bool
	err = h.pool.QueryRow(ctx, `
		select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_backend_pid(),
		       coalesce(inet_server_addr() = inet_client_addr(), true)`).Scan(&u.wal, &pid, &local)
	if err != nil {
		return u, fmt.Errorf("read what the server has used: %w", err)
	}
	u.cpu = math.NaN()
	if local {
		u.cpu = serverCPU(pid)
	}
	return u, nil
}

// since is the difference.
func (u usage) since(before usage) usage { return usage{u.wal - before.wal, u.cpu - before.cpu} }

// serverCPU is the time of all processes of the server that has this backend: of those that live, and
// of those that its postmaster has waited for.
func serverCPU(backend int) float64 {
	own, err := readStat(backend)
	if err != nil || own.name != "postgres" {
		return math.NaN()
	}
	postmaster, err := readStat(own.parent)
	if err != nil || postmaster.name != "postgres" {
		return math.NaN()
	}
	total := postmaster.cpu + postmaster.reaped
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if s, err := readStat(pid); err == nil && s.parent == own.parent {
			total += s.cpu
		}
	}
	return total
}

// stat is a line of /proc/PID/stat, times in seconds.
type stat struct {
	name        string
	parent      int
	cpu, reaped float64 // of the process, and of its ended children
}

// clockTick is the unit of times in /proc on all platforms of Go.
const clockTick = 0.01

var errNoStat = errors.New("not a line of /proc/PID/stat")

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(text))
}

// parseStat reads a line; the name in it may hold spaces and parentheses.
func parseStat(line string) (s stat, err error) {
	begin, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if begin < 0 || end < begin {
		return s, errNoStat
	}
	s.name = line[begin+1 : end]
	fields := strings.Fields(line[end+1:]) // from the third: state, ppid, ...
	if len(fields) < 15 {
		return s, errNoStat
	}
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
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

// processCPU is the processor time of a process in seconds, by the scheduler's own count of each
// thread, which is finer than the ticks.
func processCPU(pid int) float64 {
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

// peakMemory is the most memory that this process has had, in MiB.
func peakMemory() float64 {
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

// unlessDenied is nil for an error about a right that the role does not have.
func unlessDenied(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" { // insufficient_privilege
		return nil
	}
	return err
}
