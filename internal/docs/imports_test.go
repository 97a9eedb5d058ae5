package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pq-dispatch/pq-dispatch"

// siblings are the packages of this module that each package of the library may import: the arrows
// of CONTRIBUTING.md. Commands, benchmarks and the demo stand above and may import them all.
var siblings = map[string][]string{
	"":                   {},
	"sql":                {},
	"retry":              {},
	"notify":             {},
	"internal/telemetry": {},
	"store":              {"sql", "notify", "internal/telemetry"},
	"dispatcher":         {"store", "notify", "retry", "internal/telemetry"},
}

// foreign are the modules that the library may import from, beside the standard library: whoever
// imports it gets these, and no others.
var foreign = []string{
	"github.com/jackc/pgx/v5",
	"github.com/cenkalti/backoff/v4",
}

// telemetry is OpenTelemetry's API. The SDK is the program's choice.
var telemetry = []string{
	"go.opentelemetry.io/otel",
	"go.opentelemetry.io/otel/attribute",
	"go.opentelemetry.io/otel/codes",
	"go.opentelemetry.io/otel/metric",
	"go.opentelemetry.io/otel/propagation",
	"go.opentelemetry.io/otel/trace",
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// name is the package's path inside of this module.
func (p goPackage) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func list(t *testing.T, args ...string) (packages []goPackage) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Standard,Imports"}, args...)...)
	cmd.Dir = root
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(output)))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// forbidden lists the imports that a package of the library must not have.
func forbidden(p goPackage) (wrong []string) {
	name := p.name()
	allowed, isLibrary := siblings[name]
	if !isLibrary {
		return nil
	}
	for _, path := range p.Imports {
		switch sibling, ours := strings.CutPrefix(path, module+"/"); {
		case ours && slices.Contains(allowed, sibling):
		case ours:
			wrong = append(wrong, fmt.Sprintf("%s imports %s", name, sibling))
		case !strings.Contains(strings.SplitN(path, "/", 2)[0], "."): // the standard library
			if path == "testing" || strings.HasPrefix(path, "testing/") {
				wrong = append(wrong, fmt.Sprintf("%s imports %s", name, path))
			}
		case slices.Contains(telemetry, path):
		case slices.ContainsFunc(foreign, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") }):
		default:
			wrong = append(wrong, fmt.Sprintf("%s imports %s", name, path))
		}
	}
	return wrong
}

func TestPackagesImportOnlyWhatIsBelowThem(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		name := p.name()
		seen[name] = true
		for _, wrong := range forbidden(p) {
			t.Error(wrong)
		}
		top, _, _ := strings.Cut(name, "/")
		if _, known := siblings[name]; !known && !slices.Contains([]string{"cmd", "bench", "deploy", "internal"}, top) {
			t.Errorf("package %s is new: give it its place in siblings", name)
		}
	}
	for name := range siblings {
		if !seen[name] {
			t.Errorf("there is no package %q: take it out of siblings", name)
		}
	}
}

func TestAForbiddenImportIsFound(t *testing.T) {
	tests := map[string]struct {
		name   string
		imp    string
		wanted bool
	}{
		"store may import sql":                {"store", module + "/sql", true},
		"store may not import the dispatcher": {"store", module + "/dispatcher", false},
		"notify may not import retry":         {"notify", module + "/retry", false},
		"retry may import backoff":            {"retry", "github.com/cenkalti/backoff/v4", true},
		"nothing may import the SDK":          {"internal/telemetry", "go.opentelemetry.io/otel/sdk/trace", false},
		"nothing may import a test server":    {"dispatcher", module + "/internal/devpg", false},
		"nothing may import testing":          {"store", "testing", false},
		"the standard library is free":        {"store", "encoding/json", true},
		"a look-alike is not pgx":             {"store", "github.com/jackc/pgx/v5x", false},
		"the command is free":                 {"cmd/pq-dispatch", module + "/internal/devpg", true},
	}
	for name, test := range tests {
		got := forbidden(goPackage{ImportPath: module + "/" + test.name, Imports: []string{test.imp}})
		if (len(got) == 0) != test.wanted {
			t.Errorf("%s: got %v, want it allowed: %v", name, got, test.wanted)
		}
	}
}
