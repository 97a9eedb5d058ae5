// show: one job, with all that is known of it.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func (a *app) showCommand() *cobra.Command {
	var asJSON, raw bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a job, and who runs it",
		Long: `Shows a job: its state, times, attempts, last error, data and metadata, and if it is running, the session that holds it. When
there is no such job it exits with 4: a job that is done is deleted.

A role needs usage on the schema beside the table, and select on its tables and the queue table; the address and the
start of a session are shown to members of pg_read_all_stats.`,
		Example: `  pq-dispatch show 42
  pq-dispatch show 42 --raw | jq .kind`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the data only, as one line of JSON")
	cmd.MarkFlagsMutuallyExclusive("json", "raw")
	cmd.RunE = a.withStore(func(ctx context.Context, jobs *store.Store, args []string) error {
		id, err := jobID(args[0])
		if err != nil {
			return err
		}
		d, err := jobs.Find(ctx, id)
		switch {
		case errors.Is(err, store.ErrGone):
			return fmt.Errorf("%w with the id %d: it never was, or it is done", errNoJob, id)
		case err != nil:
			return err
		case raw:
			return a.printJob(&store.Job{Data: d.Data}, false)
		case asJSON:
			return printJSON(a.stdout, view.DetailsOf[int64](d))
		}
		return a.printDetails(d)
	})
	return cmd
}

func (a *app) printDetails(d *store.Details) error {
	attempt := strconv.Itoa(d.Attempt)
	if d.MaxAttempts > 0 {
		attempt += fmt.Sprintf(" of %d", d.MaxAttempts)
	}
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, line := range []struct{ name, value string }{
		{"id", strconv.FormatInt(d.ID, 10)},
		{"queue", cell(d.Queue)},
		{"state", string(d.State)},
		{"held by", holder(d.Holder)},
		{"task", cell(d.Task)},
		{"attempt", attempt},
		{"enqueued at", optional(d.EnqueuedAt)},
		{"scheduled at", optional(d.ScheduleAt)},
		{"expected at", optional(d.ExpectedAt)},
		{"dequeued at", optional(d.DequeuedAt)},
		{"last error", oneLine(d.LastError)},
	} {
		if line.value != "" {
			fmt.Fprintf(table, "%s\t%s\n", line.name, line.value)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		text json.RawMessage
	}{{"metadata", d.Metadata}, {"data", d.Data}} {
		if part.text == nil {
			continue
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, part.text, "", "  "); err != nil {
			return err // the server's jsonb is always JSON
		}
		if _, err := fmt.Fprintf(a.stdout, "\n%s\n%s\n", part.name, printable(pretty.String())); err != nil {
			return err
		}
	}
	return nil
}

func optional(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func holder(h *store.Holder) string {
	if h == nil {
		return ""
	}
	who := "a session"
	if h.IsDispatcher {
		who = fmt.Sprintf("dispatcher %d", h.Dispatcher)
	}
	who += fmt.Sprintf(", server process %d", h.PID)
	if h.Application != "" {
		who += ", " + strconv.Quote(h.Application)
	}
	if h.Address != "" {
		who += " at " + h.Address
	}
	if !h.ClaimedAt.IsZero() {
		who += ", since " + instant(h.ClaimedAt)
	}
	return who
}

// printable writes what could control a terminal as JSON's escapes. Outside of strings JSON has none.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			high, low := (r-0x10000)>>10+0xD800, (r-0x10000)&0x3FF+0xDC00
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
