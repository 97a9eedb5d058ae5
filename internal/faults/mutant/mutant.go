// Package mutant breaks the product on purpose, to see whether the judge of internal/faults notices.
//
// A mutant is the program built with some lines of the product's sources replaced, by the overlay of the go command.
// The sources themselves are not touched and know nothing of it, so that no build of the product holds a trace.
package mutant

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mutant is one way in which the product could be wrong.
type Mutant struct {
	Name  string
	About string // completes "A product that ..."
	// Why says where it differs from what one would expect, and for what reason.
	Why   string
	Edits []Edit
	// Scale are edits that make nothing wrong but change constants of the product that are too long for a test, or make
	// good in time what was missed. The scenario has to pass with these alone.
	Scale []Edit
	// Scenario is the arguments of the program that make it likely that the mistake shows, beside the seed's.
	Scenario []string
	// Shows are the names of the judge's counts of which at least one has to be above 0.
	Shows []string
}

// Edit replaces a text that stands exactly once in a file by another.
type Edit struct {
	File     string // from the module's root, with slashes
	Old, New string
}

// Find returns the mutant of a name.
func Find(name string) (Mutant, bool) {
	for _, m := range All {
		if m.Name == name {
			return m, true
		}
	}
	return Mutant{}, false
}

// Sources returns the files that edits concern, by their names, as they are after them. An error says which text was
// not found exactly once: the product has changed, and the mutant has to follow.
func Sources(root string, edits []Edit) (map[string]string, error) {
	sources := map[string]string{}
	for _, e := range edits {
		text, read := sources[e.File]
		if !read {
			b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File)))
			if err != nil {
				return nil, fmt.Errorf("mutant: %w", err)
			}
			text = string(b)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return nil, fmt.Errorf("mutant: in %s this stands %d times, not once; make the edit fit what stands there now:\n%s", e.File, n, e.Old)
		}
		sources[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	return sources, nil
}

// Root is the directory of the module, from which go run was called or below which it was.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("mutant: find the module's sources, which a mutant is built from: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Build compiles a package of the module, such as "./internal/faults", with the edits, into the file program. What it
// needs meanwhile it puts beside that.
func Build(ctx context.Context, root, pkg, program string, edits []Edit) error {
	sources, err := Sources(root, edits)
	if err != nil {
		return err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for file, text := range sources {
		stand := program + "." + strings.ReplaceAll(file, "/", ".")
		if err := os.WriteFile(stand, []byte(text), 0o600); err != nil {
			return fmt.Errorf("mutant: %w", err)
		}
		overlay.Replace[filepath.Join(root, filepath.FromSlash(file))] = stand
	}
	b, err := json.Marshal(overlay)
	if err == nil {
		err = os.WriteFile(program+".overlay.json", b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("mutant: %w", err)
	}
	c := exec.CommandContext(ctx, "go", "build", "-overlay", program+".overlay.json", "-o", program, pkg)
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("mutant: build: %w\n%s", err, out)
	}
	return nil
}
