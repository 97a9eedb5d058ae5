package store

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestParseDelayReadsNumbersWithUnits(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		spec string
		want time.Duration
	}{
		{"30s", 30 * time.Second},
		{"5m", 5 * time.Minute},
		{"1h", time.Hour},
		{"2d", 2 * day},
		{"250ms", 250 * time.Millisecond},
		{"0s", 0},
		{"0d0h0m0s0ms", 0},
		{"007s", 7 * time.Second},
		{"1d12h", 36 * time.Hour},
		{"1h30m", 90 * time.Minute},
		{"1d2h3m4s5ms", day + 2*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Millisecond},
		{"1m1ms", time.Minute + time.Millisecond},
		{"90s", 90 * time.Second},
		{"1h90m", 150 * time.Minute},
		{"106751d", 106751 * day},
		{"9223372036854ms", 9223372036854 * time.Millisecond},
		{"106751d23h47m16s854ms", 9223372036854 * time.Millisecond},
		{strings.Repeat("0", 1000) + "1s", time.Second},
	} {
		got, err := ParseDelay(c.spec)
		if got != c.want || err != nil {
			t.Errorf("ParseDelay(%q): got %v, %v, want %v, no error", c.spec, got, err, c.want)
		}
	}
}

func TestParseDelayRefusesEverythingElse(t *testing.T) {
	for _, c := range []struct{ spec, reason string }{
		{"", "empty"},
		{" ", "number is missing"},
		{"s", "number is missing"},
		{"-5s", "number is missing"},
		{"+5s", "number is missing"},
		{" 5s", "number is missing"},
		{".5s", "number is missing"},
		{"٣s", "number is missing"}, // an Arabic-Indic three, which Python's \d takes
		{"\xff", "number is missing"},
		{"5s ", "unknown"},
		{"5 s", "unknown"},
		{"1.5h", "unknown"},
		{"1,5h", "unknown"},
		{"1h 30m", "unknown"},
		{"1h-30m", "unknown"},
		{"5S", "unknown"},
		{"5M", "unknown"},
		{"5us", "unknown"},
		{"5µs", "unknown"},
		{"5ns", "unknown"},
		{"5w", "unknown"},
		{"5sm", "unknown"},
		{"5min", "unknown"},
		{"5s\x00", "unknown"},
		{"5s\n", "unknown"},
		{"0x5s", "unknown"},
		{"1_000s", "unknown"},
		{"1e3s", "unknown"},
		{"5", "no unit"},
		{"0", "no unit"},
		{"1h30", "no unit"},
		{"5s5s", "repeated"},
		{"30m1h", "smaller"},
		{"1ms1s", "smaller"},
		{"1d1h1d", "smaller"},
		{"106752d", "too long"},
		{"9223372036855ms", "too long"},
		{"106751d23h47m16s855ms", "too long"},
		{"106751d24h", "too long"},
		{"9223372036854775807d", "too long"},
		{"9223372036854775808ms", "too long"},
		{strings.Repeat("9", 10_000) + "s", "too long"},
	} {
		got, err := ParseDelay(c.spec)
		bad, ok := errors.AsType[*DelayError](err)
		if !ok || got != 0 {
			t.Errorf("ParseDelay(%.50q): got %v, %v, want 0 and a *DelayError", c.spec, got, err)
			continue
		}
		if bad.Spec != c.spec || !strings.Contains(bad.Reason, c.reason) {
			t.Errorf("ParseDelay(%.50q): got reason %q for %.50q, want one with %q", c.spec, bad.Reason, bad.Spec, c.reason)
		}
	}
}

func TestDelayErrorsAreShortPrintableAndTellTheForm(t *testing.T) {
	for _, spec := range []string{
		"soon",
		strings.Repeat("x", 1<<20),
		strings.Repeat("1", 1<<20),
		"1" + strings.Repeat("\x00", 1<<20),
		strings.Repeat("é", 1<<10),
		"1\x1b[31m\n\xff",
	} {
		_, err := ParseDelay(spec)
		if err == nil {
			t.Errorf("ParseDelay(%.20q): got no error", spec)
			continue
		}
		text := err.Error()
		if len(text) > 600 {
			t.Errorf("ParseDelay(%.20q): got a message of %d bytes, want at most 600", spec, len(text))
		}
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\x00\x1b") {
			t.Errorf("ParseDelay(%.20q): got %q, want printable text", spec, text)
		}
		if !strings.HasPrefix(text, "store: delay ") || !strings.Contains(text, "1h30m") {
			t.Errorf("ParseDelay(%.20q): got %q, want the package and an example of the form", spec, text)
		}
	}
}

// The sum is taken by math/big, so that an overflow cannot hide from its own test.
func TestParseDelayAgreesWithBigIntegers(t *testing.T) {
	numbers := rapid.OneOf(rapid.Int64Range(0, 200), rapid.Int64Range(0, 200_000), rapid.Int64Range(0, math.MaxInt64))
	rapid.Check(t, func(t *rapid.T) {
		var spec strings.Builder
		sum := new(big.Int)
		for _, unit := range delayUnits {
			if rapid.Bool().Draw(t, "has "+unit.name) {
				n := numbers.Draw(t, unit.name)
				fmt.Fprintf(&spec, "%d%s", n, unit.name)
				sum.Add(sum, new(big.Int).Mul(big.NewInt(n), big.NewInt(int64(unit.size))))
			}
		}
		got, err := ParseDelay(spec.String())
		switch fits := sum.IsInt64() && spec.Len() > 0; {
		case fits && (err != nil || int64(got) != sum.Int64()):
			t.Fatalf("ParseDelay(%q): got %d, %v, want %v, no error", spec.String(), got, err, sum)
		case !fits && err == nil:
			t.Fatalf("ParseDelay(%q): got %v, want an error", spec.String(), got)
		}
	})
}

func FuzzParseDelay(f *testing.F) {
	for _, spec := range []string{"", "30s", "5m", "1h", "2d", "250ms", "1d12h", "1d2h3m4s5ms", "-1s", "1 s", "1.5h",
		"1s1s", "1m1h", "00s", "106751d23h47m16s854ms", "106752d", "99999999999999999999s", "1µs", "\xff1s"} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		d, err := ParseDelay(spec)
		if err != nil {
			if _, ok := errors.AsType[*DelayError](err); !ok || d != 0 {
				t.Fatalf("ParseDelay(%q): got %v, %v, want 0 and a *DelayError", spec, d, err)
			}
			_ = err.Error() // must not panic
			return
		}
		if d < 0 {
			t.Fatalf("ParseDelay(%q): got %v, want 0 or more", spec, d)
		}
		if strings.Trim(spec, "0123456789dhms") != "" {
			t.Fatalf("ParseDelay(%q): got %v, want an error for the foreign characters", spec, d)
		}
		again, err := ParseDelay(formatDelay(d))
		if again != d || err != nil {
			t.Fatalf("ParseDelay(%q) is %v; its canonical form %q gives %v, %v, want the same", spec, d, formatDelay(d), again, err)
		}
	})
}

// formatDelay is the inverse of ParseDelay: each unit as large as it can be, zero parts left out.
func formatDelay(d time.Duration) string {
	var b strings.Builder
	for _, unit := range delayUnits {
		if n := d / unit.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			d -= n * unit.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
