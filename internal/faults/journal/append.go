package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// Append goes on in the journal of a process that has been begun by it: for those that it has started, and that work for
// it. Lines do not mix, as each is one write to the end of the file.
func Append(dir, process string) (*Writer, error) {
	file, err := os.OpenFile(filepath.Join(dir, process+suffix), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Writer{file: file}, nil
}
