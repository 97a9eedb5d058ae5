// What a jsonb column refuses, or would change in silence, found before any SQL is sent: so that
// one bad value is an error about that value, not about the statement or the batch it is in.

package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	maxDepth    = 1000 // levels of nesting; PostgreSQL's own limit depends on max_stack_depth
	maxDigits   = 4096 // of a number, its sign, point and exponent included
	maxExponent = 1000 // of a number; PostgreSQL's numeric would spell out all of its digits
)

// checkJSON looks through well-formed JSON for what jsonb cannot hold, or would hold otherwise: of a
// repeated key it keeps the last. It returns how large the data is when PostgreSQL writes it out,
// where 1e9 has ten digits.
func checkJSON(data []byte) (size int, err error) {
	if !utf8.Valid(data) {
		return 0, fmt.Errorf("%w: it is not valid UTF-8", ErrData)
	}
	size = len(data)
	var keys []string // of all the objects that are open
	var opened []int  // for each array or object that is open: how many keys there were before it
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			end, err := checkString(data, i+1)
			if err != nil {
				return 0, err
			}
			if isKey(data[end+1:]) {
				keys = append(keys, unquote(data[i:end+1]))
			}
			i = end
		case c == '{' || c == '[':
			if opened = append(opened, len(keys)); len(opened) > maxDepth {
				return 0, fmt.Errorf("%w: nested more than %d deep", ErrData, maxDepth)
			}
		case c == '}' || c == ']':
			first := opened[len(opened)-1]
			if err := checkKeys(keys[first:]); err != nil {
				return 0, err
			}
			keys, opened = keys[:first], opened[:len(opened)-1]
		case c == '-' || isDigit(c):
			end := i + 1
			for end < len(data) && (isDigit(data[end]) || bytes.IndexByte([]byte("+-.eE"), data[end]) >= 0) {
				end++
			}
			more, err := checkNumber(data[i:end])
			if err != nil {
				return 0, err
			}
			size += more
			i = end - 1
		}
	}
	return size, nil
}

// isKey tells from what follows a string whether it is the key of an object.
func isKey(rest []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte(":")) }

// unquote reads a well-formed JSON string.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // it is well-formed
	return s
}

// checkKeys refuses a key that stands twice in an object. It sorts keys.
func checkKeys(keys []string) error {
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return fmt.Errorf("%w: the key %.80q stands twice in an object", ErrData, keys[i])
		}
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// checkNumber refuses numbers that PostgreSQL's numeric cannot hold, or holds only as a thousand
// digits. It returns how many digits an exponent stands for.
func checkNumber(number []byte) (more int, err error) {
	if len(number) > maxDigits {
		return 0, fmt.Errorf("%w: a number has %d digits; the limit is %d", ErrData, len(number), maxDigits)
	}
	e := bytes.IndexAny(number, "eE")
	if e < 0 {
		return 0, nil
	}
	exponent, err := strconv.Atoi(string(number[e+1:]))
	if err != nil || exponent > maxExponent || exponent < -maxExponent {
		return 0, fmt.Errorf("%w: a number has the exponent %.20s; the limit is %d", ErrData, number[e+1:], maxExponent)
	}
	return max(exponent, -exponent), nil
}

// checkString looks through the string that starts at data[i] and returns where it ends.
func checkString(data []byte, i int) (end int, err error) {
	for ; data[i] != '"'; i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		if data[i] != 'u' {
			continue
		}
		switch r := escape(data[i:]); {
		case r == 0:
			return 0, fmt.Errorf("%w: a string contains NUL (\\u0000), which PostgreSQL cannot store", ErrData)
		case 0xDC00 <= r && r <= 0xDFFF:
			return 0, fmt.Errorf("%w: a string contains half of a surrogate pair (\\u%04x)", ErrData, r)
		case 0xD800 <= r && r <= 0xDBFF:
			next := data[i+5:]
			if len(next) < 6 || next[0] != '\\' || next[1] != 'u' || escape(next[1:])&^0x3FF != 0xDC00 {
				return 0, fmt.Errorf("%w: a string contains half of a surrogate pair (\\u%04x)", ErrData, r)
			}
			i += 6
		}
		i += 4
	}
	return i, nil
}

// escape reads the four digits of uXXXX.
func escape(b []byte) uint64 {
	r, _ := strconv.ParseUint(string(b[1:5]), 16, 32)
	return r
}

// checkValue finds what json.Marshal has changed in silence: invalid UTF-8 in a Go string becomes
// the six characters \ufffd.
func checkValue(v any, data []byte) error {
	if bytes.Contains(data, []byte(`\ufffd`)) && hasInvalidUTF8(reflect.ValueOf(v), 0) {
		return fmt.Errorf("%w: a string is not valid UTF-8 (use []byte for bytes)", ErrData)
	}
	return nil
}

// hasInvalidUTF8 looks through the strings of a value as json.Marshal would.
func hasInvalidUTF8(v reflect.Value, depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Interface, reflect.Pointer:
		return !v.IsNil() && hasInvalidUTF8(v.Elem(), depth+1)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if hasInvalidUTF8(field, depth+1) {
				return true
			}
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			if hasInvalidUTF8(entry.Key(), depth+1) || hasInvalidUTF8(entry.Value(), depth+1) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return false // bytes, not text
		}
		for i := range v.Len() {
			if hasInvalidUTF8(v.Index(i), depth+1) {
				return true
			}
		}
	}
	return false
}
