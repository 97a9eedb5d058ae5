package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func TestDoctorExitsWith1IfThereIsAProblem(t *testing.T) {
	d := newDatabase(t)
	contains(t, "a healthy database", d.must("doctor"), "ok       trigger        pq_dispatch_put is enabled\n")
	d.exec(`alter table queue disable trigger pq_dispatch_put`)
	r := d.run("doctor")
	r.failsWith(t, exitFailed, "problems found: 1")
	contains(t, "finding", r.stdout, "problem  trigger ")
	contains(t, "remedy", r.stdout, "remedy: alter table \"public\".\"queue\" enable trigger pq_dispatch_put\n")
	cli("", "doctor", "--database-url", "postgres://127.0.0.1:1/app").failsWith(t, exitUnreachable, "--database-url")
	d.run("doctor", "--concurrency", "0").failsWith(t, exitUsage, "whole number from 1")
	contains(t, "planned", d.run("doctor", "--concurrency", "100000", "--dispatchers", "8").stdout, "less than the 100000")
}

var findingText = regexp.MustCompile(`"(text|remedy)":"([^"\\]|\\.)*"`)

func TestDoctorsJSONIsStable(t *testing.T) {
	d := newDatabase(t)
	got := findingText.ReplaceAllString(d.must("doctor", "--json"), `"$1":"X"`)
	var want strings.Builder
	want.WriteString(`{"worst":"warning","findings":[`)
	for i, check := range []string{
		"connection", "server", "privileges", "monitoring", "schema", "objects", "indexes", "trigger", "locks", "connections",
		"timeouts", "keepalives", "durability", "autovacuum", "dead rows", "xmin", "notifications", "clock", "dispatchers", "ledger",
	} {
		if i > 0 {
			want.WriteString(",")
		}
		level, remedy := "ok", "null"
		if check == "durability" { // the test's server writes to memory
			level, remedy = "warning", `"X"`
		}
		want.WriteString(`{"check":"` + check + `","level":"` + level + `","text":"X","remedy":` + remedy + `}`)
	}
	want.WriteString("]}\n")
	wants(t, "doctor --json", got, want.String())

	d.exec(`drop index queue_ready_idx`)
	r := d.run("doctor", "--json")
	var report struct{ Worst string }
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Worst != "problem" || r.code != exitFailed {
		t.Errorf("got %s, %v and exit code %d, want a problem", r.stdout, err, r.code)
	}
}
