// Package docs checks what the documentation says against the project itself: the code in it compiles,
// the SQL runs, the commands exist, the links lead somewhere, and packages import only what
// CONTRIBUTING.md allows. It holds tests only.
//
// What an example needs and a reader does not, stands in a comment right above it:
//
//	<!-- setup: type Apple struct{ Kind string } -->
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// block is a fenced block of a document.
type block struct {
	file  string // as errors name it
	line  int    // of the first line inside the fence
	lang  string // the first word after the fence: go, sql, sh, ...
	text  string
	setup string // from the comment above it
}

var (
	fence = regexp.MustCompile("^(\\s*)(```+)\\s*([^\\s`]*)[^`]*$")
	setup = regexp.MustCompile(`(?s)<!--\s*setup:((?:[^-]|-[^-]|--[^>])*)-->\s*$`)
)

// blocks splits a document into its fenced blocks and the prose around them. The prose keeps its line
// numbers: a block leaves empty lines behind.
func blocks(file, document string) (found []block, prose string) {
	var b *block
	var open, indent string
	var outside strings.Builder
	for i, line := range strings.Split(document, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case b == nil && m != nil:
			b, indent, open = &block{file: file, line: i + 2, lang: m[3]}, m[1], m[2]
			if s := setup.FindStringSubmatch(outside.String()); s != nil {
				b.setup = strings.TrimSpace(s[1])
			}
			line = ""
		case b != nil && m != nil && m[3] == "" && len(m[2]) >= len(open):
			found = append(found, *b)
			b, line = nil, ""
		case b != nil:
			b.text += strings.TrimPrefix(line, indent) + "\n"
			line = ""
		}
		outside.WriteString(line + "\n")
	}
	if b != nil { // Markdown lets a document end inside of a block
		found = append(found, *b)
	}
	return found, outside.String()
}

// root is the directory of the module.
const root = "../.."

// documents are the checked ones, as names relative to root with their text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	names := []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"}
	for _, dir := range []string{"docs", "bench"} {
		if _, err := os.Stat(filepath.Join(root, dir)); os.IsNotExist(err) {
			continue
		}
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if err == nil && filepath.Ext(path) == ".md" {
				path, err = filepath.Rel(root, path)
				names = append(names, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	documents := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		documents[name] = string(text)
	}
	return documents
}

// blocksOf are the blocks in these languages of all documents.
func blocksOf(t *testing.T, langs ...string) (all []block) {
	t.Helper()
	for name, text := range documents(t) {
		found, _ := blocks(name, text)
		for _, b := range found {
			for _, lang := range langs {
				if b.lang == lang {
					all = append(all, b)
				}
			}
		}
	}
	return all
}

func TestBlocksAreFoundWithTheirLinesAndSetup(t *testing.T) {
	const document = "# Title\n" +
		"<!-- setup: var a int -->\n" +
		"\n" +
		"```go\n" +
		"a++\n" +
		"```\n" +
		"<!-- not for the next --> text\n" +
		"1. item\n" +
		"   ```sh copy\n" +
		"   $ ls\n" +
		"   ```\n" +
		"````\n" +
		"```\n" +
		"````\n" +
		"```sql\n" +
		"select 1\n"
	got, prose := blocks("x.md", document)
	want := []block{
		{file: "x.md", line: 5, lang: "go", text: "a++\n", setup: "var a int"},
		{file: "x.md", line: 10, lang: "sh", text: "$ ls\n"},
		{file: "x.md", line: 13, text: "```\n"},
		{file: "x.md", line: 16, lang: "sql", text: "select 1\n\n"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("got the blocks (-want +got):\n%s", diff)
	}
	if strings.Contains(prose, "select") || strings.Count(prose, "\n") != strings.Count(document, "\n")+1 {
		t.Errorf("got prose %q, want the lines outside of the blocks at their places", prose)
	}
}
