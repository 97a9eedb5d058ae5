// Command compare turns the reports of `pq-dispatch bench --json`, one after the other on its standard input, into the
// format of Go benchmarks, which benchstat reads.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	if err := convert(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// report is what is needed of a benchmark's report.
type report struct {
	Bench   string             `json:"bench"`
	Figures map[string]float64 `json:"figures"`
	Floor   map[string]float64 `json:"floor"` // the machine and the server, without the project
}

// unit is what figures with this end of their name are in. benchstat has a table for each.
type unit struct {
	suffix, name string
	higher       bool // is better
}

// units, the longer suffix first. A figure that has none of them, such as a count of jobs, is not compared.
var units = []unit{
	{"jobs_per_second", "jobs/s", true},
	{"us_per_job", "us/job", false},
	{"bytes_per_job", "B/job", false},
	{"_mib", "MiB", false},
	{"_ms", "ms", false},
	{"p50_ratio", "delay/floor", false},
	{"p99_ratio", "delay/floor", false},
	{"ratio", "rate/floor", true},
	{"cpu_percent", "CPU-%", false},
	{"statements_per_second_and_process", "statements/s", false},
	{"wal_bytes_per_second", "B/s-of-WAL", false},
}

func unitOf(figure string) (unit, bool) {
	i := slices.IndexFunc(units, func(u unit) bool { return strings.HasSuffix(figure, u.suffix) })
	if i < 0 {
		return unit{}, false
	}
	return units[i], true
}

// convert reads until in's end.
func convert(in io.Reader, out io.Writer) error {
	to := bufio.NewWriter(out)
	said := map[string]bool{}
	for _, u := range units {
		if !said[u.name] {
			said[u.name] = true
			better := "lower"
			if u.higher {
				better = "higher"
			}
			fmt.Fprintf(to, "Unit %s better=%s\n", u.name, better)
		}
	}
	from := json.NewDecoder(in)
	for n := 1; ; n++ {
		var r report
		err := from.Decode(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("report %d: %w", n, err)
		}
		if r.Bench == "" || len(r.Figures) == 0 {
			return fmt.Errorf("report %d has no bench or no figures: is it of pq-dispatch bench --json?", n)
		}
		write(to, name(r.Bench), r.Figures)
		write(to, name(r.Bench)+"/floor", r.Floor)
	}
	return to.Flush()
}

func write(to io.Writer, name string, figures map[string]float64) {
	for _, figure := range slices.Sorted(maps.Keys(figures)) {
		if u, ok := unitOf(figure); ok {
			fmt.Fprintf(to, "%s/%s 1 %v %s\n", name, figure, figures[figure], u.name)
		}
	}
}

// name is that of a Go benchmark: BenchmarkLatencyLoad for latency-load.
func name(bench string) string {
	all := "Benchmark"
	for part := range strings.SplitSeq(bench, "-") {
		if part != "" {
			all += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return all
}
