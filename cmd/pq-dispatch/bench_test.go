package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func (d *database) benchSchemas() string {
	d.Helper()
	return fmt.Sprint(d.number(`select count(*) from pg_namespace where nspname like '%pq_dispatch_bench%'`))
}

func TestBenchMeasuresInAGivenDatabaseAndLeavesNothingThere(t *testing.T) {
	t.Setenv(envProgram, "1") // for its processes
	d := newDatabase(t)
	for _, tt := range []struct{ args, bench, commandLine string }{
		{"drain --jobs 500 --quick", "drain", "pq-dispatch bench drain --database-url=... --jobs=500 --json --quick"},
		{"enqueue --copy --jobs 500 --rounds 2", "enqueue-copy", "pq-dispatch bench enqueue --copy --database-url=... --jobs=500 --json --rounds=2"},
		{"latency --duration 300ms --rate 50 --quick", "latency", "pq-dispatch bench latency --database-url=... --duration=300ms --json --quick --rate=50"},
		{"latency --load --duration 300ms --rate 200 --quick", "latency-load", "pq-dispatch bench latency --database-url=... --duration=300ms --json --load --quick --rate=200"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out := d.must(append(append([]string{"bench"}, strings.Fields(tt.args)...), "--json")...)
			var got struct {
				Bench       string
				CommandLine string `json:"command_line"`
				OK          map[string]bool
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			wants(t, "bench", got.Bench, tt.bench)
			wants(t, "command line", strings.Join(slices.Sorted(slices.Values(strings.Fields(got.CommandLine))), " "), strings.Join(slices.Sorted(slices.Values(strings.Fields(tt.commandLine))), " "))
			if len(got.OK) == 0 {
				t.Errorf("got no targets: %s", out)
			}
		})
	}
	wants(t, "schemas left", d.benchSchemas(), "0")
}

func TestBenchUsedWronglyExitsWith2(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"bench", "drain, enqueue, latency"},
		{"bench speed", "unknown command"},
		{"bench drain extra", "extra"},
		{"bench drain --jobs 0", "whole number from 1"},
		{"bench drain --duration 5s", "unknown flag"},
		{"bench idle --duration 5", "no unit"},
		{"bench idle --copy", "unknown flag"},
	} {
		r := cli("", append([]string{"--database-url", "postgres://user:canary@127.0.0.1:1/app"}, strings.Fields(tt.args)...)...)
		r.failsWith(t, exitUsage, tt.want, "--help'")
	}
	for _, address := range []string{"postgres://user:canary@127.0.0.1:x/app", "postgres://user:canary@127.0.0.1:1/app"} {
		r := cli("", "bench", "idle", "--database-url", address)
		if r.code == exitOK || strings.Contains(r.stdout+r.stderr, "canary") {
			t.Errorf("got exit code %d and %q, want an error without the password", r.code, r.stderr)
		}
	}
}

func TestBenchHasTheCommandsAndTheirScales(t *testing.T) {
	help := cli("", "bench", "--help").stdout
	for name := range strings.FieldsSeq("drain enqueue latency schedule recovery idle fairness bloat backlog") {
		contains(t, "help of bench", help, "\n  "+name+" ")
		contains(t, "help of bench "+name, cli("", "bench", name, "--help").stdout, "--rounds")
	}
	for _, hidden := range []string{"enqueue-copy", "latency-load", "bench-process"} {
		if strings.Contains(help, hidden) {
			t.Errorf("got %s among the commands", hidden)
		}
	}
	contains(t, "help of bench latency", cli("", "bench", "latency", "--help").stdout, "--load")
	contains(t, "help of bench bloat", cli("", "bench", "bloat", "--help").stdout, "default 10m0s; quick 1m0s")
}
