package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

const exampleConfig = "../../examples/pq-dispatch.yaml"

func configFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigCheckSaysWhatTheDaemonWouldDo(t *testing.T) {
	path := configFile(t, `
database: {url: "postgres://app:canary@db/app"}
http: {address: "127.0.0.1:9464", api: {enabled: true, token: canary-canary-canary}}
queues:
  a/gob: {http: {url: "https://user:canary@example.org/a"}}
  b: {concurrency: 2, exec: {command: [/bin/sh, -c, "true"]}}
  c: {worker: {command: [/bin/sh]}}
`)
	r := cli("", "config", "check", "-c", path)
	wants(t, "standard error", r.stderr, "")
	wants(t, "standard output", r.stdout, path+`: ok
database postgres://app:***@db/app, table public.queue
listens on 127.0.0.1:9464: probes, metrics, API
queue a/gob: sent to https://user:***@example.org/a, 100 at once
queue b: run by /bin/sh, 2 at once
queue c: handed to 4 processes of /bin/sh, 4 at once
`)
	if r.code != exitOK {
		t.Errorf("got exit code %d, want 0", r.code)
	}
}

func TestConfigCheckPrintsEachMistakeAndExitsWith2(t *testing.T) {
	one := configFile(t, "queues: {a: {exec: {command: [/bin/sh]}}}\ngrcae: 5s\n")
	r := cli("", "config", "check", "-c", one)
	r.failsWith(t, exitUsage, one+":2:1: grcae: unknown key; did you mean grace?")
	wants(t, "standard output", r.stdout, "")

	three := configFile(t, "queues: {a: {exec: {command: [/bin/sh], dri: /}}}\ngrcae: 5s\nsweep: x\n")
	r = cli("", "config", "check", "-c", three)
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	for i, part := range []string{three + ":1:41: queues.a.exec.dri", three + ":2:1: grcae", three + ":3:8: sweep", three + ": 3 mistakes"} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], "pq-dispatch: "+part) {
			t.Errorf("line %d of %q: want %q", i+1, lines, part)
		}
	}
	if r.code != exitUsage {
		t.Errorf("got exit code %d, want 2", r.code)
	}
	cli("", "config", "check", "-c", "/does/not/exist.yaml").failsWith(t, exitUsage, "/does/not/exist.yaml")
	cli("", "config", "print", "-c", one).failsWith(t, exitUsage, "grcae")
	cli("", "config", "check").failsWith(t, exitUsage, "queues: no queue is given")
}

func TestConfigCheckReportsAsJSON(t *testing.T) {
	path := configFile(t, "queues: {a/gob: {http: {url: 'http://u:canary@h/'}}}\n")
	for _, tt := range []struct {
		args []string
		want string
		code int
	}{
		{nil, `{"file":"FILE","ok":true,"mistakes":[],"warnings":[],"queues":[{"name":"a/gob","handler":"http","target":"http://u:***@h/"}]}`, exitOK},
		{[]string{"--sweep=x"}, `{"file":"FILE","ok":false,"mistakes":[{"where":{"source":"--sweep"},"key":"sweep","text":"got \"x\"; write a duration with its unit, such as 250ms, 30s, 5m, 1h30m or 2d"}],"warnings":[],"queues":[]}`, exitUsage},
	} {
		r := cli("", append([]string{"config", "check", "--json", "-c", path}, tt.args...)...)
		wants(t, "standard output", strings.ReplaceAll(r.stdout, path, "FILE"), tt.want+"\n")
		if r.code != tt.code {
			t.Errorf("got exit code %d, want %d", r.code, tt.code)
		}
	}
}

func TestConfigCheckLooksForProgramsUnlessOffline(t *testing.T) {
	path := configFile(t, "queues: {a: {exec: {command: [/does/not/exist]}}}\ndatabase: {url_file: /does/not/exist}\n")
	cli("", "config", "check", "-c", path).failsWith(t, exitUsage, "database.url_file")
	r := cli("", "config", "check", "-c", path, "--database-url=postgres://h/d")
	contains(t, "standard error", r.stderr, "warning: "+path+":1:30: queues.a.exec.command: it cannot be run")
	r2 := cli("", "config", "check", "-c", path, "--offline")
	wants(t, "standard error", r2.stderr, "")
	if r.code != exitOK || r2.code != exitOK {
		t.Errorf("got exit codes %d and %d, want 0", r.code, r2.code)
	}
}

func TestConfigPrintShowsWhatTakesEffectAndWhereItIsFrom(t *testing.T) {
	path := configFile(t, "grace: 1m\nqueues: {a: {exec: {command: [/bin/sh]}}}\n")
	t.Setenv(config.PathVariable, path)
	t.Setenv("PQ_DISPATCH_DIRECT_URL", "postgres://u:canary@direct/d")
	t.Setenv("PQ_DISPATCH_GRCAE", "5s")
	r := cli("", "--database-url", "postgres://u:canary@h/d", "--table", "jobs", "config", "print", "--sources", "--log.level", "debug", "--set", "queues.a.timeout=5s")
	if r.code != exitOK {
		t.Fatalf("got exit code %d and %q", r.code, r.stderr)
	}
	for _, line := range []string{
		"  url: postgres://u:***@h/d # --database-url\n", "  direct_url: postgres://u:***@direct/d # $PQ_DISPATCH_DIRECT_URL\n",
		"  table: jobs # --table\n", "  schema: public # default\n", "grace: 1m # " + path + ":1:8\n", "  level: debug # --log.level\n",
		"    timeout: 5s # --set\n", "    max_attempts: 25 # queue.max_attempts, default\n",
	} {
		if line = strings.Replace(line, "postgres://u:***@", `"postgres://u:***@`, 1); strings.Contains(line, "postgres") {
			line = strings.Replace(line, "/d #", `/d" #`, 1)
		}
		contains(t, "standard output", r.stdout, line)
	}
	contains(t, "standard error", r.stderr, "warning: $PQ_DISPATCH_GRCAE: no such key, it is ignored; did you mean PQ_DISPATCH_GRACE?")
	if strings.Contains(r.stdout+r.stderr, "canary") {
		t.Errorf("got a secret in %q", r.stdout+r.stderr)
	}
}

func TestConfigPrintKeepsItsKeysInJSON(t *testing.T) {
	path := configFile(t, "queues: {a: {exec: {command: [/bin/sh]}}}\n")
	r := cli("", "config", "print", "--json", "--sources", "-c", path)
	var got struct {
		Config  map[string]any    `json:"config"`
		Sources map[string]string `json:"sources"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	wants(t, "source", got.Sources["queues.a.exec.command"], path+":1:30")
	r = cli("", "config", "print", "--json", "-c", path)
	const want = `{"database":{"url":"","direct_url":"","schema":"public","table":"queue"},"concurrency":100,"grace":"30s","sweep":"10s",` +
		`"log":{"level":"info","format":"auto"},"http":{"address":"","pprof":false,"api":{"enabled":false,"token":"","max_body":"1MiB","requests_per_second":100}},` +
		`"queue":{"concurrency":0,"timeout":"0s","max_attempts":25,"prefetch":0,"retry":{"policy":"exponential","delay":"1s","max":"1h","factor":2,"jitter":0.2}},` +
		`"queues":{"a":{"concurrency":0,"timeout":"0s","max_attempts":25,"prefetch":0,"retry":{"policy":"exponential","delay":"1s","max":"1h","factor":2,"jitter":0.2},` +
		`"exec":{"command":["/bin/sh"],"dir":"/","inherit":["PATH","HOME"],"kill_after":"10s","max_output":"64KiB"}}}}` + "\n"
	if diff := cmp.Diff(want, r.stdout); diff != "" {
		t.Errorf("standard output (-want +got):\n%s", diff)
	}
}

func TestConfigSchemaIsTheOneInTheExamples(t *testing.T) {
	stored, err := os.ReadFile(filepath.Join(filepath.Dir(exampleConfig), "pq-dispatch.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "standard output", cli("", "config", "schema").stdout, string(stored))
}

func TestTheExampleConfigurationIsRight(t *testing.T) {
	r := cli("", "config", "check", "--offline", "-c", exampleConfig)
	if r.code != exitOK || r.stderr != "" {
		t.Errorf("got exit code %d and %q, want neither", r.code, r.stderr)
	}
}

func TestWrongUseOfConfigExitsWith2(t *testing.T) {
	for args, want := range map[string]string{
		"config":                  "check, print or schema",
		"config nonsense":         "nonsense",
		"config check extra":      "extra",
		"config print --nonsense": "unknown flag",
		"config schema -c x":      "unknown shorthand flag",
	} {
		cli("", strings.Fields(args)...).failsWith(t, exitUsage, want)
	}
}
