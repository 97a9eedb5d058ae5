package sql

import (
	"errors"
	"strings"
	"testing"
)

func TestRolesAreNamedAfterTheTable(t *testing.T) {
	long := strings.Repeat("a", 48)
	for _, c := range []struct {
		names Names
		want  Roles
	}{
		{Names{}, Roles{"pq_dispatch_enqueue", "pq_dispatch_worker", "pq_dispatch_reader", "pq_dispatch_owner"}},
		{Names{Table: "jobs"}, Roles{"pq_dispatch_jobs_enqueue", "pq_dispatch_jobs_worker", "pq_dispatch_jobs_reader", "pq_dispatch_jobs_owner"}},
		{Names{Schema: "App"}, Roles{"pq_dispatch_App_queue_enqueue", "pq_dispatch_App_queue_worker", "pq_dispatch_App_queue_reader", "pq_dispatch_App_queue_owner"}},
	} {
		if got := c.names.Roles(); got != c.want {
			t.Errorf("%+v: got %+v, want %+v", c.names, got, c.want)
		}
	}
	seen := map[string]bool{}
	for _, n := range []Names{{Schema: long, Table: long}, {Schema: long, Table: long[1:]}} {
		r := n.Roles()
		for _, name := range []string{r.Enqueue, r.Worker, r.Reader, r.Owner} {
			if len(name) > maxIdentifier || seen[name] {
				t.Errorf("got the role %s, want one of at most %d bytes that no other has", name, maxIdentifier)
			}
			seen[name] = true
		}
	}
}

// A function that a later migration adds, and that no role is given, nobody but the owner can call: it has to be
// decided whose it is.
func TestEveryFunctionIsGivenToARoleOrToNone(t *testing.T) {
	script, err := CreateRoles(Names{})
	if err != nil || strings.Contains(script, "{{") || strings.Contains(script, "<no value>") {
		t.Fatalf("got %v, and a script that is not rendered whole:\n%s", err, script)
	}
	ownersOnly := []string{"move", "on_put"}
	migrations, err := Migrations(Names{})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range migrations {
		for line := range strings.Lines(m.Up) {
			rest, is := strings.CutPrefix(line, `create function "pq_dispatch".`)
			if !is {
				continue
			}
			found++
			name, _, _ := strings.Cut(rest, "(")
			given := strings.Contains(script, `  "pq_dispatch".`+name+"(")
			mine := false
			for _, o := range ownersOnly {
				mine = mine || o == name
			}
			if given == mine {
				t.Errorf("%s: got it given to a role: %v, want %v", name, given, !mine)
			}
		}
	}
	if found < 30 {
		t.Errorf("got %d functions, want all of them", found)
	}
	if _, err := CreateRoles(Names{Table: "a b"}); !errors.Is(err, ErrName) {
		t.Errorf("got %v, want ErrName", err)
	}
}
