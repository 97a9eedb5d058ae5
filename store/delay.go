package store

// Delays as text: "30s", "5m", "1h", "2d", as Python's pq reads them, and "1d12h". Strict where pq is
// not: it reads one number with one letter and ignores the rest, so that "5m30s" means five minutes
// there and "250ms" 250 minutes; here the whole text counts, or is refused.

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DelayError is a text that [ParseDelay] does not accept.
type DelayError struct {
	Spec   string // the text, whole
	Reason string // what is wrong with it
}

func (e *DelayError) Error() string {
	return fmt.Sprintf(`store: delay %s: %s; write whole numbers with the units d, h, m, s, ms, largest first, as in "30s", "1h30m" or "1d12h"`,
		excerpt(e.Spec), e.Reason)
}

type delayUnit struct {
	name string
	size time.Duration
}

// delayUnits are in the order in which they may follow each other.
var delayUnits = []delayUnit{
	{"d", 24 * time.Hour},
	{"h", time.Hour},
	{"m", time.Minute},
	{"s", time.Second},
	{"ms", time.Millisecond},
}

// ParseDelay reads a delay such as "30s", "5m", "1h", "2d", "250ms" or "1d12h": whole decimal
// numbers, each with its unit, units from large to small and each at most once. A day is 24 hours.
// A sign, a space, a fraction, an empty text, or more than a time.Duration holds (about 106 751
// days) is a [*DelayError].
func ParseDelay(s string) (time.Duration, error) {
	refuse := func(format string, args ...any) (time.Duration, error) {
		return 0, &DelayError{Spec: s, Reason: fmt.Sprintf(format, args...)}
	}
	if s == "" {
		return refuse("it is empty")
	}
	var total time.Duration
	firstAllowed := 0 // in delayUnits; those before are used up or too large by now
	for rest := s; rest != ""; {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		rest = rest[len(number):]
		if number == "" {
			return refuse("a number is missing before %s", excerpt(rest))
		}
		name := rest
		if end := strings.IndexAny(rest, "0123456789"); end >= 0 {
			name = rest[:end]
		}
		rest = rest[len(name):]

		i := slices.IndexFunc(delayUnits, func(u delayUnit) bool { return u.name == name })
		switch {
		case name == "":
			return refuse("the number %s has no unit", excerpt(number))
		case i < 0:
			return refuse("unit %s is unknown", excerpt(name))
		case i < firstAllowed:
			return refuse("unit %s is repeated or comes after a smaller one", excerpt(name))
		}
		unit := delayUnits[i]
		firstAllowed = i + 1
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/unit.size) {
			return refuse("it is too long, the limit is about 106751 days")
		}
		total += time.Duration(n) * unit.size
	}
	return total, nil
}

// excerpt quotes text from outside for a message, at most its first 40 bytes.
func excerpt(s string) string {
	const limit = 40
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:limit]) + "..."
}
