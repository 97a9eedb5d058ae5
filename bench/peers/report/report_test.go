package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/bench/peers/result"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample(t *testing.T) *result.Results {
	t.Helper()
	results, err := read("testdata/sample.json")
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func rendered(t *testing.T, results *result.Results) map[string][]byte {
	t.Helper()
	files, err := render(results, "sample", "sample.json")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTheReportOfTheSampleIsTheGoldenOne(t *testing.T) {
	files := rendered(t, sample(t))
	if *update {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join("testdata", name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var golden []string
	for _, entry := range entries {
		if entry.Name() != "sample.json" { // beside them, so that their links lead somewhere
			golden = append(golden, entry.Name())
		}
	}
	if diff := cmp.Diff(golden, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Errorf("got other files (-want +got):\n%s", diff)
	}
	for _, name := range golden {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(files[name], want) {
			t.Errorf("%s differs from the golden one: run go test ./report -update, and look at what git diff says", name)
		}
	}
}

func TestTheOrderOfTheMeasurementsDoesNotMatter(t *testing.T) {
	want := rendered(t, sample(t))
	results := sample(t)
	slices.Reverse(results.Measured)
	for name, text := range rendered(t, results) {
		if !bytes.Equal(text, want[name]) {
			t.Errorf("%s differs when the measurements are in another order", name)
		}
	}
}

func TestACommandWritesTheReportBesideTheResults(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/sample.json")
	if err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(dir, "2026-11-22.json")
	if err := os.WriteFile(in, text, 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if err := command([]string{"-in", in}, &stdout, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(stdout.String()) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(name, ".md") && !strings.Contains(string(text), "[raw results](2026-11-22.json)") {
			t.Errorf("%s has no link to the results beside it", name)
		}
	}
	if err := command([]string{"-in", filepath.Join(dir, "2026-11-22.md")}, io.Discard, io.Discard); err == nil {
		t.Error("got no error for a file that holds no results")
	}
	if err := command(nil, io.Discard, io.Discard); err == nil {
		t.Error("got no error without -in")
	}
}

// hostile is what no text may be taken for.
const hostile = "x</title><script>alert(1)</script> | `a` *b* [c](d) \"e\" 'f' & <!-- g\nh --> {{.}}"

func TestTextMeansItself(t *testing.T) {
	results := sample(t)
	results.CommandLine = []string{hostile}
	results.Machine.Model = hostile
	results.Versions[hostile], results.Settings[hostile] = hostile, hostile
	results.Absent = append(results.Absent, result.Absent{Name: hostile, Reason: hostile})
	for i := range results.Contenders {
		c := &results.Contenders[i]
		c.Name, c.Version, c.Settings, c.Source = hostile, hostile, []string{hostile}, hostile
	}
	results.Contenders[1].Source = "javascript:alert(1)"
	results.Measured[0].Note = hostile
	for name, text := range rendered(t, results) {
		switch filepath.Ext(name) {
		case ".svg":
			wellFormed(t, name, text)
			if !strings.Contains(words(t, text), "x</title><script>") {
				t.Errorf("%s does not show the name as it is", name)
			}
		case ".html":
			if strings.Count(string(text), "<script") != 1 || strings.Contains(string(text), `href="javascript`) {
				t.Errorf("%s lets a text be markup", name)
			}
			if strings.Count(string(text), "<title>") < 1 || strings.Contains(string(text), "<!-- g") {
				t.Errorf("%s lets a text be markup", name)
			}
		case ".md":
			if regexp.MustCompile("[^\\\\](<script|\\*b\\*|`a`|\\[c\\])").Match(text) {
				t.Errorf("%s lets a text be markup", name)
			}
			columns := 0
			for line := range strings.Lines(string(text)) {
				if !strings.HasPrefix(line, "|") {
					columns = 0
					continue
				}
				n := len(regexp.MustCompile(`(^|[^\\])\|`).FindAllString(line, -1))
				if columns != 0 && n != columns {
					t.Errorf("%s has a row of %d columns in a table of %d: %s", name, n-1, columns-1, line)
				}
				columns = n
			}
		}
	}
}

// words are the text of an XML document, without markup.
func words(t *testing.T, document []byte) string {
	t.Helper()
	var all strings.Builder
	decoder := xml.NewDecoder(bytes.NewReader(document))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			all.Write(text)
		}
	}
}

func wellFormed(t *testing.T, name string, document []byte) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(document))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s is not well-formed: %v", name, err)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "script" {
			t.Errorf("%s has a script", name)
		}
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	page := string(rendered(t, sample(t))["sample.html"])
	for _, from := range []string{" src=", "<link", "@import", "url(", "fetch(", "import("} {
		if strings.Contains(page, from) {
			t.Errorf("the page has %q, and has to open from disk without anything else", from)
		}
	}
	for _, m := range regexp.MustCompile(`(<\w+)[^>]* href="([^"#]*)"`).FindAllStringSubmatch(page, -1) {
		if m[1] != "<a" && m[2] != "" {
			t.Errorf("%s refers to %s", m[1], m[2])
		}
	}
}

func TestWhatWasNotMeasuredIsSaid(t *testing.T) {
	page := string(rendered(t, sample(t))["sample.md"])
	section := func(title string) string {
		_, rest, ok := strings.Cut(page, "\n## "+title+"\n")
		if !ok {
			t.Fatalf("there is no section %q", title)
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		return text
	}
	for _, c := range []struct{ section, want string }{
		{"Recovery after kill -9", `| River, default settings | \> 30 s | \> 109× |`},
		{"Recovery after kill -9", "pq-dispatch is ahead by a factor of at least 109"},
		{"Pick-up by an idle system", "| River, its own benchmark's settings | – | – | – | – | – |"},
		{"Throughput of more worker processes", "| 2.06<br><sub>1.92 to 2.08</sub> | – |"},
		{"Pick-up over the offered load", `| 16.4 s \*<br>`},
		{"Pick-up over the offered load", "fell behind"},
		{"How to read this", "- Absent: gue."},
	} {
		if !strings.Contains(section(c.section), c.want) {
			t.Errorf("the section %s does not say %q", c.section, c.want)
		}
	}
}

func TestResultsOfNothingAreAReportToo(t *testing.T) {
	empty := &result.Results{Quick: true, Settings: map[string]string{"fsync": "off"}}
	files := rendered(t, empty)
	if len(files) != 2 {
		t.Errorf("got %v, want the two pages and no plot", slices.Sorted(maps.Keys(files)))
	}
	for name, text := range files {
		for _, want := range []string{"Nothing was measured", "no figures to quote", "fsync off"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
}

func TestAPartOfTheWorkloadsIsAReportToo(t *testing.T) {
	whole := sample(t)
	for _, w := range views {
		part := *whole
		part.Measured = slices.DeleteFunc(slices.Clone(whole.Measured), func(m result.Measurement) bool {
			return m.Workload != w.workload || m.Contender != "pq-dispatch"
		})
		part.Contenders = nil // but the measured one has an id
		if page := string(rendered(t, &part)["sample.md"]); !strings.Contains(page, "## "+w.title) {
			t.Errorf("there is no section %s", w.title)
		}
	}
}

func TestAMeasuredFailureLeavesAGap(t *testing.T) {
	results := sample(t)
	for i := range results.Measured {
		if results.Measured[i].Contender == "pgboss-tuned" {
			results.Measured[i].Figures = nil
			results.Measured[i].Note = "failed: it broke"
		}
	}
	page := string(rendered(t, results)["sample.md"])
	if !strings.Contains(page, "| pg-boss, batches and notify | – | – |") || !strings.Contains(page, "- pg-boss, batches and notify, drain: failed: it broke") {
		t.Error("a failed run is neither shown as a gap nor remarked on")
	}
}
