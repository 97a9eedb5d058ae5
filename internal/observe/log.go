// Package observe is how the daemon shows what it does: its log, its metrics and its traces.
//
// The library speaks to OpenTelemetry's API only; here stands the SDK behind it. Metrics are for
// Prometheus to fetch, and go with the traces to a collector if the standard's OTEL_* variables name one.
package observe

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// NewLogger returns a logger that writes to w as format says: "json"; "text", for people; or "auto", which is
// text on a terminal and JSON elsewhere. The level is read at each call, so that a [slog.LevelVar] changes
// it while the program runs.
//
// A job that is logged is its id and its queue, never its data. The values of attributes whose names say that
// they are secret are hidden, and so are passwords in addresses, wherever they stand.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	terminal := isTerminal(w)
	if format == "auto" {
		format = "json"
		if terminal {
			format = "text"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: clean})), nil
	case "text":
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level:       level,
			ReplaceAttr: clean,
			TimeFormat:  time.DateTime,
			NoColor:     !terminal || os.Getenv("NO_COLOR") != "",
		})), nil
	}
	return nil, fmt.Errorf("observe: log format %q: choose auto, json or text", format)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// maxText is how many bytes of a value are logged. The error of a handler can be as long as what a
// program has written before it failed.
const maxText = 4 << 10

// clean is what stands between a value and the log.
func clean(_ []string, a slog.Attr) slog.Attr {
	if secretName.MatchString(a.Key) {
		return slog.String(a.Key, hidden)
	}
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(cleanText(v))
	case time.Duration: // which JSON would have in nanoseconds, without a word
		a.Value = slog.StringValue(v.String())
	case *store.Job:
		a.Value = job(v)
	case *dispatcher.Job:
		if v == nil {
			break
		}
		a.Value = job(v.Job)
	case error: // as an error for as long as possible: a terminal shows it in a colour of its own
		if text := v.Error(); cleanText(text) != text {
			a.Value = slog.StringValue(cleanText(text))
		}
	}
	return a
}

func job(j *store.Job) slog.Value {
	if j == nil {
		return slog.Value{}
	}
	return slog.StringValue(fmt.Sprintf("%d of %s", j.ID, j.Queue))
}

const hidden = "***"

var (
	secretName = regexp.MustCompile(`(?i)password|passwd|secret|token|authorization|signature`)
	inURL      = regexp.MustCompile(`(://[^\s/:@]*):[^\s@]*@`)                          // user:password@
	inDSN      = regexp.MustCompile(`(?i)\b((?:ssl)?password)=('(?:[^'\\]|\\.)*'|\S+)`) // password='...'
)

func cleanText(s string) string {
	if strings.Contains(s, "://") {
		s = inURL.ReplaceAllString(s, "$1:"+hidden+"@")
	}
	if strings.Contains(s, "assword") || strings.Contains(s, "ASSWORD") {
		s = inDSN.ReplaceAllString(s, "$1="+hidden)
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + fmt.Sprintf("... (%d bytes more)", len(s)-maxText)
	}
	return s
}
