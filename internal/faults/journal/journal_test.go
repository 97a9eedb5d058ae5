package journal

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEventsComeBackInTheOrderOfTime(t *testing.T) {
	dir := t.TempDir()
	want := []Event{
		{Time: 1, Kind: Begin, Text: "dispatcher", Process: "b"},
		{Time: 2, Kind: PutBegin, Token: 7, Attempt: 3, Due: 2e9, Text: "plain", Process: "a"},
		{Time: 3, Kind: Start, Token: 7, Job: 11, Attempt: 1, Process: "b"},
		{Time: 3, Kind: End, Token: 7, Job: 11, Attempt: 1, Text: Done, Process: "b"},
		{Time: 4, Kind: Exit, Text: "tab\tand\nline", Process: "a"},
	}
	for _, name := range []string{"a", "b"} {
		w, err := Create(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range want {
			if e.Process == name {
				w.Write(e)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestALineIsReadBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Event{
			Time: rapid.Int64().Draw(t, "time"), Kind: rapid.SampledFrom([]Kind{Start, PutOK, Exit}).Draw(t, "kind"),
			Token: rapid.Int64().Draw(t, "token"), Job: rapid.Int64().Draw(t, "job"), Attempt: rapid.Int().Draw(t, "attempt"),
			Due: rapid.Int64().Draw(t, "due"), Text: rapid.String().Draw(t, "text"),
		}
		line := want.append(nil)
		if n := strings.Count(string(line), "\n"); n != 1 {
			t.Fatalf("got %d line ends in %q, want 1", n, line)
		}
		got, err := parse(line[:len(line)-1])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestATornLastLineIsLeftOutWhereverItIsTorn(t *testing.T) {
	whole := Event{Time: 5, Kind: Start, Token: 1, Job: 2, Attempt: 1}.append(nil)
	for cut := range whole {
		got, err := read(nil, strings.NewReader(string(whole)+string(whole[:cut])), "p")
		if err != nil || len(got) != 1 {
			t.Errorf("cut after %d bytes: got %d events and error %v, want 1 and none", cut, len(got), err)
		}
	}
}

func TestALineThatIsNoEventIsAnError(t *testing.T) {
	for _, text := range []string{"\n", "1\tstart\n", "x\tstart\t1\t1\t1\t0\t\n", "1\tstart\t1\t1\t1\t0\t\"open\n"} {
		if _, err := read(nil, strings.NewReader(text), "p"); err == nil {
			t.Errorf("%q: got no error, want one", text)
		}
	}
}

func TestSeveralGoroutinesWriteWholeLines(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, "p")
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 500
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for range each {
				w.Write(Event{Kind: Start, Token: int64(i)})
			}
		})
	}
	all.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	events, err := Read(dir)
	if err != nil || len(events) != writers*each {
		t.Errorf("got %d events and error %v, want %d", len(events), err, writers*each)
	}
}

func TestAJournalIsNotBegunTwice(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p"+suffix), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, "p"); err == nil {
		t.Error("got no error, want one: what is there belongs to another process")
	}
}
