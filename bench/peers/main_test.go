package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

// childEnv makes the test binary a worker process, as the command itself would be one.
const childEnv = "PQ_DISPATCH_PEERS_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Setenv(childEnv, "1") // for what the tests start
	os.Exit(m.Run())
}

var update = flag.Bool("update", false, "write the golden files anew")

func TestResultsAreWrittenAsTheReportReadsThem(t *testing.T) {
	results := &result.Results{
		Date:        time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		CommandLine: []string{"peers", "run", "--quick"},
		Quick:       true,
		Seconds:     12.5,
		Machine:     result.Machine{CPUs: 2, Model: "A & B", MemoryMiB: 4096, OS: "linux", Arch: "amd64"},
		Versions:    map[string]string{"go": "go1.26", "postgresql": "15.1"},
		Settings:    map[string]string{"fsync": "on"},
		Contenders:  []result.Contender{{ID: "a", Name: "A", Version: "v1", Settings: []string{"x 1"}, Source: "https://example.org/?a&b"}},
		Absent:      []result.Absent{{Name: "B", Reason: "not here"}},
		Measured: []result.Measurement{
			{Workload: result.Drain, Contender: "a", Processes: 2, Figures: map[string]float64{"jobs_per_second": 1234.5}},
			{Workload: result.Load, Contender: "a", Processes: 1, Offered: 500, Round: 1, Figures: map[string]float64{"pickup_p50_ms": 1.5, "jobs_per_second": 499}, Note: "a <note>"},
		},
	}
	var got bytes.Buffer
	if err := write(&got, results); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "results.golden.json")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("run go test -update if this is meant (-want +got):\n%s", diff)
	}
	var read result.Results
	if err := json.Unmarshal(got.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(results, &read); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestChoiceKeepsTheOrderOfAllAndNamesThemWhenOneIsUnknown(t *testing.T) {
	all := []string{"a", "b", "c"}
	for _, c := range []struct {
		list string
		want []string
	}{
		{"", all},
		{"c,a", []string{"a", "c"}},
		{"b", []string{"b"}},
	} {
		got, err := choose("contender", c.list, all)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, %v, want %v", c.list, got, err, c.want)
		}
	}
	for _, list := range []string{"d", "a,", " a"} {
		if _, err := choose("contender", list, all); err == nil || !strings.Contains(err.Error(), "there are: a, b, c") {
			t.Errorf("%q: got %v, want an error that names them all", list, err)
		}
	}
}

func TestCommandRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "help requested"},
		{"walk", "help requested"},
		{"run --contenders nobody", `no contender "nobody"; there are: pq-dispatch, river-default`},
		{"run --workloads none", `no workload "none"; there are: drain, load`},
		{"run --rounds 0", "at least one is needed"},
		{"run drain", `what is "drain"?`},
		{"worker", "usage"},
		{"worker graphile-default", "no contender"},
		{"worker pq-dispatch", "settings on stdin"},
	} {
		var out, said bytes.Buffer
		err := command(t.Context(), strings.Fields(c.args), strings.NewReader(""), &out, &said)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want an error with %q", c.args, err, c.want)
		}
	}
}

func TestContendersHaveIDsOfTheirOwnAndCiteTheirSettings(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range contenders(defaultNode) {
		if seen[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		seen[c.ID] = true
		if c.ready() != nil {
			continue
		}
		if c.Name == "" || c.Version == "" || len(c.Settings) == 0 || c.Source == "" {
			t.Errorf("%s: got %+v, want a name, a version, its settings and their source", c.ID, c.Contender)
		}
	}
}
