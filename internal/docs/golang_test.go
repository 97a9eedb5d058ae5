package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// packages are what an example may use without importing it: the project's, and common ones.
var packages = map[string]string{
	"dispatcher": "github.com/pq-dispatch/pq-dispatch/dispatcher",
	"notify":     "github.com/pq-dispatch/pq-dispatch/notify",
	"retry":      "github.com/pq-dispatch/pq-dispatch/retry",
	"sql":        "github.com/pq-dispatch/pq-dispatch/sql",
	"store":      "github.com/pq-dispatch/pq-dispatch/store",

	"pgconn":  "github.com/jackc/pgx/v5/pgconn",
	"pgx":     "github.com/jackc/pgx/v5",
	"pgxpool": "github.com/jackc/pgx/v5/pgxpool",

	"bytes":   "bytes",
	"context": "context",
	"errors":  "errors",
	"exec":    "os/exec",
	"fmt":     "fmt",
	"http":    "net/http",
	"io":      "io",
	"iter":    "iter",
	"json":    "encoding/json",
	"log":     "log",
	"maps":    "maps",
	"os":      "os",
	"signal":  "os/signal",
	"slices":  "slices",
	"slog":    "log/slog",
	"strings": "strings",
	"syscall": "syscall",
	"testing": "testing",
	"time":    "time",
}

// header opens the function around an example of statements: what it may take as given.
const header = `func _(ctx context.Context, pool *pgxpool.Pool, tx pgx.Tx, jobs *store.Store, d *dispatcher.Dispatcher) error {
{`

// source makes a block a Go file. A block may be a whole file, declarations, or statements.
func source(b block) (string, error) {
	line := fmt.Sprintf("//line %s:%d\n", b.file, b.line)
	if strings.HasPrefix(strings.TrimSpace(b.text), "package ") {
		return line + b.text, nil
	}
	body := b.setup + "\n" + line + b.text
	file, err := parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+body, parser.SkipObjectResolution)
	if err != nil {
		open, end := b.setup+"\n"+header+"\n"+line+b.text+"//line end of example:1\n", "}\nreturn nil\n}\n"
		if file, err = parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+open+end, parser.SkipObjectResolution); err != nil {
			return "", err
		}
		body = open + used(file) + end
	}
	var imports strings.Builder
	for _, name := range missing(file) {
		fmt.Fprintf(&imports, "import %s %q\n", name, packages[name])
	}
	return "package snippet\n" + imports.String() + body, nil
}

// missing are the packages that a file uses and does not import.
func missing(file *ast.File) (names []string) {
	imported := map[string]bool{}
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		for name, known := range packages {
			if known == path {
				imported[name] = true
			}
		}
	}
	for node := range ast.Preorder(file) {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && packages[x.Name] != "" && !imported[x.Name] {
				imported[x.Name] = true
				names = append(names, x.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// used is a statement that uses all variables of an example: a reader does not mind that it ends
// before they are.
func used(file *ast.File) string {
	var names []string
	for _, statement := range file.Decls[len(file.Decls)-1].(*ast.FuncDecl).Body.List[0].(*ast.BlockStmt).List {
		switch s := statement.(type) {
		case *ast.AssignStmt:
			for _, left := range s.Lhs {
				if name, ok := left.(*ast.Ident); ok && s.Tok == token.DEFINE {
					names = append(names, name.Name)
				}
			}
		case *ast.DeclStmt:
			for _, spec := range s.Decl.(*ast.GenDecl).Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range values.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	var statement strings.Builder
	for _, name := range names {
		if name != "_" {
			fmt.Fprintf(&statement, "_ = %s\n", name)
		}
	}
	return statement.String()
}

var goLine = regexp.MustCompile(`(?m)^go .*$`)

// compile type-checks and vets blocks, each as a package of a module in a temporary directory, which a
// workspace joins with this one. The error names the documents' lines.
func compile(t *testing.T, all []block) error {
	t.Helper()
	if len(all) == 0 {
		return nil
	}
	module, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	dir, version := t.TempDir(), goLine.Find(mod)
	write(t, filepath.Join(dir, "go.mod"), fmt.Sprintf("module snippets\n\n%s\n", version))
	write(t, filepath.Join(dir, "go.work"), fmt.Sprintf("%s\n\nuse (\n\t.\n\t%q\n)\n", version, module))
	for i, b := range all {
		b.file = filepath.Join(module, b.file)
		text, err := source(b)
		if err != nil {
			return err
		}
		write(t, filepath.Join(dir, fmt.Sprintf("snippet%d", i), "snippet.go"), text)
	}
	// What an example leaves out makes what follows it unreachable.
	cmd := exec.CommandContext(t.Context(), "go", "vet", "-unreachable=false", "./...")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK="+filepath.Join(dir, "go.work"), "PWD="+dir)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go vet: %w\n%s", err, output)
	}
	return nil
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGoExamplesCompile(t *testing.T) {
	if err := compile(t, blocksOf(t, "go")); err != nil {
		t.Error(err)
	}
}

func TestWholeFilesDeclarationsAndStatementsCompile(t *testing.T) {
	err := compile(t, []block{
		{file: "x.md", line: 1, text: "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println() }\n"},
		{file: "x.md", line: 2, text: "type Apple struct{ Kind string }\n\nvar Eat = store.Task[Apple]{Queue: \"apples\"}\n"},
		{file: "x.md", line: 3, text: "import \"time\"\n\nvar delay = 5 * time.Minute\n"},
		{
			file: "x.md", line: 4, setup: "type Apple struct{ Kind string }",
			text: "id, err := jobs.Queue(\"apples\").With(tx).Put(ctx, Apple{\"Cox\"}, store.ScheduleAt(time.Hour))\n",
		},
		{file: "x.md", line: 5, text: "d := dispatcher.New(jobs, dispatcher.Options{})\nreturn d.Run(ctx)\n"},
	})
	if err != nil {
		t.Error(err)
	}
}

func TestABrokenGoExampleFailsAndNamesItsLine(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"a method that is not there":    {"\njobs.Queue(\"apples\").Push(ctx)\n", "x.md:8"},
		"a type that is not there":      {"var options store.Settings\n", "x.md:7"},
		"an import that is not used":    {"import \"time\"\n\nvar answer = 42\n", "x.md:7"},
		"a result too many":             {"id := jobs.Queue(\"apples\").Put(ctx, 1)\n", "x.md:7"},
		"a wrong format, as vet sees":   {"fmt.Printf(\"%d\", \"one\")\n", "x.md:7"},
		"a syntax error":                {"if {\n", "x.md:7"},
		"an unused variable of a block": {"if true {\n\tx := 1\n}\n", "x.md:8"},
		"a whole file":                  {"package main\n\nfunc main() { undefined() }\n", "x.md:9"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := compile(t, []block{{file: "x.md", line: 7, text: test.text}})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one at %s", err, test.want)
			}
		})
	}
}
