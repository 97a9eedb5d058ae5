package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

func TestTuneRecommendsAConfigurationAndLeavesNothing(t *testing.T) {
	t.Setenv(envProgram, "1") // for its processes
	d := newDatabase(t)
	svg := filepath.Join(t.TempDir(), "tune.svg")
	tune := func(budget time.Duration) result {
		return d.run("bench", "tune", "--budget", budget.String(), "--rate", "50", "--payload", "1KiB", "--command", "[/bin/sh, -c, 'cat > /dev/null']", "--plot", svg, "--json")
	}
	budget := 4 * time.Second
	r := tune(budget)
	for strings.Contains(r.stderr, "budget is too short") { // the command takes as long as the machine lets it
		budget *= 2
		r = tune(budget)
	}
	if r.code != exitOK {
		t.Fatalf("got exit code %d and %q, want 0", r.code, r.stderr)
	}
	out := r.stdout
	var got struct {
		Bench       string
		CommandLine string `json:"command_line"`
		Jobs        struct {
			PayloadBytes int `json:"payload_bytes"`
			Command      []string
			Rate         int
		}
		YAML, Go string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wants(t, "bench", got.Bench, "tune")
	contains(t, "command line", got.CommandLine, "--database-url=...")
	wants(t, "command", strings.Join(got.Jobs.Command, "|"), "/bin/sh|-c|cat > /dev/null")
	if got.Jobs.PayloadBytes != 1<<10 || got.Jobs.Rate != 50 {
		t.Errorf("got %+v", got.Jobs)
	}
	contains(t, "options in Go", got.Go, "dispatcher.Options{")
	file := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	if err := os.WriteFile(file, []byte(got.YAML), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, warnings, err := config.Load(file, nil, nil); err != nil || len(warnings) > 0 || !slices.Equal(c.Queues["jobs"].Exec.Command, got.Jobs.Command) {
		t.Errorf("got %v and %v of the configuration\n%s", err, warnings, got.YAML)
	}
	if text, err := os.ReadFile(svg); err != nil || !strings.HasPrefix(string(text), "<svg ") {
		t.Errorf("got %v and the plot %.40q", err, text)
	}
	wants(t, "schemas left", d.benchSchemas(), "0")
}

func TestTuneDoesNothingWhereAQueueIsInUse(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1")
	r := d.run("bench", "tune", "--budget", "4s")
	r.failsWith(t, exitFailed, "a queue is in use here", "jobs are waiting or running of queue")
	wants(t, "standard output", r.stdout, "")
	wants(t, "schemas", d.benchSchemas(), "0")
	wants(t, "jobs", strings.TrimSpace(d.must("ls", "--json")[:1]), "{")
}

func TestTuneUsedWronglyExitsWith2(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"extra"}, "extra"},
		{[]string{"--payload", "2MiB"}, "up to 1MiB"},
		{[]string{"--payload", "99999MiB"}, "up to 1MiB"},
		{[]string{"--payload", "-1"}, "up to 1MiB"},
		{[]string{"--work", "5"}, "no unit"},
		{[]string{"--rate", "0"}, "whole number from 1"},
		{[]string{"--budget", "soon"}, "number is missing"},
		{[]string{"--command", "command-that-is-nowhere"}, "command-that-is-nowhere"},
		{[]string{"--command", "[]"}, "no program"},
		{[]string{"--command", "[/bin/sh"}, "write a list"},
		{[]string{"--command", "/bin/sh", "--work", "5ms"}, "command work"},
		{[]string{"--work", "1m", "--budget", "10s"}, "budget is too short"},
		{[]string{"--profile", "x"}, "leave out --profile"},
		{[]string{"--force"}, "unknown flag"},
	} {
		r := cli("", append([]string{"--database-url", "postgres://user:canary@127.0.0.1:1/app", "bench", "tune"}, tt.args...)...)
		r.failsWith(t, exitUsage, tt.want, "--help'")
	}
	cli("", "bench", "tune", "--database-url", "postgres://user:canary@127.0.0.1:1/app").failsWith(t, exitUnreachable, "127.0.0.1:1")
}

func TestTuneIsAmongTheCommandsOfBenchAndItsProcessIsNot(t *testing.T) {
	help := cli("", "bench", "--help").stdout
	contains(t, "help of bench", help, "\n  tune ")
	if strings.Contains(help, tuneProcess) {
		t.Errorf("got %s among the commands", tuneProcess)
	}
	for flag := range strings.FieldsSeq("--payload --work --command --rate --budget --plot --json --database-url") {
		contains(t, "help of bench tune", cli("", "bench", "tune", "--help").stdout, flag+" ")
	}
}

func TestSizesAndProgramsOfFlagsAreRead(t *testing.T) {
	for text, want := range map[string]byteSize{"0": 0, "200": 200, "4KiB": 4096, "1MiB": 1 << 20} {
		var b byteSize
		if err := b.Set(text); err != nil || b != want {
			t.Errorf("got %d, %v of %q, want %d", b, err, text, want)
		}
	}
	for text, want := range map[string]string{"/bin/sh": "/bin/sh", `[/bin/sh, -c, "a, b"]`: "[/bin/sh, -c, a, b]", " [ /bin/sh ] ": "/bin/sh"} {
		var c argv
		if err := c.Set(text); err != nil || c.String() != want {
			t.Errorf("got %v, %v of %q, want %s", c, err, text, want)
		}
	}
}
