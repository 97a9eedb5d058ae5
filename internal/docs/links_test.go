package docs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

var (
	code    = regexp.MustCompile("(`+)[^`].*?(`+)")
	link    = regexp.MustCompile(`\]\(<?([^)\s>]+)>?[^)]*\)|(?m:^\s*\[[^\]]+\]:\s+(\S+))`)
	scheme  = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	heading = regexp.MustCompile(`(?m)^#{1,6}\s+(.+?)\s*#*$`)
)

// brokenLinks lists the relative links of a document that lead to no file, or to no heading of a
// Markdown file. file is relative to dir.
func brokenLinks(dir, file, document string) (broken []string) {
	_, prose := blocks(file, document)
	for i, line := range strings.Split(prose, "\n") {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(line, ""), -1) {
			target := m[1] + m[2]
			if scheme.MatchString(target) {
				continue
			}
			path, anchor, _ := strings.Cut(target, "#")
			text, name := document, filepath.Join(dir, file)
			if path != "" {
				name = filepath.Join(dir, filepath.Dir(file), path)
				if strings.HasPrefix(path, "/") {
					name = filepath.Join(dir, path)
				}
				if _, err := os.Stat(name); err != nil {
					broken = append(broken, fmt.Sprintf("%s:%d: %s: no such file", file, i+1, target))
					continue
				}
				content, _ := os.ReadFile(name) // a directory has no headings
				text = string(content)
			}
			if anchor != "" && filepath.Ext(name) == ".md" && !anchors(text)[anchor] {
				broken = append(broken, fmt.Sprintf("%s:%d: %s: no such heading", file, i+1, target))
			}
		}
	}
	return broken
}

// anchors are the names that hosts of Git repositories give to the headings of a document.
func anchors(document string) map[string]bool {
	_, prose := blocks("", document)
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(prose, -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1])
		unique := anchor
		for n := 1; found[unique]; n++ {
			unique = fmt.Sprintf("%s-%d", anchor, n)
		}
		found[unique] = true
	}
	return found
}

func TestRelativeLinksLeadSomewhere(t *testing.T) {
	all := documents(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, broken := range brokenLinks(root, name, all[name]) {
			t.Error(broken)
		}
	}
}

func TestABrokenLinkIsFound(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "README.md"), "# It, `code` & more\n")
	const document = `# Title
[good](../README.md), [rooted](/README.md), [dir](.), [here](#title), [there](../README.md#it-code--more)
[web](https://example.org/x.md) [mail](mailto:a@example.org) ` + "`[code](nothing)`" + ` [self](guide.md)
[bad](nothing.md) ![image](x.png "title")
[no heading](#nothing) and [no heading](../README.md#it)

[reference]: gone.md
` + "```\n[in a block](nothing)\n```\n"
	write(t, filepath.Join(dir, "docs", "guide.md"), document)
	want := []string{
		"docs/guide.md:4: nothing.md: no such file",
		"docs/guide.md:4: x.png: no such file",
		"docs/guide.md:5: #nothing: no such heading",
		"docs/guide.md:5: ../README.md#it: no such heading",
		"docs/guide.md:7: gone.md: no such file",
	}
	if diff := cmp.Diff(want, brokenLinks(dir, "docs/guide.md", document)); diff != "" {
		t.Errorf("got the broken links (-want +got):\n%s", diff)
	}
}
