package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spf13/pflag"
)

const (
	example       = "../../examples/pq-dispatch.yaml"
	exampleSchema = "../../examples/pq-dispatch.schema.json"
)

// minimal is a file with nothing but what must be there.
const minimal = "queues: {apples: {exec: {command: [/bin/true]}}}\n"

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parsed are flags as a command line gives them, the root command's among them.
func parsed(t *testing.T, args ...string) *Flags {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	set.String("database-url", "", "")
	set.String("direct-url", "", "")
	set.String("schema", "public", "")
	set.String("table", "queue", "")
	flags := &Flags{}
	flags.Register(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func load(t *testing.T, content string, args ...string) *Config {
	t.Helper()
	c, warnings, err := Load(write(t, "test.yaml", content), parsed(t, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Fatalf("got the warnings %v, want none", warnings)
	}
	return c
}

// findings are what Load finds wrong with a file, its name cut to "test.yaml".
func findings(t *testing.T, content string, args ...string) (found []string) {
	t.Helper()
	path := write(t, "test.yaml", content)
	_, _, err := Load(path, parsed(t, args...), nil)
	if err == nil {
		return nil
	}
	wrong, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want findings", err)
	}
	for _, f := range wrong.Findings {
		found = append(found, strings.ReplaceAll(f.String(), path, "test.yaml"))
	}
	return found
}

func TestAMinimalFileHasTheDefaults(t *testing.T) {
	c := load(t, minimal)
	want := &Config{
		Database:    Database{Schema: "public", Table: "queue"},
		Concurrency: 100,
		Grace:       30 * time.Second,
		Sweep:       10 * time.Second,
		Log:         Log{Level: "info", Format: "auto"},
		HTTP:        Listener{API: API{MaxBody: 1 << 20, RequestsPerSecond: 100}},
		Queue: Defaults{
			MaxAttempts: 25,
			Retry:       Retry{Kind: "exponential", Delay: time.Second, Max: time.Hour, Factor: 2, Jitter: 0.2},
		},
	}
	want.Queues = map[string]*Queue{"apples": {Defaults: want.Queue, Exec: &Exec{
		Command: []string{"/bin/true"}, Dir: "/", Inherit: []string{"PATH", "HOME"}, KillAfter: 10 * time.Second, MaxOutput: 64 << 10,
	}}}
	if live, restart := Diff(want, c); live != nil || restart != nil {
		t.Errorf("got other values than the defaults for %v %v:\n%v", live, restart, c)
	}
}

func TestTheExampleLoadsCleanAndShowsEveryKey(t *testing.T) {
	c, warnings, err := Load(example, nil, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got %v, %v, want neither", warnings, err)
	}
	if w := c.Inspect(); len(w) > 0 && w[0].Key != "queues.mails.worker.command" {
		t.Errorf("got %v, want no warning", w)
	}
	content, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var missing func(k *key)
	missing = func(k *key) {
		for _, c := range k.keys {
			if !regexp.MustCompile(`(?m)^\s*(# |retry: \{policy: \w+, )?` + c.name + `:`).Match(content) {
				t.Errorf("the example does not show %s", c.path)
			}
			missing(c)
		}
		if k.element != nil {
			missing(k.element)
		}
	}
	missing(root())

	// It says that its values are the defaults.
	live, restart := Diff(load(t, minimal), c)
	for _, path := range append(live, restart...) {
		if !strings.HasPrefix(path, "queues.") && path != "database.url" {
			t.Errorf("got %s in the example, which is not its default", path)
		}
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json") // it is checked against draft 2020-12 itself
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate checks a YAML text against the schema.
func validate(t *testing.T, s *jsonschema.Schema, content string) error {
	t.Helper()
	n, wrong := parseYAML("test.yaml", content)
	if wrong != nil {
		t.Fatal(wrong)
	}
	var b bytes.Buffer
	if err := n.json(&b); err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(instance)
}

func TestTheSchemaAcceptsTheExampleAndIsUpToDate(t *testing.T) {
	content, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(t, schema(t), string(content)); err != nil {
		t.Errorf("got %v, want the example to be valid", err)
	}
	stored, err := os.ReadFile(exampleSchema)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(stored), string(Schema())); diff != "" {
		t.Errorf("write it anew: pq-dispatch config schema > examples/pq-dispatch.schema.json (-stored +made):\n%s", diff)
	}
}

func TestWhatTheSchemaRefusesLoadRefusesToo(t *testing.T) {
	s := schema(t)
	for _, section := range []string{
		"databse: {}", "grace: 30", "grace: 5", "grace: 1x", "grace: true", "sweep: []", "log: {level: loud}", "log: {level: 5}",
		"http: {pprof: 1}", "http: {pprof: 'true'}", "http: {api: {max_body: 1MB}}", "http: {api: {max_body: -1}}", "http: []", "concurrency: 0",
		"concurrency: 1.5", "concurrency: '5'", "queue: {prefetch: -2}", "queue: {retry: {factor: 0.5}}", "queue: {retry: {policy: none}}",
		"queue: {codec: gob}", "database: {url: postgres://a@b/c, url_file: /d}", "database: {url: [a]}",
	} {
		content := minimal + section
		if validate(t, s, content) == nil {
			t.Errorf("%s: the schema accepts it", section)
		}
		if findings(t, content) == nil {
			t.Errorf("%s: Load accepts it", section)
		}
	}
	for _, queue := range []string{
		"{}", "{http: {}}", "{exec: {}}", "{exec: {command: []}}", "{exec: {command: /bin/true}}", "{worker: {command: [/a], processes: 0}}",
		"{exec: {command: [/a]}, worker: {command: [/a]}}", "{http: {url: http://a, allow_link_local: true}}", "{http: {url: http://a, headers: [a]}}",
		"{http: {url: http://a, secrets: [a], secrets_file: /b}}", "{codec: xml, exec: {command: [/a]}}", "{exec: {command: [/a], env: {A: [b]}}}",
	} {
		content := "queues: {apples: " + queue + "}"
		if validate(t, s, content) == nil {
			t.Errorf("%s: the schema accepts it", queue)
		}
		if findings(t, content) == nil {
			t.Errorf("%s: Load accepts it", queue)
		}
	}
}

func TestMistakesAreReportedWithTheirPlaceAndWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		name, content string
		want          []string // how each finding begins, and, after |, what else it contains
	}{
		{"unknown key", minimal + "grcae: 5s", []string{"test.yaml:2:1: grcae: unknown key; did you mean grace?"}},
		{"unknown key inside", minimal + "queue:\n  retry: {dealy: 5s}", []string{"test.yaml:3:11: queue.retry.dealy: unknown key; did you mean delay?"}},
		{"key of another section", minimal + "timeout: 5s", []string{"test.yaml:2:1: timeout: unknown key; did you mean queue.timeout?"}},
		{"key like no other", minimal + "log: {colours: 1}", []string{"test.yaml:2:7: log.colours: unknown key; known here are level, format"}},
		{"key of a queue with dots", `queues: {"a.b": {tiemout: 5s, exec: {command: [/a]}}}`, []string{`test.yaml:1:18: queues."a.b".tiemout: unknown key; did you mean timeout?`}},
		{"duplicate", minimal + "grace: 5s\nsweep: 5s\ngrace: 6s", []string{"test.yaml:4:1: grace: given twice, first in line 2"}},
		{"duplicate queue", "queues:\n  a: {exec: {command: [/a]}}\n  a: {exec: {command: [/a]}}", []string{"test.yaml:3:3: queues.a: given twice, first in line 2"}},
		{"duplicate variable", "queues:\n  a: {exec: {command: [/a], env: {A: 1, A: 2}}}", []string{"test.yaml:2:41: queues.a.exec.env.A: given twice"}},
		{"several at once", "concurrency: x\ngrace: 5\nlog: {level: 1, frmat: json}\n" + minimal, []string{
			`test.yaml:1:14: concurrency: got "x"; write a whole number from 1 to 100000`,
			`test.yaml:2:8: grace: got "5"; write a duration with its unit|30s`,
			`test.yaml:3:14: log.level: got "1"; use debug, info, warn or error`,
			`test.yaml:3:17: log.frmat: unknown key; did you mean format?`,
		}},
		{"number in quotes", minimal + `concurrency: "5"`, []string{`test.yaml:2:14: concurrency: got "5"; write a whole number`}},
		{"out of range", minimal + "concurrency: 0\nsweep: 1ms\ngrace: -1s", []string{
			`test.yaml:2:14: concurrency: got "0"; allowed is from 1 to 100000`,
			`test.yaml:3:8: sweep: got "1ms"; allowed is from 100ms to 1h`,
			`test.yaml:4:8: grace: got "-1s"; allowed is from 0s to 24h`,
		}},
		{"overflow", minimal + "concurrency: 99999999999999999999\nhttp: {api: {max_body: 9999999999GiB}}", []string{"test.yaml:2:14: concurrency", "test.yaml:3:24: http.api.max_body|64KiB"}},
		{"size with a decimal unit", minimal + "http: {api: {max_body: 1MB}}", []string{`test.yaml:2:24: http.api.max_body: got "1MB"; write a size such as 64KiB`}},
		{"no value", minimal + "grace:", []string{"test.yaml:2:1: grace: no value is given"}},
		{"empty section", minimal + "log:\nhttp:", nil},
		{"list for a value", minimal + "grace: [5s]", []string{"test.yaml:2:8: grace: got a list; write a duration"}},
		{"value for a section", minimal + "log: debug", []string{"test.yaml:2:6: log: got a text; write a mapping, its keys are level, format"}},
		{"value for a list", "queues: {a: {exec: {command: /a}}}", []string{"test.yaml:1:30: queues.a.exec.command: got a text; write a list"}},
		{"list in a list", "queues: {a: {exec: {command: [/a, [b]]}}}", []string{"test.yaml:1:35: queues.a.exec.command: item 2: got a list; write a text"}},
		{"not a mapping", "- a", []string{"test.yaml:1:1: got a list; write keys and values"}},
		{"not YAML", "grace: 5s\nlog: {level: info\n", []string{"test.yaml:2:|not YAML"}},
		{"tab", "log:\n\tlevel: info", []string{"test.yaml:2:1: not YAML"}},
		{"control character", "log:\n  level: \x01", []string{"test.yaml:2:10: a control character"}},
		{"not UTF-8", "log: \xff", []string{"test.yaml:1:6: a control character or invalid UTF-8"}},
		{"two documents", minimal + "---\ngrace: 5s\n", []string{"test.yaml:3:|a second document"}},
		{"merge", "x: &x {}\nlog:\n  <<: *x\n", []string{"test.yaml:3:3: << is not supported"}},
		{"tag", minimal + "grace: !!str 5s", []string{"test.yaml:2:8: tag is not used here"}},
		{"unknown anchor", minimal + "grace: *g", []string{"test.yaml:2:8: no anchor &g"}},
		{"too deep", minimal + "log: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), []string{"test.yaml:2:|nested more than 32 deep"}},
		{"far too deep", strings.Repeat("- ", 100_000), []string{"test.yaml:1:1: nested more than 32 deep"}},
		{"too long", strings.Repeat("# comment\n", 200_000), []string{"test.yaml:1:1: it has more than 1048576 bytes"}},
		{"nothing", "", []string{"test.yaml: queues: no queue is given"}},
		{"no queue", "queues:\n", []string{"test.yaml:1:1: queues: no queue is given"}},
		{"no handler", "queues:\n  a: {timeout: 5s}", []string{"test.yaml:2:7: queues.a: it has 0 handlers; give it one of http, exec and worker"}},
		{"empty queue", "queues:\n  a:", []string{"test.yaml:2:3: queues.a: it has 0 handlers"}},
		{"two handlers", "queues:\n  a: {exec: {command: [/a]}, http: {url: http://a}}", []string{"test.yaml:2:7: queues.a: it has 2 handlers"}},
		{"required", "queues: {a: {http: {}}, b: {exec: {dir: /}}, c: {worker: }}", []string{
			"test.yaml:1:20: queues.a.http: url is missing", "test.yaml:1:36: queues.b.exec: command is missing", "test.yaml:1:50: queues.c.worker: command is missing",
		}},
		{"queue names", `queues: {"": {exec: {command: [/a]}}, a/xml: {exec: {command: [/a]}}}`, []string{"test.yaml:1:|it is empty", "test.yaml:1:|known are gob, json"}},
		{"same queue", "queues:\n  a: {exec: {command: [/a]}}\n  a/gob: {exec: {command: [/a]}}", []string{`test.yaml:3:11: queues.a/gob: this is the queue "a" again`}},
		{"two codecs", "queues: {a/gob: {codec: json, exec: {command: [/a]}}}", []string{`test.yaml:1:25: queues.a/gob.codec: the name of the queue says "gob"|`}},
		{"relative paths", "queues: {a: {exec: {command: [a, /b], dir: tmp}}}", []string{
			`test.yaml:1:30: queues.a.exec.command: got "a"; write the absolute path`, `test.yaml:1:44: queues.a.exec.dir: got "tmp"`,
		}},
		{"variables", "queues: {a: {worker: {command: [/a], env: {A=B: c, PQ_DISPATCH_QUEUE: d}, inherit: ['']}}}", []string{
			`test.yaml:1:49: queues.a.worker.env."A=B"|no name of a variable`, "test.yaml:1:71: queues.a.worker.env.PQ_DISPATCH_QUEUE: the names PQ_DISPATCH_", `test.yaml:1:84: queues.a.worker.inherit: "": this is no name`,
		}},
		{"URLs", "queues: {a: {http: {url: ftp://a}}, b: {http: {url: /a}}, c: {http: {url: 'http://u:p#q@a/'}}}", []string{
			"test.yaml:1:26: queues.a.http.url: it is not a URL", "test.yaml:1:53: queues.b.http.url", "test.yaml:1:75: queues.c.http.url",
		}},
		{"headers", `queues: {a: {http: {url: http://a, headers: {"a b": c, d: "e\nf"}}}}`, []string{"test.yaml:1:|no name of a header", "test.yaml:1:|control characters"}},
		{"what the handler refuses", `queues: {a: {http: {url: "http://u:p@169.254.169.254"}}, b: {http: {url: http://b, headers: {Host: c}}}, c: {http: {url: http://c, headers: {X-y: d, x-Y: e}}}}`,
			[]string{"test.yaml:1:21: queues.a.http: address refused: 169.254.169.254 is link-local", "test.yaml:1:|queues.b.http: the header Host is set for each job", "test.yaml:1:|queues.c.http: the header X-Y is given twice"}},
		{"secrets of another length", "queues: {a: {http: {url: http://a, secrets: [whsec_AAAA]}}}", []string{"test.yaml:1:|queues.a.http: secret 1 is not 24 to 64 bytes"}},
		{"variables of each job", "queues: {a: {exec: {command: [/a], env: {TRACEPARENT: b}}}}", []string{"test.yaml:1:|queues.a.exec.env.TRACEPARENT: it is set for each job"}},
		{"secrets", "queues: {a: {http: {url: http://a, secrets: [whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, canary!]}}}", []string{"test.yaml:1:45: queues.a.http.secrets: secret 2 is not whsec_ and base64"}},
		{"retry", minimal + "queue: {retry: {delay: 2h}}", []string{"test.yaml:2:17: queue.retry.max: 1h is less than delay, which is 2h"}},
		{"retry of a queue", "queues:\n  a: {retry: {max: 10ms}, exec: {command: [/a]}}", []string{"test.yaml:2:20: queues.a.retry.max: 10ms is less than delay, which is 1s"}},
		{"database", minimal + "database: {url: 'postgres://u:canary%zz@h/d', direct_url: 'port=canary', schema: 'a b', table: 'c;d'}", []string{
			"test.yaml:2:17: database.url: it cannot be read", "test.yaml:2:59: database.direct_url: it cannot be read", "test.yaml:2:82: database.schema|letters, digits", "test.yaml:2:96: database.table|letters, digits",
		}},
		{"simple protocol", minimal + "database: {url: 'postgres://h/d?default_query_exec_mode=simple_protocol'}", []string{"test.yaml:2:17: database.url: the simple protocol"}},
		{"listener", minimal + "http: {address: '9464'}", []string{`test.yaml:2:17: http.address: got "9464"; write HOST:PORT`}},
		{"port", minimal + "http: {address: 'a:99999'}", []string{"test.yaml:2:17: http.address"}},
		{"API without a listener", minimal + "http: {api: {enabled: true, token: 0123456789abcdef}}", []string{"test.yaml:2:23: http.api.enabled: there is no listener"}},
		{"API without a token", minimal + "http: {address: ':0', api: {enabled: true}}", []string{"test.yaml:2:38: http.api.enabled: the API needs a token"}},
		{"token", minimal + "http: {address: ':0', api: {enabled: true, token: 'canary of a token'}}", []string{"test.yaml:2:51: http.api.token: it has spaces"}},
		{"NUL", minimal + `database: {url: "a\0b"}`, []string{"test.yaml:2:17: database.url: it contains NUL"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := findings(t, tt.content)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				start, part, _ := strings.Cut(tt.want[i], "|")
				ok = ok && strings.HasPrefix(got[i], start) && strings.Contains(got[i], part)
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if strings.Contains(strings.Join(got, "\n"), "canary") {
				t.Errorf("got a secret in %q", got)
			}
		})
	}
}

func TestTheErrorListsAllFindings(t *testing.T) {
	_, _, err := Load("", parsed(t, "--grace", "x", "--sweep", "y"), nil)
	const want = `config: --grace: grace: got "x"; ` + "write a duration with its unit, such as 250ms, 30s, 5m, 1h30m or 2d\n" +
		`--sweep: sweep: got "y"; write a duration with its unit, such as 250ms, 30s, 5m, 1h30m or 2d`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAMissingFileIsAFinding(t *testing.T) {
	_, _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil, nil)
	if _, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v, want a finding that names the file", err)
	}
}

func TestAnchorsAreReadAndCopied(t *testing.T) {
	c := load(t, `queues:
  a: {exec: {command: [/a], env: &env {A: b}}}
  b: {exec: {command: [/b], env: *env}}`)
	c.Queues["a"].Exec.Env["A"] = "changed"
	if got := c.Queues["b"].Exec.Env["A"].Reveal(); got != "b" {
		t.Errorf("got %q, want b", got)
	}
}

func TestAQueueTakesWhatItDoesNotSayFromTheSectionQueue(t *testing.T) {
	c := load(t, `
queues:
  own: {timeout: 0s, concurrency: 2, retry: {delay: 5s}, exec: {command: [/a]}}
  none: {exec: {command: [/a]}}
queue: {timeout: 2d, concurrency: 9, retry: {policy: fixed}}`, "--queue.max_attempts=3", "--set", "queue.prefetch=7")
	shared := Defaults{Concurrency: 9, Timeout: 48 * time.Hour, MaxAttempts: 3, Prefetch: 7, Retry: Retry{Kind: "fixed", Delay: time.Second, Max: time.Hour, Factor: 2, Jitter: 0.2}}
	if diff := cmp.Diff(shared, c.Queues["none"].Defaults); diff != "" {
		t.Errorf("none (-want +got):\n%s", diff)
	}
	own := shared
	own.Timeout, own.Concurrency, own.Retry.Delay = 0, 2, 5*time.Second
	if diff := cmp.Diff(own, c.Queues["own"].Defaults); diff != "" {
		t.Errorf("own (-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{
		"queues.own.timeout":          "test.yaml:3:18",
		"queues.own.retry.delay":      "test.yaml:3:53",
		"queues.own.retry.policy":     "queue.retry.policy, test.yaml:5:54",
		"queues.none.max_attempts":    "queue.max_attempts, --queue.max_attempts",
		"queues.none.prefetch":        "queue.prefetch, --set",
		"queues.none.retry.jitter":    "queue.retry.jitter, default",
		"queues.none.exec.command":    "test.yaml:4:26",
		"queues.none.exec.kill_after": "default",
		"sweep":                       "default",
	} {
		if got := strings.ReplaceAll(c.Source(path), c.origins.file, "test.yaml"); got != want {
			t.Errorf("source of %s: got %q, want %q", path, got, want)
		}
	}
}

// sample is a value for a key that is not its default, and fits the rest.
func sample(k *key, n int) string {
	switch {
	case len(k.words) > 0:
		return k.words[n%len(k.words)]
	case k.path == "queues":
		return fmt.Sprintf("{q%d: {exec: {command: [/bin/true]}}}", n)
	case k.typ == typeAddress:
		return fmt.Sprintf("postgres://h%d/d", n)
	case k.path == "http.address":
		return fmt.Sprintf("127.0.0.1:%d", 2000+n)
	case k.typ == typeSecret:
		return fmt.Sprintf("0123456789abcdef%d", n)
	}
	return map[string]string{
		"duration": fmt.Sprintf("%ds", 40+n), "size": fmt.Sprintf("%dKiB", 2+n), "bool": []string{"true", "false"}[n%2], "number": fmt.Sprint([]string{"0.5", "0.6", "0.7"}[n%3]),
		"string": fmt.Sprintf("name%d", n),
	}[k.word()]
}

func TestEveryKeyIsAFlagAndAVariableAndTheUpperOneCounts(t *testing.T) {
	for k := range root().leaves() {
		if strings.HasSuffix(k.name, "_file") {
			continue // what it does is in another test
		}
		t.Run(k.path, func(t *testing.T) {
			values := []string{sample(k, 0), sample(k, 1), sample(k, 2)}
			if k.word() == "number" && k.typ.Kind().String() == "int" {
				values = []string{"31", "32", "33"}
			}
			if k.path == "queue.retry.factor" {
				values = []string{"3", "4", "5"}
			}
			path := strings.Split(k.path, ".")
			content := values[0]
			if k.scalar() && k.word() == "string" {
				content = quoted(content)
			}
			for _, name := range slices.Backward(path) {
				content = "{" + name + ": " + content + "}"
			}
			if k.path != "queues" {
				content = strings.TrimSuffix(content, "}") + ", " + strings.TrimSpace(minimal) + "}"
			}
			if k.path == "http.pprof" || k.path == "http.api.enabled" { // they need other keys
				content = strings.Replace(content, "{http: {", "{http: {address: '127.0.0.1:0', ", 1)
				content = strings.Replace(content, "api: {", "api: {token: 0123456789abcdef, ", 1)
			}
			file := write(t, "test.yaml", content)
			variable := k.variables[len(k.variables)-1]
			environ := []string{variable + "=" + values[1]}
			for _, older := range k.variables[:len(k.variables)-1] {
				environ = append(environ, older+"="+values[2]) // goes behind the newer name
			}
			flag := "--" + k.flag + "=" + values[2]
			for _, tt := range []struct {
				args, environ []string
				value, source string
			}{
				{nil, nil, values[0], file + ":"},
				{nil, []string{variable + "="}, values[0], file + ":"},
				{nil, environ, values[1], "$" + variable},
				{[]string{flag}, environ, values[2], "--" + k.flag},
				{[]string{flag, "--set", k.path + "=" + values[1]}, environ, values[1], "--set"},
			} {
				c, warnings, err := Load(file, parsed(t, tt.args...), tt.environ)
				if err != nil || len(warnings) > 0 {
					t.Fatalf("%v %v: got %v, %v", tt.args, tt.environ, warnings, err)
				}
				if k.path == "queues" {
					name, _, _ := strings.Cut(strings.Trim(tt.value, "{"), ":")
					if c.Queues[name] == nil || len(c.Queues) != 1 {
						t.Errorf("got %v, want the queue %s alone", c, name)
					}
				} else if got := c.valueOf(t, k); got != tt.value {
					t.Errorf("%v %v: got %q, want %q", tt.args, tt.environ, got, tt.value)
				}
				if got := c.Source(k.path); !strings.HasPrefix(got, tt.source) {
					t.Errorf("%v %v: got the source %q, want %q", tt.args, tt.environ, got, tt.source)
				}
			}
		})
	}
}

func TestVariablesAndFlagsHaveDistinctNames(t *testing.T) {
	seen := map[string]string{}
	for k := range root().leaves() {
		for _, name := range append(slices.Clone(k.variables), "--"+k.flag) {
			if other, taken := seen[name]; taken {
				t.Errorf("%s is %s and %s", name, other, k.path)
			}
			seen[name] = k.path
			if slices.Contains(foreign, name) {
				t.Errorf("%s is a variable of jobs or tests as well", name)
			}
		}
	}
}

func TestSetReachesEveryKeyOfAQueue(t *testing.T) {
	c := load(t, minimal, "--set", "queues.apples.timeout=5s", "--set", `queues."a.b=c".exec={command: [/b]}`,
		"--set", `queues."a.b=c".exec.env.KEY=x=y`, "--set", "queues.apples.exec.inherit=[]", "--set", "queues.apples.timeout=6s")
	if got := c.Queues["apples"]; got.Timeout != 6*time.Second || len(got.Exec.Inherit) != 0 || got.Exec.Command[0] != "/bin/true" {
		t.Errorf("got %+v, want the timeout 6s, no variables, and the command of the file", got)
	}
	if got := c.Queues["a.b=c"]; got == nil || got.Exec.Env["KEY"].Reveal() != "x=y" {
		t.Errorf("got %+v, want the queue with its variable", got)
	}
	for arg, want := range map[string]string{
		"queues.apples.timout=5s":  "--set: queues.apples.timout: unknown key; did you mean timeout?",
		"queues.apples.timeout":    "--set: write it as KEY=VALUE",
		"=5":                       "--set: write it as KEY=VALUE",
		`queues."a=5`:              "--set: write it as KEY=VALUE",
		"a..b=5":                   "--set: write it as KEY=VALUE",
		"grace.x=5":                "--set: grace: got a mapping; write a duration",
		"queues.apples.exec=[":     "--set:1:",
		"queues.apples.http.url=a": "--set: queues.apples: it has 2 handlers",
	} {
		got := findings(t, minimal, "--set", arg)
		if len(got) == 0 || !strings.HasPrefix(got[0], want) && !strings.HasPrefix(got[len(got)-1], want) {
			t.Errorf("%s: got %q, want %q", arg, got, want)
		}
	}
}

func TestUnknownVariablesAreWarnings(t *testing.T) {
	_, warnings, err := Load(write(t, "test.yaml", minimal), nil, []string{
		"PQ_DISPATCH_GRCAE=5s", "PQ_DISPATCH_NONSENSE_AND_MORE=1", "PQ_DISPATCH_EMPTY=", "OTHER=1", "PQ_DISPATCH_CONFIG=x", "PQ_DISPATCH_JOB_ID=1",
		"PQ_DISPATCH_SCHEDULE_AT=x", "PQ_DISPATCH_EXPECTED_AT=x", "PQ_DISPATCH_PROTOCOL=1",
		"PQ_DISPATCH_SERVICE_HOST=10.0.0.1", "PQ_DISPATCH_PORT=tcp://10.0.0.1:80", "PQ_DISPATCH_PORT_80_TCP_ADDR=10.0.0.1", "PQ_DISPATCH_SERVICE_PORT_HTTP=80",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"$PQ_DISPATCH_GRCAE: no such key, it is ignored; did you mean PQ_DISPATCH_GRACE?",
		"$PQ_DISPATCH_NONSENSE_AND_MORE: no such key, it is ignored",
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestTheAddressOfTheLastResortIsDatabaseURL(t *testing.T) {
	environ := []string{"DATABASE_URL=postgres://last/d"}
	for _, tt := range []struct{ content, want string }{
		{minimal, "postgres://last/d"},
		{minimal + "database: {url: 'postgres://file/d'}", "postgres://file/d"},
	} {
		c, _, err := Load(write(t, "test.yaml", tt.content), nil, environ)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Database.URL.Reveal(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestSecretsAreReadFromFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"url": "postgres://u:p@h/d\n", "token": "0123456789abcdef", "two": "a\nb\n", "empty": "\n", "nul": "a\x00b",
		"secrets": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\nwhsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB\r\n", "gap": "a\n\nb\n",
		"large": strings.Repeat("x", maxSecret+1), "http": "queues: {a: {http: {url: http://a, secrets_file: secrets}}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }

	t.Run("with paths from the directory of the configuration", func(t *testing.T) {
		content, _ := os.ReadFile(in("http"))
		if err := os.WriteFile(in("test.yaml"), append(content, "database: {url_file: url}\nhttp: {api: {token_file: token}}\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(in("test.yaml"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Database.URL.Reveal(); got != "postgres://u:p@h/d" {
			t.Errorf("address: got %q, want it without its line's end", got)
		}
		if got := c.HTTP.API.Token.Reveal(); got != "0123456789abcdef" {
			t.Errorf("token: got %q", got)
		}
		if got := c.Queues["a"].HTTP.Secrets; len(got) != 2 || got[1].Reveal() != "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB" {
			t.Errorf("secrets: got %d, want two", len(got))
		}
		if !strings.Contains(c.String(), "url_file: "+in("url")) || strings.Contains(c.String(), "url: postgres") {
			t.Errorf("got %s, want the file's name alone", c)
		}
	})
	for _, tt := range []struct{ name, section, want string }{
		{"two lines", "database: {url_file: " + in("two") + "}", "test.yaml:2:22: database.url_file: " + in("two") + " has 2 lines"},
		{"empty", "database: {url_file: " + in("empty") + "}", "is empty"},
		{"NUL", "database: {url_file: " + in("nul") + "}", "not plain UTF-8"},
		{"large", "database: {url_file: " + in("large") + "}", "more than 65536 bytes"},
		{"missing", "database: {url_file: " + in("missing") + "}", "no such file"},
		{"directory", "database: {url_file: " + dir + "}", "directory"},
		{"both", "database: {url: x, url_file: " + in("url") + "}", "database.url_file: url is given as well"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := findings(t, minimal+tt.section); len(got) != 1 || !strings.Contains(got[0], tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("the upper layer counts", func(t *testing.T) {
		c := load(t, minimal+"database: {url_file: /does/not/exist}", "--database-url=postgres://flag/d")
		if c.Database.URL != "postgres://flag/d" || c.Database.URLFile != "" {
			t.Errorf("got %v, want the flag's alone", c.Database)
		}
		c = load(t, minimal+"database: {url: 'postgres://file/d'}", "--database.url_file="+in("url"))
		if got := c.Database.URL.Reveal(); got != "postgres://u:p@h/d" {
			t.Errorf("got %v, want that of the flag's file", got)
		}
	})
	t.Run("not offline", func(t *testing.T) {
		flags := parsed(t)
		flags.Offline = true
		c, _, err := Load(write(t, "test.yaml", minimal+"database: {url_file: /does/not/exist}"), flags, []string{"DATABASE_URL=postgres://other/d"})
		if err != nil || c.Database.URL != "" {
			t.Errorf("got %v, %v, want no address and no error", c, err)
		}
	})
}

// full has every kind of secret; the word canary is in each, and nowhere else.
const full = `
database: {url: "postgres://user:canary@h/d?sslmode=disable&password=canary", direct_url: "host=h user=u password=canary dbname=d"}
http: {address: "127.0.0.1:0", api: {enabled: true, token: canary-canary-canary}}
queues:
  web: {http: {url: "https://user:canary@h/p?token=canary", headers: {X-Authorization: Bearer canary, X-Own: canary, Accept: text/plain}, secrets: [whsec_canarycanarycanarycanarycanarycanary]}}
  run: {exec: {command: [/bin/true], env: {A: canary}}}
  stay: {worker: {command: [/bin/true], env: {A: canary}}}
`

func TestNoFormShowsASecret(t *testing.T) {
	c := load(t, full)
	var out bytes.Buffer
	for _, v := range []any{
		c, *c, c.Database, c.Database.URL, c.Database.DirectURL, c.HTTP, c.HTTP.API, c.HTTP.API.Token, *c.Queues["web"].HTTP, c.Queues["web"].HTTP.Headers,
		c.Queues["web"].HTTP.Secrets, c.Queues["web"].HTTP.URL, *c.Queues["run"].Exec, *c.Queues["stay"].Worker, c.Queues["run"].Exec.Env,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "value", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "value", v)
	}
	out.WriteString(c.YAML(true))
	for _, canary := range []string{"canary", "63616e617279", "63616E617279", "99 97 110 97 114 121"} { // in all verbs
		if i := strings.Index(out.String(), canary); i >= 0 {
			t.Errorf("got a secret: %s", out.String()[max(0, i-100):i+20])
		}
	}
	for _, shown := range []string{"postgres://user:***@h/d?sslmode=disable&password=***", "host=h port=5432 dbname=d user=u", "https://user:***@h/p?token=***", "text/plain"} {
		if !strings.Contains(c.String(), shown) {
			t.Errorf("got %s\nwant it to show %s", c, shown)
		}
	}
	if got := c.Queues["web"].HTTP.Headers["X-Authorization"].Reveal(); got != "Bearer canary" {
		t.Errorf("Reveal: got %q, want the secret itself", got)
	}
}

func TestAnAddressThatMayBeCutInTheWrongPlacesIsNotShown(t *testing.T) {
	for _, s := range []string{
		"postgres://u:canary#x@h/d", "postgres://u:1/canary@h/d", "postgres://u:1?canary@h/d", "postgres://u:can@ary@h/d", "postgres://u:%zzcanary@h/d", "canary", "postgres:canary",
	} {
		if got := Address(s).String(); strings.Contains(got, "canary") || strings.Contains(got, "ary") {
			t.Errorf("%s: got %s", s, got)
		}
	}
}

func TestWhatIsPrintedLoadsAgain(t *testing.T) {
	c, _, err := Load(example, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Queues["mails"].Worker.Env, c.Queues["thumbnails"].Exec.Env = nil, nil // they are masked
	for _, sources := range []bool{false, true} {
		again := load(t, c.YAML(sources))
		if live, restart := Diff(c, again); live != nil || restart != nil {
			t.Errorf("got a difference in %v %v of\n%s", live, restart, c.YAML(sources))
		}
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again := load(t, string(encoded)) // JSON is YAML
	if live, restart := Diff(c, again); live != nil || restart != nil {
		t.Errorf("got a difference in %v %v of\n%s", live, restart, encoded)
	}
}

func TestDiffTellsWhatAReloadCanDo(t *testing.T) {
	base := minimal + "database: {url: 'postgres://a/b'}\nhttp: {address: ':0', api: {enabled: true, token: 0123456789abcdef}}\n"
	for _, tt := range []struct {
		name          string
		args          []string
		live, restart []string
	}{
		{"nothing", nil, nil, nil},
		{"the same again", []string{"--grace=30s", "--set", "queues.apples.exec.env={}"}, nil, nil},
		{"live", []string{"--grace=5s", "--sweep=5s", "--concurrency=5", "--log.level=debug", "--http.api.token=fedcba9876543210", "--http.api.max_body=2MiB", "--http.api.requests_per_second=1"},
			[]string{"concurrency", "grace", "sweep", "log.level", "http.api.token", "http.api.max_body", "http.api.requests_per_second"}, nil},
		{"restart", []string{"--database-url=postgres://a/c", "--direct-url=postgres://a/c", "--schema=s", "--table=t", "--log.format=json", "--http.address=:1", "--http.pprof", "--http.api.enabled=false"},
			nil, []string{"database.url", "database.direct_url", "database.schema", "database.table", "log.format", "http.address", "http.pprof", "http.api.enabled"}},
		{"queue", []string{"--queue.timeout=5s"}, []string{"queue.timeout", "queues.apples.timeout"}, nil},
		{"a new queue", []string{"--set", "queues.pears.exec.command=[/a]"}, []string{"queues.pears"}, nil},
		{"no queue of before", []string{"--queues={pears: {exec: {command: [/a]}}}"}, []string{"queues.apples", "queues.pears"}, nil},
		{"another handler", []string{"--queues={apples: {http: {url: http://a}}}"}, []string{"queues.apples.http", "queues.apples.exec"}, nil},
		{"a handler's key", []string{"--set", "queues.apples.exec.env={A: b}", "--set", "queues.apples.exec.command=[/b]"}, []string{"queues.apples.exec.command", "queues.apples.exec.env"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, "test.yaml", base)
			before, _, err := Load(file, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			after, _, err := Load(file, parsed(t, tt.args...), nil)
			if err != nil {
				t.Fatal(err)
			}
			live, restart := Diff(before, after)
			// env is a mapping: a variable that came is a path of its own.
			for i, path := range live {
				live[i] = strings.TrimSuffix(path, ".A")
			}
			if diff := cmp.Diff([][]string{tt.live, tt.restart}, [][]string{live, restart}); diff != "" {
				t.Errorf("live, restart (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWarningsAreNoMistakes(t *testing.T) {
	for section, want := range map[string]string{
		"http: {address: '0.0.0.0:9464', pprof: true}":   "http.pprof: whoever reaches",
		"http: {address: ':9464', pprof: true}":          "http.pprof: whoever reaches",
		"http: {address: 'localhost:9464', pprof: true}": "",
		"http: {address: '[::1]:9464', pprof: true}":     "",
		"http: {api: {token: short}}":                    "http.api.token: it is short",
		"concurrency: 5\nqueue: {concurrency: 6}":        "queues.apples.concurrency: 6 is more",
		"": "",
	} {
		_, warnings, err := Load(write(t, "test.yaml", minimal+section), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(warnings); !strings.Contains(got, want) || (want == "") != (len(warnings) == 0) {
			t.Errorf("%s: got %v, want %q", section, got, want)
		}
	}
}

func TestInspectLooksForProgramsAndOpenSecrets(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("0123456789abcdef"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil { // whatever the umask
		t.Fatal(err)
	}
	file := filepath.Join(dir, "test.yaml")
	content := `
database: {url: "postgres://u:p@h/d"}
http: {api: {token_file: open}}
queues:
  a: {exec: {command: [/does/not/exist], dir: /does/not/exist}}
  b: {worker: {command: [` + open + `]}}
  c: {worker: {command: [/bin/sh]}}
`
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Inspect() {
		got = append(got, w.Key)
	}
	want := []string{"queues.a.exec.command", "queues.a.exec.dir", "queues.b.worker.command", "http.api.token_file", "database.url"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings about (-want +got):\n%s", diff)
	}
}

func TestRetryMakesThePolicyItDescribes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		retry Retry
		want  []time.Duration // after attempts 1, 2, 3, 100
	}{
		{"fixed", Retry{Kind: "fixed", Delay: 5 * time.Second, Max: time.Second, Factor: 2}, []time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"exponential", Retry{Kind: "exponential", Delay: time.Second, Max: time.Minute, Factor: 3}, []time.Duration{time.Second, 3 * time.Second, 9 * time.Second, time.Minute}},
	} {
		for i, attempt := range []int{1, 2, 3, 100} {
			if got, ok := tt.retry.Policy().Next(attempt, nil); got != tt.want[i] || !ok {
				t.Errorf("%s, attempt %d: got %v, %v, want %v", tt.name, attempt, got, ok, tt.want[i])
			}
		}
	}
}

func TestSlotsOfAWorkerAreItsProcesses(t *testing.T) {
	for _, tt := range []struct{ concurrency, processes, want int }{{0, 4, 4}, {2, 4, 2}, {9, 4, 4}} {
		q := Queue{Defaults: Defaults{Concurrency: tt.concurrency}, Worker: &Worker{Processes: tt.processes}}
		if got := q.Slots(); got != tt.want {
			t.Errorf("%+v: got %d, want %d", tt, got, tt.want)
		}
	}
}

func TestProcessesThatNeverHaveAJobAreWarnedOf(t *testing.T) {
	for _, tt := range []struct {
		keys, queue string
		want        string // what is said; empty: nothing
	}{
		{"", "{worker: {command: [/a], processes: 4}}", ""},
		{"", "{concurrency: 4, worker: {command: [/a], processes: 4}}", ""},
		{"concurrency: 3\n", "{worker: {command: [/a], processes: 4}}", "4 are more than the jobs that run at once, which are 3"},
		{"", "{concurrency: 2, worker: {command: [/a], processes: 4}}", "4 are more than the jobs that run at once, which are 2"},
	} {
		_, warnings, err := Load(write(t, "test.yaml", tt.keys+"queues: {apples: "+tt.queue+"}"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var said string
		for _, w := range warnings {
			said += w.String()
		}
		if tt.want == "" && said != "" || !strings.Contains(said, tt.want) || tt.want != "" && !strings.Contains(said, "queues.apples.worker.processes") {
			t.Errorf("%s%s: got %q, want %q", tt.keys, tt.queue, said, tt.want)
		}
	}
}
