package demo

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestOrderIsJudgedByTheDatabasesTimes(t *testing.T) {
	base := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	due := base.Add(delay)
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	// The right order: urgent, four ordinary ones, the delayed one 3 ms after its time, the others.
	right := func() []step {
		steps := []step{{12, urgentLabel, nil, at(0)}}
		for i := range ordinaryJobs {
			start := 100 * (i + 1)
			if i >= 4 {
				start = 603 + 100*(i-4)
			}
			steps = append(steps, step{int64(i + 2), strconv.Itoa(i + 1), nil, at(start)})
		}
		return slices.Insert(steps, 5, step{1, delayedLabel, &due, at(503)})
	}
	for name, test := range map[string]struct {
		change func([]step) []step
		want   string // part of the first problem; empty: none
	}{
		"right":    {func(s []step) []step { return s }, ""},
		"on time":  {func(s []step) []step { s[5].StartedAt = due; return s }, ""},
		"early":    {func(s []step) []step { s[5].StartedAt = due.Add(-time.Microsecond); return s }, "early"},
		"missing":  {func(s []step) []step { return s[:len(s)-1] }, "11 runs of 12 jobs"},
		"twice":    {func(s []step) []step { return append(s, s[3]) }, "13 runs of 12 jobs"},
		"none":     {func([]step) []step { return nil }, "0 runs of 12 jobs"},
		"urgent":   {func(s []step) []step { s[0], s[1] = s[1], s[0]; return s }, "number 2, want 1"},
		"ordinary": {func(s []step) []step { s[2].ID, s[3].ID = s[3].ID, s[2].ID; return s }, "was put later"},
		"never delayed": {func(s []step) []step {
			s[5].ScheduleAt = nil
			return s
		}, "not delayed"},
		"one started just before": {func(s []step) []step {
			s[5], s[6] = s[6], s[5]
			s[5].StartedAt, s[6].StartedAt = at(501), at(603)
			return s
		}, ""},
		"passed over": {func(s []step) []step {
			delayed := s[5]
			s = slices.Delete(s, 5, 6)
			delayed.StartedAt = at(705)
			return slices.Insert(s, 7, delayed)
		}, "2 jobs that are expected later"},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := judge(test.change(right()))
			switch {
			case got.OK != (test.want == "") || got.OK != (len(problems) == 0):
				t.Errorf("got OK %t with %v, want %t", got.OK, problems, test.want == "")
			case test.want != "" && !strings.Contains(problems[0].String(), test.want):
				t.Errorf("got %v, want %q", problems, test.want)
			}
		})
	}
}

func TestPercentileIsTheLeastValueThatSoManyDoNotExceed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64(), 1, 200).Draw(t, "values")
		percent := rapid.IntRange(0, 100).Draw(t, "percent")
		slices.Sort(values)
		got := percentile(values, percent)
		atMost, below := 0, 0
		for _, v := range values {
			if v <= got {
				atMost++
			}
			if v < got {
				below++
			}
		}
		if atMost*100 < percent*len(values) {
			t.Errorf("got %d, which only %d of %d do not exceed", got, atMost, len(values))
		}
		if below > 0 && below*100 >= percent*len(values) {
			t.Errorf("got %d, and a lesser value would do", got)
		}
	})
}

func TestPrintableTextsAreUniqueAndHarmless(t *testing.T) {
	for text, want := range map[string]string{
		"plain/päth 日本": "plain/päth 日本",
		"":              "",
		"line\nbreak":   `"line\nbreak"`,
		"\x1b[31mred":   `"\x1b[31mred"`,
		"not\xffutf8":   `"not\xffutf8"`,
		"a\u202eb":      `"a\u202eb"`, // writes from right to left
		"quote\"inside": `quote"inside`,
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q): got %s, want %s", text, got, want)
		}
	}
}

func TestErrorNamesTheFirstProblemsAndCountsTheRest(t *testing.T) {
	var s Summary
	for i := range maxNamed + 3 {
		s.problem(lost, "file"+strconv.Itoa(i), "gone")
	}
	err := s.err()
	for _, want := range []string{"lost: file0: gone", "lost: file9: gone", "and 3 more"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "file10") {
		t.Errorf("got %v, want only the first %d", err, maxNamed)
	}
}
