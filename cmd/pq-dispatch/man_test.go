package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestManWritesAPageForEachCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "man1")
	r := cli("", "man", dir)
	if r.code != exitOK {
		t.Fatal(r.stderr)
	}
	names := strings.Fields(r.stdout)
	for _, want := range []string{"pq-dispatch.1", "pq-dispatch-work.1", "pq-dispatch-migrate-up.1", "pq-dispatch-top.1", "pq-dispatch-completion-bash.1"} {
		if !slices.Contains(names, filepath.Join(dir, want)) {
			t.Errorf("got %q, want %s among them", names, want)
		}
	}
	for _, name := range names {
		if strings.Contains(name, "process") || strings.Contains(name, "help") {
			t.Errorf("got a page %s of a hidden command", name)
		}
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"} {
			contains(t, name, string(page), "\n.SH "+section+"\n")
		}
	}
	var again []string
	if err := json.Unmarshal([]byte(cli("", "man", dir, "--json").stdout), &again); err != nil || !slices.Equal(again, names) {
		t.Errorf("got %q, %v, want %q", again, err, names)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cli("", "man", file).failsWith(t, exitFailed, file)
	cli("", "man").failsWith(t, exitUsage, "arg(s)")
}

// The pages are given to the programs that read them, where there are such.
func TestManPagesAreWellFormed(t *testing.T) {
	dir := t.TempDir()
	names := strings.Fields(cli("", "man", dir).stdout)
	checked := false
	for _, reader := range [][]string{{"mandoc", "-Tlint", "-W", "warning"}, {"groff", "-man", "-ww", "-z", "-Tutf8"}} {
		path, err := exec.LookPath(reader[0])
		if err != nil {
			continue
		}
		checked = true
		output, _ := exec.CommandContext(t.Context(), path, append(reader[1:], names...)...).CombinedOutput()
		for line := range strings.Lines(string(output)) {
			if !strings.Contains(line, "missing date") {
				t.Errorf("%s: %s", reader[0], line)
			}
		}
	}
	if !checked {
		t.Skip("neither mandoc nor groff is installed")
	}
}

func TestManSaysWhatIsInTheHelp(t *testing.T) {
	root := newApp(nil, nil, nil).manualRoot()
	page := manPage(root)
	for _, code := range []string{"0", "1", "2", "3", "4"} {
		contains(t, "exit codes", page, ".TP\n\\fB"+code+"\\fR\n")
	}
	for _, name := range []string{envURL, envAnyURL, envDirectURL, "NO_COLOR", "~/.pgpass"} {
		contains(t, "environment and files", page, "\\fB"+name+"\\fR\n")
	}
	work, _, err := root.Find([]string{"work"})
	if err != nil {
		t.Fatal(err)
	}
	page = manPage(work)
	contains(t, "flag", page, ".TP\n\\fB\\-\\-grace duration\\fR\nhow long commands may go on after SIGINT or SIGTERM (default 30s)\n")
	contains(t, "example", page, ".SH EXAMPLES\n.nf\n  pq\\-dispatch work apples \\-\\- ./eat \\-\\-with knife\n")
	contains(t, "reference", page, "\\fBpq\\-dispatch\\fR(1)")
}

func TestRoffTextIsReadAsItIs(t *testing.T) {
	for text, want := range map[string]string{
		`a\nb`:      `a\enb`,
		".hidden":   `\&.hidden`,
		"'quote'":   `\&'quote'`,
		"--a\n.b c": "\\-\\-a\n\\&.b c",
		"\ttab":     "    tab",
		"*x* <y>":   "*x* <y>",
	} {
		wants(t, "roff", roffText(text), want)
	}
}
