package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

func TestAWorkerSaysAndWritesDownWhatBecameOfAJob(t *testing.T) {
	for _, test := range []struct {
		name    string
		load    load
		attempt int
		want    said
		end     journal.Event
	}{
		{"a plain one is done", load{Token: 7, Kind: plain}, 1, said{ID: "5", Outcome: "done"}, journal.Event{Text: journal.Done}},
		{
			"one fails as often as it is to", load{Token: 7, Kind: flaky, Fails: 2, Delay: 100}, 2,
			said{ID: "5", Outcome: "retry", Error: "fails for a while", Delay: 0.1},
			journal.Event{Text: journal.Failed, Due: 100_000_000},
		},
		{"and then no more", load{Token: 7, Kind: flaky, Fails: 2, Delay: 100}, 3, said{ID: "5", Outcome: "done"}, journal.Event{Text: journal.Done}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			owner, err := journal.Create(dir, "daemon-1.1")
			if err != nil {
				t.Fatal(err)
			}
			j, err := journal.Append(dir, "daemon-1.1")
			if err != nil {
				t.Fatal(err)
			}
			owner.Write(journal.Event{Kind: journal.Begin, Text: "daemon"})
			if got := workOn(j, "5", "apples", test.attempt, test.load); got != test.want {
				t.Errorf("answer: got %+v, want %+v", got, test.want)
			}
			owner.Write(journal.Event{Kind: journal.Exit})
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if err := owner.Close(); err != nil {
				t.Error(err)
			}
			got, err := journal.Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			run := journal.Event{Token: 7, Job: 5, Attempt: test.attempt}
			start, end := run, run
			start.Kind, start.Text = journal.Start, "apples"
			end.Kind, end.Text, end.Due = journal.End, test.end.Text, test.end.Due
			want := []journal.Event{{Kind: journal.Begin, Text: "daemon"}, start, end, {Kind: journal.Exit}}
			for i := range want {
				want[i].Process = "daemon-1.1"
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(journal.Event{}, "Time")); diff != "" {
				t.Errorf("journal of the daemon (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyABegunJournalIsGoneOnWith(t *testing.T) {
	if _, err := journal.Append(t.TempDir(), "nobody"); err == nil {
		t.Error("got no error, want one: whoever writes there is no part of the run")
	}
}

func TestWhatTheJudgeFoundIsToldTheMostFirst(t *testing.T) {
	if got, want := (trial{counts: map[string]int{"lost": 2, "early": 30, "leak": 2}}).String(), "early 30, leak 2, lost 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (trial{}).String(), "nothing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
