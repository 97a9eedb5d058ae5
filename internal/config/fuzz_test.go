package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzLoadNeverPanicsAndNamesAPlaceOrAKey(f *testing.F) {
	for _, s := range []string{
		"", "a", "- a", "queues: {a: {exec: {command: [/x]}}}", "queues:\n  a:\n    http: {url: 'https://u:p@h/?k=v', headers: {A: b}}\n",
		"grace: &g 5s\nsweep: *g\n", "a: *b", "<<: {}", "? [a]\n: b", "--- {}\n--- {}", "!!str a: 1", "grace: |\n  5s\n", "queues: {\"a.b\": {worker: {command: [/x], env: {A: 1}}}}",
		"database: {url: 'postgres://a:b@c/d', url_file: x}", "log: {level: 5}\nlog: {level: 6}", "grace: 1_000", "sweep: .inf", "queue: {retry: {factor: .nan}}", "\"\": 1", "a: [[[[",
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		// A text that names files would have the test read them, or wait for what is none.
		if strings.Contains(string(content), "file") || strings.Contains(string(content), "ssl") || strings.Contains(string(content), "service") {
			t.Skip()
		}
		path := filepath.Join(dir, "fuzz.yaml")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(path, nil, nil)
		if err == nil {
			if _, wrong := parseYAML("", c.YAML(true)); wrong != nil {
				t.Fatalf("got a printed form that is not YAML: %v\n%s", wrong, c.YAML(true))
			}
			if _, err := c.MarshalJSON(); err != nil {
				t.Fatalf("got a configuration that is not JSON: %v", err)
			}
			return
		}
		wrong, ok := errors.AsType[*Error](err)
		if !ok || len(wrong.Findings) == 0 {
			t.Fatalf("got the error %v, want findings", err)
		}
		for _, finding := range wrong.Findings {
			if finding.Where.Line == 0 && finding.Key == "" || finding.Text == "" {
				t.Errorf("got %+v, want a line or a key", finding)
			}
		}
	})
}
