package sql

import (
	"errors"
	"strings"
	"testing"
)

// The names of schema and table stand in the text of statements. What is let through can be nothing but a name there,
// quoted as an identifier, quoted as a literal, and in the name of an index, a channel and a role.
func FuzzNames(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""}, {"public", "queue"}, {"App", "Jobs"}, {"select", "table"}, {`a"`, "b"}, {"a'", "b"}, {"a", "b;--"}, {"a.b", "c"}, {"pg_temp", "x"}, {"{{.Table}}", "x"},
		{"a\x00", "b"}, {"a\n", "b"}, {"é", "b"}, {"$$", "b"}, {"1", "b"}, {strings.Repeat("a", 48), strings.Repeat("b", 48)}, {strings.Repeat("a", 49), ""}, {"K", "s"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, schema, table string) {
		n := Names{Schema: schema, Table: table}
		migrations, err := Migrations(n)
		script, rolesErr := CreateRoles(n)
		if (err == nil) != (rolesErr == nil) || (err == nil) != (n.Validate() == nil) {
			t.Fatalf("%q.%q: got %v, %v and %v, want them to agree", schema, table, n.Validate(), err, rolesErr)
		}
		if err != nil {
			if !errors.Is(err, ErrName) || len(err.Error()) > 500 {
				t.Errorf("%q.%q: got %v, want ErrName, and a text that is bounded", schema, table, err)
			}
			return
		}
		r := n.Roles()
		for _, name := range []string{n.schema(), n.table(), n.Support(), r.Enqueue, r.Worker, r.Reader, r.Owner} {
			if len(name) > maxIdentifier || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
				t.Errorf("%q.%q: got the name %q, want letters, digits and underscores", schema, table, name)
			}
		}
		if want := `"` + n.schema() + `"."` + n.table() + `"`; n.Queue() != want {
			t.Errorf("got %s, want %s", n.Queue(), want)
		}
		// The text but for the names is that of the plain names.
		for i, text := range []string{migrations[0].Up, migrations[1].Up, script} {
			if strings.Contains(text, "{{") || strings.Count(text, "$$")%2 != 0 || strings.Count(text, `"`)%2 != 0 {
				t.Errorf("%q.%q: got the script %d with something open", schema, table, i)
			}
		}
	})
}
