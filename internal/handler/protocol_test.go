package handler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/retry"
)

func TestOutcomeLineIsReadAsItIsMeant(t *testing.T) {
	for _, test := range []struct {
		line, kind, says string
		delay            time.Duration // of a retry; -1: the policy's
	}{
		{line: `{"id":"7","outcome":"done"}`, kind: "done"},
		{line: ` {"outcome" : "done", "id" : "7", "error": "", "delay": null} `, kind: "done"},
		{line: `{"id":"7","outcome":"retry"}`, kind: "retry", says: "no reason", delay: -1},
		{line: `{"id":"7","outcome":"retry","error":"a worm\u001b[2J"}`, kind: "retry", says: "a worm[2J", delay: -1},
		{line: `{"id":"7","outcome":"retry","error":"a worm","delay":0}`, kind: "retry", says: "a worm", delay: 0},
		{line: `{"id":"7","outcome":"retry","delay":1.5}`, kind: "retry", delay: 1500 * time.Millisecond},
		{line: `{"id":"7","outcome":"retry","delay":1e300}`, kind: "retry", delay: retry.MaxDelay},
		{line: `{"id":"7","outcome":"snooze","delay":60}`, kind: "snooze", says: "snoozed for 1m0s"},
		{line: `{"id":"7","outcome":"discard","error":"stale"}`, kind: "discard", says: "discarded: stale"},
		{line: `{"id":"7","outcome":"fail","error":"no apple"}`, kind: "fail", says: "no apple"},
	} {
		outcome, _, err := parseOutcome([]byte(test.line), "7")
		if err != nil || kindOf(outcome) != test.kind || outcome != nil && !strings.Contains(outcome.Error(), test.says) {
			t.Errorf("%s: got %s (%v), %v; want %s that says %q", test.line, kindOf(outcome), outcome, err, test.kind, test.says)
			continue
		}
		if test.kind == "retry" {
			want := test.delay
			if want < 0 {
				want = 7 * time.Second
			}
			if got, ok := retry.Decide(retry.Fixed(7*time.Second), 1, 5, outcome); got != want || !ok {
				t.Errorf("%s: got a delay of %v, want %v", test.line, got, want)
			}
		}
	}
}

func TestOutcomeMayBeTheLast(t *testing.T) {
	for line, want := range map[string]bool{
		`{"id":"7","outcome":"done"}`: false, `{"id":"7","outcome":"done","last":false}`: false, `{"id":"7","outcome":"retry","last":true}`: true,
	} {
		if _, last, err := parseOutcome([]byte(line), "7"); last != want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", line, last, err, want)
		}
	}
}

func TestLineThatIsNoOutcomeIsRefused(t *testing.T) {
	for line, says := range map[string]string{
		``:                                       "not of the protocol",
		`hello`:                                  `the line "hello" is not of the protocol`,
		`[]`:                                     "not of the protocol",
		`null`:                                   `the job "" while`,
		`{"id":"7","outcome":"done"}{}`:          "something follows",
		`{"id":"7","outcome":"done"} x`:          "something follows",
		`{"id":"7","outcome":"done"`:             "unexpected EOF",
		`{"id":7,"outcome":"done"}`:              "cannot unmarshal number",
		`{"id":"8","outcome":"done"}`:            `of the job "8" while it had the job "7"`,
		`{"outcome":"done"}`:                     `the job "" while`,
		`{"id":"7"}`:                             `the outcome ""; known are`,
		`{"id":"7","outcome":"DONE"}`:            `the outcome "DONE"; known are`,
		`{"id":"7","outcome":"done","result":1}`: `unknown field "result"`,
		`{"id":"7","outcome":"retry","dealy":1}`: `unknown field "dealy"`,
		`{"id":"7","outcome":"retry","delay":"1s"}`:       "cannot unmarshal string",
		`{"id":"7","outcome":"retry","delay":-1}`:         "delay of -1 seconds",
		`{"id":"7","outcome":"retry","delay":1e999}`:      "cannot unmarshal number",
		`{"id":"7","outcome":"done","delay":1}`:           "retry and snooze have one",
		`{"id":"7","outcome":"fail","delay":0}`:           "retry and snooze have one",
		`{"id":"7","outcome":"snooze"}`:                   "snooze without a delay",
		`{"id":"7","outcome":"done","error":"it failed"}`: "an error with the outcome done",
	} {
		if outcome, _, err := parseOutcome([]byte(line), "7"); err == nil || !strings.Contains(err.Error(), says) || outcome != nil {
			t.Errorf("%s: got %v, %v; want an error that says %q", line, outcome, err, says)
		}
	}
}

func TestFirstLineHasToBeTheGreeting(t *testing.T) {
	if err := parseGreeting([]byte(`{"ready":true,"protocol":1}`)); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	for _, line := range []string{``, `ready`, `{}`, `{"ready":true}`, `{"ready":false,"protocol":1}`, `{"ready":true,"protocol":2}`, `{"ready":true,"protocol":1,"name":"x"}`, `{"ready":true,"protocol":"1"}`} {
		if err := parseGreeting([]byte(line)); err == nil || !strings.Contains(err.Error(), "its first line") {
			t.Errorf("%s: got %v, want an error about the first line", line, err)
		}
	}
}

func TestJobLineCanBeTakenApartByAShell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "data")
		raw, err := json.MarshalIndent(value, "", "\t") // with newlines
		if err != nil {
			t.Fatal(err)
		}
		job := newJob(string(raw))
		job.Task, job.Queue = rapid.String().Draw(t, "task"), rapid.String().Draw(t, "queue")
		job.ID = rapid.Int64().Draw(t, "id")
		line, err := newJobLine(t.Context(), job, 25)
		if err != nil {
			t.Fatal(err)
		}
		text, ended := strings.CutSuffix(string(line), "}\n")
		rest, begun := strings.CutPrefix(text, `{"type":"job","id":"`+jobID(job)+`",`)
		_, data, found := strings.Cut(rest, `,"data":`)
		var got map[string]string
		if !ended || !begun || !found || strings.Contains(text, "\n") || json.Unmarshal([]byte(data), &got) != nil || len(got) != len(value) {
			t.Fatalf("got %q", line)
		}
		for k, v := range value {
			if got[k] != v {
				t.Errorf("got %q, want %q", got[k], v)
			}
		}
	})
}

func TestJobLineHoldsWhatIsKnownOfTheJob(t *testing.T) {
	job := newJob(`{"kind":"<Cox>"}`)
	job.Metadata = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	job.ScheduleAt = job.EnqueuedAt.Add(time.Second)
	line, err := newJobLine(t.Context(), job, 25)
	want := `{"type":"job","id":"7","queue":"apples","task":"","attempt":1,"max_attempts":25,` +
		`"enqueued_at":"2026-05-04T03:02:01.000005Z","schedule_at":"2026-05-04T03:02:02.000005Z",` +
		`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","data":{"kind":"<Cox>"}}` + "\n"
	if string(line) != want || err != nil {
		t.Errorf("got  %s (%v)\nwant %s", line, err, want)
	}
	job.Data = nil
	if line, err := newJobLine(t.Context(), job, 0); err != nil || !strings.HasSuffix(string(line), `"data":null}`+"\n") {
		t.Errorf("got %s (%v), want null for no data", line, err)
	}
}

func FuzzOutcomeLine(f *testing.F) {
	for _, line := range []string{
		`{"id":"7","outcome":"done"}`, `{"id":"7","outcome":"retry","error":"worm","delay":1.5}`, `{"id":"7","outcome":"snooze","delay":1e300}`,
		`{"id":"7","outcome":"discard"}`, `{"id":"7","outcome":"fail"}`, `{"ready":true,"protocol":1}`, `[[[[`, "\xff", `null`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		outcome, _, err := parseOutcome(line, "7")
		if err != nil {
			if outcome != nil || err.Error() == "" || len(err.Error()) > 1000 {
				t.Errorf("got %v with the error %v, want a bounded error alone", outcome, err)
			}
			return
		}
		if !json.Valid(line) {
			t.Errorf("got %v for what is no JSON, want an error", outcome)
		}
		if outcome == nil {
			return
		}
		if delay, _ := retry.Decide(retry.Fixed(0), 1, 5, outcome); delay < 0 || delay > retry.MaxDelay {
			t.Errorf("got a delay of %v", delay)
		}
	})
}
