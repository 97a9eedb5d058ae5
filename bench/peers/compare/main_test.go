package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// header is what all outputs begin with.
func header(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	if err := convert(strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReportsBecomeLinesOfGoBenchmarks(t *testing.T) {
	const reports = `{"bench":"drain","figures":{"jobs_per_second":22789.25,"processes_4_ratio":0.75,"repeated_jobs":0,"memory_mib":31.5},"floor":{"jobs_per_second":43791}}
{"bench":"latency-load","figures":{"p99_ratio":1.5,"p99_ms":12.25,"put_jobs_per_second":0.00001},"floor":null}
`
	const want = `BenchmarkDrain/jobs_per_second 1 22789.25 jobs/s
BenchmarkDrain/memory_mib 1 31.5 MiB
BenchmarkDrain/processes_4_ratio 1 0.75 rate/floor
BenchmarkDrain/floor/jobs_per_second 1 43791 jobs/s
BenchmarkLatencyLoad/p99_ms 1 12.25 ms
BenchmarkLatencyLoad/p99_ratio 1 1.5 delay/floor
BenchmarkLatencyLoad/put_jobs_per_second 1 1e-05 jobs/s
`
	var out strings.Builder
	if err := convert(strings.NewReader(reports), &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.TrimPrefix(out.String(), header(t))); diff != "" {
		t.Errorf("got (-want +got):\n%s", diff)
	}
}

func TestAUnitHasOneDirection(t *testing.T) {
	higher := map[string]bool{}
	for _, u := range units {
		if known, ok := higher[u.name]; ok && known != u.higher {
			t.Errorf("%s is better when higher and when lower", u.name)
		}
		higher[u.name] = u.higher
	}
	for line := range strings.Lines(header(t)) {
		var want string
		if name := strings.Fields(line)[1]; higher[name] {
			want = "Unit " + name + " better=higher\n"
		} else {
			want = "Unit " + name + " better=lower\n"
		}
		if line != want {
			t.Errorf("got %q, want %q", line, want)
		}
	}
}

func TestWhatIsNoReportIsAnError(t *testing.T) {
	for _, text := range []string{"no JSON", `{"bench":"drain"}`, `{"figures":{"p50_ms":1}}`, `{"bench":"drain","figures":{"p50_ms":1}} {`} {
		if err := convert(strings.NewReader(text), &strings.Builder{}); err == nil {
			t.Errorf("got no error of %q", text)
		}
	}
}

func TestEveryNameIsOneOfAGoBenchmark(t *testing.T) {
	for bench, want := range map[string]string{"drain": "BenchmarkDrain", "latency-load": "BenchmarkLatencyLoad", "a-": "BenchmarkA"} {
		if got := name(bench); got != want {
			t.Errorf("of %s: got %s, want %s", bench, got, want)
		}
	}
}
