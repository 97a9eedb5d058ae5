package main

import (
	"strings"
	"testing"
)

func TestTopWithoutATerminalSaysWhatToUse(t *testing.T) {
	cli("", "top").failsWith(t, exitUsage, "needs a terminal", "'pq-dispatch queues --json', or --once")
	cli("", "top", "--json").failsWith(t, exitUsage, "--once")
	cli("", "top", "--interval", "10ms", "--once").failsWith(t, exitUsage, "100ms or more")
	cli("", "top", "--once", "--database-url", "postgres://127.0.0.1:1/app").failsWith(t, exitUnreachable)
}

func TestTopPrintsOneLookAsText(t *testing.T) {
	d := newOrchard(t)
	out := d.must("top", "--once")
	for _, part := range []string{"  QUEUE    READY RUNNING OLDEST SCHEDULED SET ASIDE  TAKEN PAUSED\n  apples       1       1 ", "APPLICATION "} {
		contains(t, "top --once", out, part)
	}
	if strings.ContainsRune(out, '\x1b') {
		t.Errorf("got escape sequences: %q", out)
	}
	out = oldest.ReplaceAllString(masked(d.must("top", "--once", "--json")), `"oldest_seconds":X`)
	contains(t, "top --once --json", out, `{"queues":[{"queue":"apples","ready":1,"scheduled":2,"running":1,"set_aside":1,"taken":1,"oldest_seconds":X,"at_least":[],"paused":null}],"dispatchers":[{"id":`)
	contains(t, "top --once --json", out, `"rows":{"put":`)
	contains(t, "of no queue", newDatabase(t).must("top", "--once", "--json"), `{"queues":[],"dispatchers":[],`)
}
