package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPutTakesItsDataFromWhereItIsTold(t *testing.T) {
	d := newDatabase(t)
	file := filepath.Join(t.TempDir(), "data.json")
	if err := os.WriteFile(file, []byte("{\n  \"from\": \"file\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "id", d.must("put", "apples", `{"from": "argument"}`), "1\n")
	for i, args := range [][]string{{"put", "apples"}, {"put", "apples", "-"}, {"put", "apples", "--file", "-"}} {
		wants(t, "id", d.runWith(`{"from": "stdin"}`, args...).stdout, fmt.Sprintf("%d\n", i+2))
	}
	wants(t, "id", d.must("put", "apples", "--file", file), "5\n")
	wants(t, "id", d.must("put", "apples/json", "--task", "eat", "--", "-1"), "6\n")
	stdin := "{\"from\":\"stdin\"}\n"
	wants(t, "jobs", d.must("get", "apples", "--count", "10"),
		"{\"from\":\"argument\"}\n"+stdin+stdin+stdin+"{\"from\":\"file\"}\n-1\n")
}

func TestPutSetsTimesTaskAndAttempts(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1", "--schedule-at", "2030-01-02T03:04:05+02:00", "--expected-at", "2d", "--max-attempts", "3")
	d.must("put", "apples", "2", "--schedule-at", "1h30m", "--expected-at", "2029-01-01T00:00:00.5Z", "--task", "eat", "--max-attempts", "7")
	d.must("put", "apples", "3", "--task", "eat")
	d.must("put", "apples", "4")
	for _, condition := range []string{
		`id = 1 and schedule_at = '2030-01-02 01:04:05Z' and expected_at - enqueued_at between '47:59' and '48:01' and max_attempts = 3 and task is null`,
		`id = 2 and schedule_at - enqueued_at between '01:29' and '01:31' and expected_at = '2029-01-01 00:00:00.5Z' and max_attempts = 7 and task = 'eat'`,
		`id = 3 and schedule_at is null and expected_at is null and task = 'eat' and max_attempts is null`,
		`id = 4 and schedule_at is null and expected_at is null and task is null and max_attempts is null`,
	} {
		if d.number(`select count(*) from queue where `+condition) != 1 {
			t.Errorf("no job for which: %s", condition)
		}
	}
}

// numbers are lines with a job each, from 1.
func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"n\": %d}\n", i+1)
	}
	return b.String()
}

func TestPutJSONLPutsAJobForEachLine(t *testing.T) {
	d := newDatabase(t)
	const n = 10_000
	r := d.runWith("\n"+numbers(n)+"  \r\n", "put", "apples", "--jsonl", "--max-attempts", "2", "--schedule-at", "1s")
	if r.code != exitOK || strings.Count(r.stdout, "\n") != n || !strings.HasPrefix(r.stdout, "1\n2\n") || r.stderr != "" {
		t.Fatalf("got exit code %d, %d ids, %q; want 0, %d and nothing", r.code, strings.Count(r.stdout, "\n"), r.stderr, n)
	}
	if got := d.number(`select count(*) from queue where (data->>'n')::int = id and max_attempts = 2 and schedule_at is not null`); got != n {
		t.Errorf("jobs put as they should be: got %d, want %d", got, n)
	}
}

func TestPutJSONLOfATaskPutsAllOrNone(t *testing.T) {
	d := newDatabase(t)
	d.runWith(numbers(3)+"nonsense\n", "put", "apples", "--jsonl", "--task", "eat").failsWith(t, exitUsage, "line 4", "nothing was put")
	wants(t, "jobs", fmt.Sprint(d.number(`select count(*) from queue`)), "0")
	if r := d.runWith(numbers(3), "put", "apples", "--jsonl", "--task", "eat"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	wants(t, "jobs", fmt.Sprint(d.number(`select count(*) from queue where task = 'eat'`)), "3")
}

func TestPutJSONLWithABadLinePutsNothingAndNamesIt(t *testing.T) {
	d := newDatabase(t)
	for _, tt := range []struct{ name, line, want string }{
		{"not JSON", "Cox", "not JSON"},
		{"two values", "1 2", "not JSON"},
		{"cut off", `{"n": 5`, "not JSON"},
		{"NUL", `{"n": "\u0000"}`, "NUL"},
		{"not UTF-8", "\"\xff\"", "UTF-8"},
		{"half a surrogate pair", `"\ud800"`, "surrogate"},
		{"a key twice", `{"n": 1, "n": 2}`, "twice"},
		{"too large", `"` + strings.Repeat("x", 1<<20) + `"`, "limit"},
		{"too large to read", `"` + strings.Repeat("x", maxInput) + `"`, "too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			input := numbers(5_000) + "\n" + tt.line + "\n" + numbers(4_999) // the empty line counts
			r := d.runWith(input, "put", "apples", "--jsonl")
			r.failsWith(t, exitUsage, "nothing was put", "line 5002", tt.want)
			wants(t, "standard output", r.stdout, "")
			if n := d.number(`select count(*) from queue`); n != 0 {
				t.Errorf("jobs in the table: got %d, want 0", n)
			}
		})
	}
}

func TestPutJSONLThatCannotBeReadPutsNothing(t *testing.T) {
	d := newDatabase(t)
	broken := io.MultiReader(strings.NewReader(numbers(3)), &brokenReader{})
	var stdout, stderr bytes.Buffer
	code := run([]string{"--database-url", d.url, "put", "apples", "--jsonl"}, broken, &stdout, &stderr)
	result{code, stdout.String(), stderr.String()}.failsWith(t, exitFailed, "read line 4: the disk is gone")
	if n := d.number(`select count(*) from queue`); n != 0 {
		t.Errorf("jobs in the table: got %d, want 0", n)
	}
}

type brokenReader struct{}

func (*brokenReader) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestProgressIsShownNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := progress{w: &out, on: true}
		for i := range 25 {
			p.show(i + 1)
			time.Sleep(10 * time.Millisecond) // the bubble's clock
		}
		p.end()
		wants(t, "progress", out.String(), "\r1 jobs\r11 jobs\r21 jobs\r25 jobs\n")

		out.Reset()
		p = progress{w: &out}
		p.show(1)
		p.end()
		wants(t, "progress without a terminal", out.String(), "")
	})
}

func TestReadingGivesUpWhenItsContextEnds(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	reader := &interruptibleReader{ctx: ctx, r: r}
	go w.Write([]byte("abc"))
	buffer := make([]byte, 2)
	for _, want := range []string{"ab", "c"} {
		n, err := reader.Read(buffer)
		if err != nil || string(buffer[:n]) != want {
			t.Fatalf("got %q, %v, want %q", buffer[:n], err, want)
		}
	}
	enough := errors.New("enough")
	cancel(enough)
	if n, err := reader.Read(buffer); n != 0 || err != enough {
		t.Errorf("got %d, %v, want 0, %v", n, err, enough)
	}
}
