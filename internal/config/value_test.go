package config

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// valueOf is the value of a key as text, secrets revealed.
func (c *Config) valueOf(t *testing.T, k *key) string {
	t.Helper()
	switch k.path {
	case "database.url":
		return c.Database.URL.Reveal()
	case "database.direct_url":
		return c.Database.DirectURL.Reveal()
	case "http.api.token":
		return c.HTTP.API.Token.Reveal()
	}
	n := c.tree()
	for name := range strings.SplitSeq(k.path, ".") {
		for _, e := range n.entries {
			if e.key == name {
				n = e.value
				break
			}
		}
	}
	return n.text
}

func TestDurationsAreReadAsWritten(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "250ms": 250 * time.Millisecond, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour,
		"1.5h": 90 * time.Minute, "-1s": -time.Second,
	} {
		if got, err := parseDuration(s); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "5x", "s", "1 s", "d", "1.5d"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}

func TestSizesAreReadAsWritten(t *testing.T) {
	for s, want := range map[string]Size{"0": 0, "5": 5, "7B": 7, "64KiB": 64 << 10, "1MiB": 1 << 20, "8589934591GiB": 8589934591 << 30} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "B", "-1", "1KB", "1K", "1.5MiB", "1 MiB", "8589934592GiB", "9223372036854775808"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}

func TestWhatIsFormattedIsReadAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64().Draw(t, "duration"))
		if got, err := parseDuration(formatDuration(d)); got != d || err != nil {
			t.Errorf("duration %s: got %v, %v", formatDuration(d), got, err)
		}
		s := Size(rapid.Int64Min(0).Draw(t, "size"))
		if got, err := parseSize(s.String()); got != s || err != nil {
			t.Errorf("size %v: got %v, %v", s, got, err)
		}
	})
}

func TestAPathIsReadAsItWasJoined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.StringN(1, 20, -1), 1, 5).Draw(t, "names")
		value := rapid.String().Draw(t, "value")
		path := ""
		for _, name := range names {
			above := path
			path = join(path, name)
			if got := parent(path); got != above {
				t.Fatalf("parent of %s: got %s, want %s", path, got, above)
			}
		}
		got, rest, err := splitAssignment(path + "=" + value)
		if err != nil || rest != value || strings.Join(got, "\x00") != strings.Join(names, "\x00") {
			t.Fatalf("%s: got %q, %q, %v, want %q, %q", path, got, rest, err, names, value)
		}
	})
}

func TestAnyTextIsPrintedSoThatItIsReadAgain(t *testing.T) {
	special := rapid.SampledFrom([]string{"true", "no", "null", "~", "", " ", "1", "1.5", "0x1", "1_000", "1e5", "-", "- a", "a: b", "a:", "#", "a #b", "&a", "*a", "!a", "[a", "{a", "'", "\"", "\\", "\n", "@", "%", "a,b", "a]", "5s", "1MiB", ".inf", "<<", "=", "2020-01-01", "0o7", "\u2028", "\u0085"})
	texts := rapid.OneOf(special, rapid.String(), rapid.StringMatching(`[a-z0-9:/ ,.@-]{0,12}`))
	rapid.Check(t, func(t *rapid.T) {
		name, item, value := texts.Draw(t, "name"), texts.Draw(t, "item"), texts.Draw(t, "value")
		var b strings.Builder
		(&yamlWriter{b: &b, comment: func(string) string { return "a comment" }}).mapping(&node{kind: mapping, entries: []entry{
			{key: name, value: &node{kind: mapping, entries: []entry{{key: "value", value: &node{kind: text, text: value}}}}},
			{key: "last", value: &node{kind: list, items: []*node{{kind: text, text: item}, {kind: text, text: value}}}},
		}}, "", "")
		n, wrong := parseYAML("", b.String())
		if wrong != nil {
			t.Fatalf("%v in\n%s", wrong, b.String())
		}
		got := []string{n.entries[0].key, n.entries[0].value.entries[0].value.text, n.entries[1].value.items[0].text, n.entries[1].value.items[1].text}
		if want := []string{name, value, item, value}; strings.Join(got, "\x00") != strings.Join(want, "\x00") {
			t.Fatalf("got %q, want %q, of\n%s", got, want, b.String())
		}
	})
}

func TestASlipOfTheHandFindsTheName(t *testing.T) {
	known := root().names()
	for slip, want := range map[string]string{
		"concurency": "concurrency", "concurrecny": "concurrency", "Grace": "grace", "swep": "sweep", "quues": "queues", "queus": "queue", "htp": "http", "xyz": "", "x": "", "": "",
	} {
		if got := nearest(slip, known); got != want {
			t.Errorf("%q: got %q, want %q", slip, got, want)
		}
	}
}
