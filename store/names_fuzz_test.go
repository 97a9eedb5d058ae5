package store_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// The name of a queue is any text, and goes to the database as a value.
func FuzzQueueName(f *testing.F) {
	for _, name := range []string{
		"", "apples", "apples/json", "apples/gob", "apples/pickle", "a/b/json", "/", "/json", "//gob", "'; drop table queue; --", `"`, "$1", "\x00", "\xff", "é",
		strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat("x", 200) + "/gob", "a\nb", "0 apples", "*", "bucket 1", "\ufeff", "\u202e",
	} {
		f.Add(name)
	}
	jobs := store.New(nil, store.Options{})
	f.Fuzz(func(t *testing.T, given string) {
		if plain, suffixed := jobs.Plain(given), jobs.Queue(given+"/json"); plain.Name() != suffixed.Name() || (plain.Err() == nil) != (suffixed.Err() == nil) {
			t.Errorf("%q: got the plain queue %q, %v, want that with a suffix: %q, %v", given, plain.Name(), plain.Err(), suffixed.Name(), suffixed.Err())
		}
		q := jobs.Queue(given)
		if err := q.Err(); err != nil {
			if !errors.Is(err, store.ErrQueueName) && !errors.Is(err, store.ErrCodec) || len(err.Error()) > 1000 {
				t.Errorf("%q: got %v, want ErrQueueName or ErrCodec, and a text that is bounded", given, err)
			}
			return
		}
		name := q.Name()
		if name == "" || len(name) > 200 || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			t.Errorf("%q: got the name %q, want what the table can hold", given, name)
		}
		if suffix, cut := strings.CutPrefix(given, name); !cut || suffix != "" && suffix != "/json" && suffix != "/gob" {
			t.Errorf("%q: got the name %q, want it with a codec's suffix cut off", given, name)
		}
		if again := jobs.Queue(name + "/json"); again.Err() != nil || again.Name() != name {
			t.Errorf("%q: got %q, %v for its name again", given, again.Name(), again.Err())
		}
	})
}
