package config

// The known name that a misspelt one most resembles.

import "fmt"

// didYouMean is a question to end a message with, or nothing if no name is near.
func didYouMean(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// nearest returns the name that the fewest slips of the hand turn into the given one, at most one for
// three characters of it; "" if there is none.
func nearest(name string, known []string) (best string) {
	limit := len(name)/3 + 1
	if len(name) < 2 || len(name) > 100 {
		return ""
	}
	for _, k := range known {
		if d := slips(name, k); d < limit || d == limit && best == "" {
			best, limit = k, d
		}
	}
	return best
}

// slips counts the letters to insert, leave out, replace or swap with their neighbour.
func slips(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
