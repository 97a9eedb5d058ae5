package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
)

// hard is JSON that is well-formed, and hard on jsonb in one way or another.
var hard = []string{
	`null`, `""`, `{}`, `[]`, `"a\"b\\"`, `"\\u0000"`, `"\u0000"`, `"\\\u0000"`, `{"\u0000":1}`, `"\u00e9"`, "\"\u00e9\"", `"\u0001"`,
	`"\ud800"`, `"\udc00"`, `"\ud83d\ude00"`, `"\ud83d\ud83d"`, `"\ude00\ud83d"`, `"\ud83dx"`, `"\uD83D\uDE00"`, `"\ud83d\\ude00"`, `"\ufffd"`, `"\uffff"`,
	`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":{"a":1},"b":[{"a":1},{"a":2}]}`, `[{"a":1,"b":{"c":1,"c":2}}]`, `{"":1,"":2}`, `{"a" : 1 , "a" : 2}`,
	`1e1000`, `1e1001`, `-1e-1000`, `1E+5`, `1e99999999999999999999`, `0.` + strings.Repeat("0", 4000) + `1`, strings.Repeat("9", 5000), `-0`, `-0.0e-0`, `1.0`,
	`[1e999,1e999,1e999]`, strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat("[", 1001) + strings.Repeat("]", 1001),
	strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000), strings.Repeat("[", 20000) + strings.Repeat("]", 20000),
	" [ 1 , 2 ] ", "\"\x7f\"", "\"\xff\"", `"` + strings.Repeat("x", 100000) + `"`,
}

func TestCheckJSONRefuses(t *testing.T) {
	for _, c := range []struct{ json, reason string }{
		{`"\u0000"`, "NUL"},
		{`{"a":{"\u0000":1}}`, "NUL"},
		{`"\\\u0000"`, "NUL"},
		{`"\ud800"`, "surrogate"},
		{`"\ude00\ud83d"`, "surrogate"},
		{`"\ud83d\\ude00"`, "surrogate"},
		{"\"\xed\xa0\x80\"", "UTF-8"},
		{`{"a":1,"a":2}`, "twice"},
		{`{"a":1,"\u0061":2}`, "twice"},
		{`[{"b":{"c":1,"c":2}}]`, "twice"},
		{`1e1001`, "exponent"},
		{`[-1e-1001]`, "exponent"},
		{`1e99999999999999999999`, "exponent"},
		{strings.Repeat("9", 5000), "digits"},
		{strings.Repeat("[", 1001) + strings.Repeat("]", 1001), "deep"},
	} {
		if _, err := checkJSON([]byte(c.json)); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("checkJSON(%.40s): got %v, want ErrData with %q", c.json, err, c.reason)
		}
	}
	for _, text := range []string{`"\\u0000"`, `"\ud83d\ude00"`, `{"a":{"a":1},"b":[{"a":1},{"a":2}]}`, `-1.5e-1000`, `["a","a"]`} {
		if _, err := checkJSON([]byte(text)); err != nil {
			t.Errorf("checkJSON(%s): got %v, want no error", text, err)
		}
	}
}

// Whatever the check lets through, PostgreSQL takes as jsonb and gives back with the same content.
func FuzzCheckJSON(f *testing.F) {
	conn, err := pgx.Connect(f.Context(), pgtest.Database(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close(f.Context()) })
	for _, text := range hard {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return // encode makes none
		}
		size, err := checkJSON(data)
		if err != nil {
			if !errors.Is(err, ErrData) {
				t.Fatalf("got %v, want ErrData", err)
			}
			return
		}
		var back []byte
		if err := conn.QueryRow(t.Context(), `select $1::jsonb::text`, string(data)).Scan(&back); err != nil {
			t.Fatalf("PostgreSQL refuses %q: %v", data, err)
		}
		if want, got := contentOf(t, data), contentOf(t, back); !equalContent(want, got) {
			t.Fatalf("put %q, got back %q", data, back)
		}
		if spaces := bytes.Count(data, []byte(",")) + bytes.Count(data, []byte(":")); len(back) > size+spaces+2*len(data) {
			t.Fatalf("%q: got %d bytes from PostgreSQL, want about %d", data, len(back), size)
		}
	})
}

// contentOf reads JSON with its numbers as they stand.
func contentOf(t *testing.T, data []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decode %q: %v", data, err)
	}
	return v
}

// equalContent compares all but the numbers, which PostgreSQL may write otherwise.
func equalContent(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key, value := range a {
			other, ok := b[key]
			if !ok || !equalContent(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equalContent(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		_, ok := b.(json.Number)
		return ok
	default:
		return a == b
	}
}
