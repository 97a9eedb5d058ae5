package store

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgtype"
)

func FuzzParsePosition(f *testing.F) {
	for _, p := range []position{
		{Queue: "apples", Part: partReady, ID: 1},
		{Queue: "ä/\t\"", Part: partScheduled, Schedule: pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}, ID: -1},
		{Queue: "apples", Part: partOut, ID: 1 << 62},
	} {
		f.Add(p.String())
	}
	for _, text := range []string{"", "e30", "eyJxIjoiIn0", "====", "nonsense", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePosition(text)
		if err != nil {
			if !errors.Is(err, ErrCursor) || p.set() {
				t.Fatalf("got %+v, %v, want an ErrCursor and no position", p, err)
			}
			return
		}
		if !p.set() {
			if text != "" {
				t.Fatalf("%q was read as no position", text)
			}
			return
		}
		again, err := parsePosition(p.String())
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			t.Fatalf("%q is not read back as it was: %v\n%s", text, err, diff)
		}
	})
}
