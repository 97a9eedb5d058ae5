package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

const canary = "canary-81d0"

func TestTheLevelChangesWhileTheProgramRuns(t *testing.T) {
	for _, format := range []string{"auto", "json", "text"} {
		var out bytes.Buffer
		level := new(slog.LevelVar)
		log, err := NewLogger(&out, format, level)
		if err != nil {
			t.Fatal(err)
		}
		derived := log.With("queue", "apples")
		derived.Debug("one")
		level.Set(slog.LevelDebug)
		derived.Debug("two")
		level.Set(slog.LevelError)
		derived.Warn("three")
		if got := out.String(); strings.Contains(got, "one") || !strings.Contains(got, "two") || strings.Contains(got, "three") {
			t.Errorf("%s: got %q, want the second message only", format, got)
		}
	}
}

func TestALogThatIsNoTerminalIsJSONWithoutColour(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(&out, "auto", slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("job failed", "queue", "apples", "error", errors.New("it was sour"))
	var line struct{ Level, Msg, Queue, Error string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("got %q, want JSON: %v", out.String(), err)
	}
	if line.Level != "WARN" || line.Msg != "job failed" || line.Queue != "apples" || line.Error != "it was sour" {
		t.Errorf("got %+v, want level, message, queue and error", line)
	}

	out.Reset()
	if log, err = NewLogger(&out, "text", slog.LevelInfo); err != nil {
		t.Fatal(err)
	}
	log.Warn("job failed", "error", errors.New("it was sour"))
	if got := out.String(); strings.Contains(got, "\x1b") || !strings.Contains(got, "WRN job failed error=") {
		t.Errorf("got %q, want text without colours", got)
	}
}

func TestAnUnknownLogFormatIsRefused(t *testing.T) {
	if _, err := NewLogger(&bytes.Buffer{}, "xml", slog.LevelInfo); err == nil || !strings.Contains(err.Error(), "auto, json or text") {
		t.Errorf("got %v, want an error that names the formats", err)
	}
}

func TestADurationIsLoggedWithItsUnit(t *testing.T) {
	for format, want := range map[string]string{"json": `"grace":"1m30s"`, "text": "grace=1m30s"} {
		var out bytes.Buffer
		log, err := NewLogger(&out, format, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("stopping", "grace", 90*time.Second)
		if got := out.String(); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %s", format, got, want)
		}
	}
}

func TestNoDataAndNoSecretReachesTheLog(t *testing.T) {
	raw := &store.Job{ID: 7, Queue: "apples", Data: json.RawMessage(`"` + canary + `"`)}
	tests := map[string]struct {
		key   string
		value any
		want  string // stands in the log as well
	}{
		"a job":                    {"job", raw, "7 of apples"},
		"a job that is handled":    {"job", &dispatcher.Job{Job: raw}, "7 of apples"},
		"no job":                   {"job", (*store.Job)(nil), "job"},
		"none that is handled":     {"job", (*dispatcher.Job)(nil), "job"},
		"a token":                  {"api_token", canary, hidden},
		"a password of any type":   {"Password", []string{canary}, hidden},
		"an address":               {"url", "postgres://pq:" + canary + "@db:5432/jobs", "postgres://pq:***@db:5432/jobs"},
		"an address without user":  {"url", "redis://:" + canary + "@db", "redis://:***@db"},
		"a connection string":      {"dsn", "host=db password=" + canary + " user=pq", "host=db password=*** user=pq"},
		"a quoted password":        {"dsn", `password='a \' ` + canary + `' user=pq`, "user=pq"},
		"an error with an address": {"error", errors.New("dial https://u:" + canary + "@host/x: refused"), "refused"},
		"in a group":               {"config", slog.GroupValue(slog.String("secret", canary), slog.Int("size", 3)), "size"},
	}
	for name, test := range tests {
		for _, format := range []string{"json", "text"} {
			var out bytes.Buffer
			log, err := NewLogger(&out, format, slog.LevelInfo)
			if err != nil {
				t.Fatal(err)
			}
			log.With(test.key, test.value).Info("with")
			log.Info("message", test.key, test.value)
			if got := out.String(); strings.Contains(got, canary) || strings.Count(got, test.want) < 2 {
				t.Errorf("%s, %s: got %s, want %q and no canary", name, format, got, test.want)
			}
		}
	}
}

func TestWhatHidesNoSecretIsLoggedAsItIs(t *testing.T) {
	for _, s := range []string{"", "plain", "https://host:443/path", "someone@example.org", "äöü"} {
		if got := cleanText(s); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	}
}

func TestALongErrorIsCut(t *testing.T) {
	text := strings.Repeat("ä", maxText) // twice as many bytes
	got := clean(nil, slog.Any("error", errors.New("x"+text))).Value.String()
	if len(got) > maxText+40 || !strings.HasPrefix(got, "xää") || !strings.Contains(got, "bytes more)") || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("got %d bytes ending in %q, want it cut between two letters", len(got), got[len(got)-40:])
	}
}

// What comes out of a log line is valid and shows nothing new, whatever goes in.
func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"a://b:c@d", "password='x", "password=\x00", "://:@", strings.Repeat("x", maxText+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := cleanText(s)
		if len(got) > maxText+40 {
			t.Errorf("got %d bytes of %d, want it cut", len(got), len(s))
		}
		if secret := "s3cr3t" + canary; !strings.ContainsAny(s, " \t\n\r\f\v@/:'\\=") {
			if got := cleanText("postgres://user:" + secret + s + "@host/db"); strings.Contains(got, secret) {
				t.Errorf("got %q, want no password", got)
			}
		}
	})
}
