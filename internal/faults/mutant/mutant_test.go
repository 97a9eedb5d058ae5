package mutant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEachEditFindsItsTextOnceInTheSourcesOfToday(t *testing.T) {
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range All {
		t.Run(m.Name, func(t *testing.T) {
			sources, err := Sources(root, append(m.Scale, m.Edits...))
			if err != nil {
				t.Fatal(err)
			}
			for file, text := range sources {
				original, err := os.ReadFile(filepath.Join(root, file))
				if err != nil {
					t.Fatal(err)
				}
				if text == string(original) {
					t.Errorf("%s: got the same text, want another", file)
				}
			}
		})
	}
}

// It takes some seconds a mutant.
func TestEachMutantCompiles(t *testing.T) {
	if testing.Short() || os.Getenv("PQ_DISPATCH_MUTANTS") == "" {
		t.Skip("set PQ_DISPATCH_MUTANTS=1 to build them all")
	}
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range All {
		t.Run(m.Name, func(t *testing.T) {
			if err := Build(t.Context(), root, "./internal/faults", filepath.Join(t.TempDir(), "program"), append(m.Scale, m.Edits...)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAMutantIsDescribed(t *testing.T) {
	if len(All) < 12 {
		t.Errorf("got %d mutants, want 12 at least", len(All))
	}
	seen := map[string]bool{}
	for _, m := range All {
		if seen[m.Name] {
			t.Errorf("got two mutants %q, want one", m.Name)
		}
		seen[m.Name] = true
		if m.About == "" || len(m.Edits) == 0 || len(m.Scenario) == 0 || len(m.Shows) == 0 {
			t.Errorf("%s: got %+v, want a description, edits, a scenario and what it shows", m.Name, m)
		}
		if found, ok := Find(m.Name); !ok || found.About != m.About {
			t.Errorf("Find(%q): got %+v, %v, want the mutant", m.Name, found, ok)
		}
	}
	if m, ok := Find("none"); ok {
		t.Errorf("Find of an unknown name: got %+v, want nothing", m)
	}
}

func TestAnEditWhoseTextIsGoneOrAmbiguousIsRefused(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("one two two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		old, want string // "" if it fits
	}{
		{"one", ""},
		{"two", "2 times"},
		{"three", "0 times"},
	} {
		_, err := Sources(root, []Edit{{File: "a.go", Old: test.old, New: "x"}})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%q: got %v, want no error", test.old, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%q: got %v, want an error with %q", test.old, err, test.want)
		}
	}
	sources, err := Sources(root, []Edit{{"a.go", "one", "1"}, {"a.go", "two two", "2"}})
	if got, want := sources["a.go"], "1 2"; err != nil || got != want {
		t.Errorf("two edits of a file: got %q, %v, want %q", got, err, want)
	}
	if _, err := Sources(root, []Edit{{File: "b.go", Old: "x"}}); err == nil {
		t.Error("a file that is not there: got no error, want one")
	}
}
