package docs

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const program = "pq-dispatch"

// commandLines are the calls of the program in a block of shell, as words after its name.
func commandLines(text string) (lines [][]string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		for _, words := range split(strings.TrimPrefix(strings.TrimSpace(line), "$ ")) {
			for len(words) > 0 && assignment.MatchString(words[0]) {
				words = words[1:]
			}
			switch {
			case len(words) > 0 && words[0] == program:
				lines = append(lines, words[1:])
			case len(words) > 2 && slices.Equal(words[:3], []string{"go", "run", "./cmd/" + program}):
				lines = append(lines, words[3:])
			}
		}
	}
	return lines
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// split cuts a line into commands and these into words, as far as examples need it: quotes, operators,
// redirections, and a comment at the end.
func split(line string) (commands [][]string) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord := false
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		commands, words = append(commands, words), nil
	}
	for _, r := range line {
		switch {
		case r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			endCommand()
			return commands
		case r == ' ' || r == '\t':
			endWord()
		case strings.ContainsRune("|&;<>", r): // what follows < is a file, and so not a command of ours
			endCommand()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endCommand()
	return commands
}

// helper returns the help text of a command of the program, given by its path.
type helper func(path ...string) (string, error)

var (
	subcommands = regexp.MustCompile(`(?m)^(?:Available|Additional) .*[Cc]ommands:\n((?:  .*\n|\n  )*)`)
	flagLine    = regexp.MustCompile(`(?m)^\s+(?:(-\w), )?(?:--([\w-]+))(?: (\w+))?`)
)

// checkCommand says what is wrong with a call of the program: a command or a flag that its help does
// not list.
func checkCommand(help helper, words []string) error {
	path := []string{program}
	text, err := help()
	if err != nil {
		return err
	}
	for i := 0; i < len(words) && words[i] != "--"; i++ {
		if strings.HasPrefix(words[i], "-") && words[i] != "-" {
			takesValue, err := checkFlag(text, words[i])
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(path, " "), err)
			}
			if takesValue {
				i++
			}
			continue
		}
		names := commandNames(text)
		if len(names) == 0 {
			continue // an argument
		}
		if !slices.Contains(names, words[i]) {
			return fmt.Errorf("%s: no command %q, known are %s", strings.Join(path, " "), words[i], strings.Join(names, ", "))
		}
		path = append(path, words[i])
		if text, err = help(path[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func commandNames(help string) (names []string) {
	for _, m := range subcommands.FindAllStringSubmatch(help, -1) {
		for line := range strings.Lines(m[1]) {
			if fields := strings.Fields(line); len(fields) > 0 {
				names = append(names, fields[0])
			}
		}
	}
	return names
}

// checkFlag tells whether the flag's value is the next word.
func checkFlag(help, flag string) (takesValue bool, err error) {
	name, _, hasValue := strings.Cut(flag, "=")
	for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
		if name == m[1] || name == "--"+m[2] {
			return m[3] != "" && !hasValue, nil
		}
	}
	return false, fmt.Errorf("no flag %s", name)
}

func TestCommandLinesExist(t *testing.T) {
	binary := filepath.Join(t.TempDir(), program)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/"+program)
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	help := func(path ...string) (string, error) {
		output, err := exec.CommandContext(t.Context(), binary, append(path, "--help")...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s %s --help: %w\n%s", program, strings.Join(path, " "), err, output)
		}
		return string(output), nil
	}
	for _, b := range blocksOf(t, "sh", "bash", "shell", "console") {
		for _, words := range commandLines(b.text) {
			if err := checkCommand(help, words); err != nil {
				t.Errorf("%s:%d: %q: %v", b.file, b.line, words, err)
			}
		}
	}
}

func TestCommandLinesAreFoundInShell(t *testing.T) {
	const text = `# pq-dispatch comment
$ go run ./cmd/pq-dispatch demo --json > out.json
3 jobs by pq-dispatch
DATABASE_URL=postgres:///x pq-dispatch put apples '{"kind": "a b"}'   # a comment
cat jobs | pq-dispatch put --jsonl apples \
  - && pq-dispatch stats
go install ./cmd/pq-dispatch
`
	want := [][]string{
		{"demo", "--json"},
		{"put", "apples", `{"kind": "a b"}`},
		{"put", "--jsonl", "apples", "-"},
		{"stats"},
	}
	if diff := cmp.Diff(want, commandLines(text)); diff != "" {
		t.Errorf("got the command lines (-want +got):\n%s", diff)
	}
}

func TestAWrongCommandLineFails(t *testing.T) {
	texts := map[string]string{
		"": "Usage:\n  pq-dispatch [command]\n\nAvailable Commands:\n  migrate     Change the schema\n  put         Put jobs\n\n" +
			"Flags:\n  -h, --help   help for pq-dispatch\n      --schema string   Schema of the table\n",
		"migrate":    "Usage:\n\nAvailable Commands:\n  up   Apply\n\nGlobal Flags:\n      --schema string   Schema\n",
		"migrate up": "Usage:\n  pq-dispatch migrate up [flags]\n\nFlags:\n      --to int   Stop there\n",
		"put":        "Usage:\n  pq-dispatch put QUEUE [DATA]\n\nFlags:\n  -j, --jsonl   Read lines\n      --expected-at time   Priority\n",
	}
	help := func(path ...string) (string, error) {
		if text, ok := texts[strings.Join(path, " ")]; ok {
			return text, nil
		}
		return "", errors.New("no such command")
	}
	tests := map[string]bool{
		"--help":                                true,
		"--schema up migrate up --to 3":         true,
		"put apples 1 --expected-at -5m -j":     true,
		"put apples --expected-at=5m":           true,
		"put apples -- --not-ours":              true,
		"take apples":                           false,
		"migrate sideways":                      false,
		"migrate up --until 3":                  false,
		"put --priority 5 apples":               false,
		"put apples -x":                         false,
		"--json put apples":                     false,
		"put apples --expected-at 5m --unknown": false,
	}
	for line, ok := range tests {
		if err := checkCommand(help, strings.Fields(line)); (err == nil) != ok {
			t.Errorf("%s: got error %v, want success: %v", line, err, ok)
		}
	}
}
