// What others write, cut to what an error can hold.

package handler

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// printable is text as valid UTF-8 without control characters but newline and tab. It is never longer
// than the text itself.
func printable(text []byte) string {
	s := strings.ToValidUTF8(string(text), "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1 // such as what would steer the terminal of whoever reads it
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

// shorten cuts a text to a number of bytes, between two characters.
func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	mu    sync.Mutex
	kept  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-t.limit):]...)
	if cut := len(t.kept) - t.limit; cut > 0 {
		t.kept = append(t.kept[:0], t.kept[cut:]...)
	}
	return len(p), nil
}

func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = t.kept[:0]
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept
	if len(kept) == t.limit { // perhaps cut within a character
		for i := 0; i < utf8.UTFMax-1 && len(kept) > 0 && !utf8.RuneStart(kept[0]); i++ {
			kept = kept[1:]
		}
	}
	return printable(kept)
}

// head keeps the beginning of what is written to it and counts all. It is for one goroutine.
type head struct {
	limit int
	kept  []byte
	size  int64
}

func (h *head) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	h.kept = append(h.kept, p[:min(len(p), h.limit-len(h.kept))]...)
	return len(p), nil
}
