package sql

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestValidateTakesPlainIdentifiersOnly(t *testing.T) {
	for name, valid := range map[string]bool{
		"": true, "queue": true, "Queue": true, "_1": true, "select": true, strings.Repeat("a", 48): true,
		strings.Repeat("a", 49): false, "1a": false, "a b": false, `a"`: false, "a'": false, "a.b": false, "a\x00": false, "a\n": false, "é": false, "a$": false,
	} {
		for _, n := range []Names{{Table: name}, {Schema: name}} {
			if err := n.Validate(); (err == nil) != valid || err != nil && !errors.Is(err, ErrName) {
				t.Errorf("Validate(%q, %q): got %v, want valid: %v", n.Schema, n.Table, err, valid)
			}
			if _, err := Migrations(n); (err == nil) != valid {
				t.Errorf("Migrations(%q, %q): got %v, want valid: %v", n.Schema, n.Table, err, valid)
			}
		}
	}
}

func TestSupportNamesTheSchemaBesideTheTable(t *testing.T) {
	for _, c := range []struct {
		names Names
		want  string
	}{
		{Names{}, "pq_dispatch"},
		{Names{Schema: "public", Table: "queue"}, "pq_dispatch"},
		{Names{Table: "jobs"}, "pq_dispatch_jobs"},
		{Names{Schema: "app"}, "pq_dispatch_app_queue"},
		{Names{Schema: "App", Table: "Jobs"}, "pq_dispatch_App_Jobs"},
	} {
		if got := c.names.Support(); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.names, got, c.want)
		}
	}
}

func TestMigrationsOfAnyNamesQuoteThemAndFit(t *testing.T) {
	name := rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_]{0,47}`)
	rapid.Check(t, func(t *rapid.T) {
		n := Names{Schema: name.Draw(t, "schema"), Table: name.Draw(t, "table"), LockClass: rapid.Int32().Draw(t, "lock class")}
		if got := n.Support(); len(got) > maxIdentifier {
			t.Fatalf("support schema %s has %d bytes, want at most %d", got, len(got), maxIdentifier)
		}
		migrations, err := Migrations(n)
		if err != nil || len(migrations) != Version {
			t.Fatalf("got %d migrations, %v, want %d", len(migrations), err, Version)
		}
		for i, m := range migrations {
			if m.Version != i+1 || m.Name == "" || m.Up == "" || m.Down == "" {
				t.Fatalf("got migration %+v", m)
			}
			if strings.Contains(m.Up+m.Down, "{{") || strings.Contains(m.Up+m.Down, "<no value>") || strings.Contains(m.Up, "migrate:down") {
				t.Fatalf("%s is not rendered whole:\n%s", m.Name, m.Up)
			}
		}
	})
}

// Names that differ only beyond the length of an identifier must not meet.
func TestLongSupportNamesStayApart(t *testing.T) {
	long := strings.Repeat("a", 47)
	seen := map[string]bool{}
	for _, table := range []string{long + "x", long + "y", long + "X"} {
		seen[Names{Schema: long, Table: table}.Support()] = true
	}
	if len(seen) != 3 {
		t.Errorf("got the support schemas %v, want three", seen)
	}
}
