// Columns that fit a width: what matters less is left out of a narrow terminal.

package top

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// column is one of a table. The first one of a table takes what room is left.
type column struct {
	title string
	width int // the least, for the first
	rank  int // the highest are left out first
	left  bool
}

// gap is between two columns.
const gap = 1

// fit returns which columns there is room for, in order, and the first one's width.
func fit(columns []column, width int) (kept []int, first int) {
	for i := range columns {
		kept = append(kept, i)
	}
	for {
		needed := 0
		for _, i := range kept {
			needed += columns[i].width + gap
		}
		if needed -= gap; needed <= width || len(kept) == 1 {
			return kept, max(1, columns[0].width+width-needed)
		}
		worst := slices.MaxFunc(kept[1:], func(i, j int) int { return columns[i].rank - columns[j].rank })
		kept = slices.DeleteFunc(kept, func(i int) bool { return i == worst })
	}
}

// widestName is as far as the first column grows, so that the numbers stay near to the names.
const widestName = 48

// rows lays cells out as lines, the first the titles.
func rows(columns []column, width int, cells [][]string) []string {
	kept, first := fit(columns, width)
	longest := columns[0].width
	for _, row := range cells {
		longest = max(longest, ansi.StringWidth(row[0]))
	}
	first = min(first, longest, widestName)
	lines := make([]string, 0, len(cells)+1)
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	for _, row := range slices.Insert(slices.Clone(cells), 0, titles) {
		var b strings.Builder
		for n, i := range kept {
			w, left := columns[i].width, columns[i].left
			if n == 0 {
				w, left = first, true
			} else {
				b.WriteString(strings.Repeat(" ", gap))
			}
			if last := n == len(kept)-1; last && left { // as long as it likes
				w = max(w, ansi.StringWidth(row[i]))
			}
			b.WriteString(pad(row[i], w, left))
		}
		lines = append(lines, ansi.Truncate(b.String(), width, "…"))
	}
	return lines
}

// pad makes a text exactly that wide.
func pad(text string, width int, left bool) string {
	text = ansi.Truncate(text, width, "…")
	space := strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
	if left {
		return text + space
	}
	return space + text
}

// printable makes a text one line that cannot tell the terminal anything.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
