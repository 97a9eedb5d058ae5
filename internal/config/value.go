package config

// One value: from text, and back.

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// Size is a number of bytes, written as 64KiB, 1MiB, 1GiB, or a plain number of bytes.
type Size int64

var sizeUnits = []struct {
	name string
	size Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String is the size in the largest unit that leaves no fraction.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return "0B"
}

var errSize = errors.New("write a size such as 64KiB, 1MiB or 1GiB, or a number of bytes")

func parseSize(s string) (Size, error) {
	unit := Size(1)
	for _, u := range sizeUnits {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = number, u.size
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || Size(n) > math.MaxInt64/unit {
		return 0, errSize
	}
	return Size(n) * unit, nil
}

var errDuration = errors.New("write a duration with its unit, such as 250ms, 30s, 5m, 1h30m or 2d")

// parseDuration reads what Go does, and days.
func parseDuration(s string) (time.Duration, error) {
	if d, err := store.ParseDelay(s); err == nil {
		return d, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDuration
	}
	return d, nil
}

// formatDuration is d without the zeros at its end: 1h, not 1h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parse sets v to a scalar, or says what it must be. A message never repeats a value that may be secret.
func (k *key) parse(v reflect.Value, n *node) error {
	// What is a text in the file must be one for the key: "5" in quotes is no number, as in the schema.
	is := func(kinds ...nodeKind) bool { return n.kind == word || slices.Contains(kinds, n.kind) }
	var err error
	switch {
	case k.typ == typeDuration:
		var d time.Duration
		if d, err = parseDuration(n.text); !is(text) && n.text != "0" || err != nil {
			return k.refuse(n, errDuration.Error())
		}
		v.SetInt(int64(d))
	case k.typ == typeSize:
		var s Size
		if s, err = parseSize(n.text); !is(text, number) || err != nil {
			return k.refuse(n, errSize.Error())
		}
		v.SetInt(int64(s))
	case k.typ.Kind() == reflect.Int:
		i, err := strconv.ParseInt(n.text, 10, 64)
		if !is(number) || err != nil {
			return k.refuse(n, "write a whole number"+k.bounds())
		}
		v.SetInt(i)
	case k.typ.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(n.text, 64)
		if !is(number) || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return k.refuse(n, "write a number"+k.bounds())
		}
		v.SetFloat(f)
	case k.typ.Kind() == reflect.Bool:
		if !is(boolean) || n.text != "true" && n.text != "false" {
			return k.refuse(n, "write true or false")
		}
		v.SetBool(n.text == "true")
	default: // a text; a number or true as an argument or a variable is taken as it is written
		if !is(text, number, boolean) {
			return k.refuse(n, "write a text")
		}
		if strings.ContainsRune(n.text, 0) {
			return errors.New("it contains NUL")
		}
		if len(k.words) > 0 && !slices.Contains(k.words, n.text) {
			return k.refuse(n, "use "+choice(k.words)+didYouMean(n.text, k.words))
		}
		v.SetString(n.text)
	}
	if !k.within(v) {
		return k.refuse(n, "allowed is"+k.bounds())
	}
	return nil
}

func (k *key) refuse(n *node, advice string) error {
	if n.kind >= list || n.kind == null {
		return fmt.Errorf("got %v; %s", n.kind, advice)
	}
	switch k.typ {
	case typeSecret, typeAddress, typeEndpoint:
		return errors.New(advice)
	}
	return fmt.Errorf("got %.40q; %s", n.text, advice)
}

// bounds says which numbers are allowed.
func (k *key) bounds() string {
	switch {
	case k.min == "":
		return ""
	case k.max == "":
		return " from " + k.min
	}
	return " from " + k.min + " to " + k.max
}

func (k *key) within(v reflect.Value) bool {
	return (k.min == "" || k.limit(k.min) <= numeric(v)) && (k.max == "" || numeric(v) <= k.limit(k.max))
}

// limit is a bound of the key's range as a number.
func (k *key) limit(s string) float64 {
	v := reflect.New(k.typ).Elem()
	unbounded := key{typ: k.typ}
	if err := unbounded.parse(v, &node{kind: word, text: s}); err != nil {
		panic("config: range of " + k.path + ": " + err.Error())
	}
	return numeric(v)
}

func numeric(v reflect.Value) float64 {
	if v.CanFloat() {
		return v.Float()
	}
	return float64(v.Int())
}

// format is the scalar v as a node that can be shown.
func format(v reflect.Value) *node {
	switch x := v.Interface().(type) {
	case time.Duration:
		return &node{kind: text, text: formatDuration(x)}
	case fmt.Stringer: // a size, or something that hides what is secret
		return &node{kind: text, text: x.String()}
	case bool:
		return &node{kind: boolean, text: strconv.FormatBool(x)}
	case int:
		return &node{kind: number, text: strconv.Itoa(x)}
	case float64:
		return &node{kind: number, text: strconv.FormatFloat(x, 'g', -1, 64)}
	}
	return &node{kind: text, text: v.String()}
}

// choice lists words: a, b or c.
func choice(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
