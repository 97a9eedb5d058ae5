package config

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// Whatever the password, and whatever stands around it: no form of an address or an endpoint shows it.
func FuzzNoFormShowsAPassword(f *testing.F) {
	for _, s := range [][2]string{
		{"postgres://app:%s@db/app", "canary-canary"}, {"https://u:%s@h/p", "can/ary-canary"}, {"host=h password=%s", "canary-canary"}, {"host=h password='%s'", "can' canary"},
		{"postgres://app@db/app?password=%s", "canary&canary"}, {"postgres://%s", "canary-canary"}, {"https://h/?token=%s", "canary-canary"}, {"postgres://app:%s@db:x/app", "#canary-canary"},
		{"postgres:%s@h", "canary-canary"}, {"//a:%s@h", "canary-canary"}, {"postgres://a:%s@b@c/", "canary-canary"}, {"postgres://a:%s%%zz@b/", "canary-canary"}, {"http://u:p%s@h:80:90/", "canary-canary"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, around, inside string) {
		before, after, found := strings.Cut(around, "%s")
		const canary = "cAnArYcAnArY"
		// The canary has to be in the password, as whoever connects reads it; else it is no secret.
		text := before + inside + canary + after
		u, err := url.Parse(text)
		if !found || err != nil || u.User == nil {
			return
		}
		password, _ := u.User.Password()
		if !strings.Contains(password, canary) || strings.Count(text, canary) != 1 {
			return
		}
		for name, value := range map[string]any{"Address": Address(text), "Endpoint": Endpoint(text), "Secret": Secret(text)} {
			for _, verb := range []string{"%v", "%s", "%q", "%+v", "%#v", "%x", "%d"} {
				if shown := fmt.Sprintf(verb, value); strings.Contains(shown, canary) || strings.Contains(shown, fmt.Sprintf("%x", canary)) {
					t.Errorf("%s, %s of %q: got %s, which shows the password", name, verb, text, shown)
				}
			}
		}
	})
}

func FuzzSizesAndDurations(f *testing.F) {
	for _, s := range []string{"", "0", "5", "64KiB", "1GiB", "8589934592GiB", "-1", "1.5MiB", "1h30m", "2d", "1d12h", "-1s", "1.5h", "99999999999999999999s", "1e3s", "NaN", "0x1", " 1s", "1s ", "٣s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if size, err := parseSize(s); err == nil {
			if again, err := parseSize(size.String()); size < 0 || again != size || err != nil {
				t.Errorf("%q: got the size %d, and %d, %v when it is written and read again", s, size, again, err)
			}
		}
		if d, err := parseDuration(s); err == nil {
			if again, err := parseDuration(formatDuration(d)); again != d || err != nil {
				t.Errorf("%q: got %v, and %v, %v when it is written and read again", s, d, again, err)
			}
		}
	})
}

func FuzzAssignment(f *testing.F) {
	for _, s := range []string{"", "=", "a=b", "queues.a.timeout=5s", `queues."a.b".timeout=5s`, `queues."a`, `"=`, "a..b=", ".=1", `a."\"".b=1`, `a."\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, value, err := splitAssignment(s)
		if err != nil {
			return
		}
		path := ""
		for _, name := range names {
			path = join(path, name)
		}
		again, rest, err := splitAssignment(path + "=" + value)
		if err != nil || rest != value || strings.Join(again, "\x00") != strings.Join(names, "\x00") {
			t.Errorf("%q: got %q and %q, and %q, %q, %v when they are written and read again", s, names, value, again, rest, err)
		}
	})
}
