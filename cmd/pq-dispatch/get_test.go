package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestGetPrintsALineOfJSONAJob(t *testing.T) {
	d := newDatabase(t)
	for _, data := range []string{`{"kind": "Cox", "note": "<a>\n&"}`, `"text"`, `null`, `[1, {"a": []}]`} {
		d.must("put", "apples", data)
	}
	wants(t, "first", d.must("get", "apples"), `{"kind":"Cox","note":"<a>\n&"}`+"\n")
	wants(t, "rest", d.must("get", "apples", "--count", "5"), "\"text\"\nnull\n[1,{\"a\":[]}]\n")
}

func TestGetAsJSONHasTheShapeThatScriptsRelyOn(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", `{"kind": "<Cox>"}`)
	d.must("put", "apples", "2", "--task", "eat", "--max-attempts", "3", "--schedule-at", "2020-01-01T00:00:00Z", "--expected-at", "2040-01-01T00:00:00Z")
	wants(t, "jobs", masked(d.must("get", "apples", "--json", "--count", "2")),
		`{"id":2,"queue":"apples","task":"eat","data":2,"attempt":1,"max_attempts":3,"enqueued_at":"TIME","schedule_at":"TIME","expected_at":"TIME"}`+"\n"+
			`{"id":1,"queue":"apples","task":null,"data":{"kind":"<Cox>"},"attempt":1,"max_attempts":null,"enqueued_at":"TIME","schedule_at":null,"expected_at":null}`+"\n")
}

func TestGetWithoutAJobSaysSoAndExitsWith4(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1", "--schedule-at", "1h")
	for _, timeout := range []string{"0", "50ms"} {
		r := d.run("get", "apples", "--timeout", timeout)
		wants(t, "standard error", r.stderr, "pq-dispatch: no job\n")
		if r.code != exitNoJob || r.stdout != "" {
			t.Errorf("got exit code %d and %q, want 4 and nothing", r.code, r.stdout)
		}
	}
}

func TestGetWaitsForAJob(t *testing.T) {
	for _, timeout := range []string{"forever", "1d"} {
		t.Run(timeout, func(t *testing.T) {
			d := newDatabase(t)
			got := make(chan result)
			go func() { got <- d.run("get", "apples", "--timeout", timeout) }()
			d.eventually("a Get waits", func() bool {
				return d.number(`select count(*) from pg_locks where locktype = 'advisory' and classid = 'pq_dispatch.ledger'::regclass::oid`) > 0
			})
			if _, err := d.jobs.Queue("apples").Put(t.Context(), "Cox", store.ScheduleAt(20*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if r := <-got; r.code != exitOK || r.stdout != "\"Cox\"\n" {
				t.Errorf("got %+v, want the job", r)
			}
		})
	}
}

func TestGetKeepsAJobThatCannotBePrinted(t *testing.T) {
	d := newDatabase(t)
	d.must("put", "apples", "1")
	var stderr bytes.Buffer
	code := run([]string{"--database-url", d.url, "get", "apples"}, nil, &brokenWriter{}, &stderr)
	result{code, "", stderr.String()}.failsWith(t, exitFailed, "the pipe is gone")
	wants(t, "job", d.must("get", "apples"), "1\n")
}

var oldest = regexp.MustCompile(`"oldest_seconds":[0-9.]+`)

type brokenWriter struct{}

func (*brokenWriter) Write([]byte) (int, error) { return 0, errors.New("the pipe is gone") }

func TestStatsCountsJobsByState(t *testing.T) {
	d := newDatabase(t)
	wants(t, "no queue", d.must("stats", "--json"), "[]\n")
	none := d.run("stats", "apples", "--json")
	wants(t, "empty queue", none.stdout, `[{"queue":"apples","ready":0,"scheduled":0,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null}]`+"\n")
	contains(t, "standard error", none.stderr, "no job is in a queue apples")
	d.must("put", "pears", "1", "--schedule-at", "1h")
	d.must("put", "apples", "1")
	d.must("put", "apples", "2")
	d.must("put", "tab\tname", "1", "--schedule-at", "1h")
	if _, err := d.query.Exec(t.Context(), `update queue set enqueued_at = now() - interval '90 s' where id = 2`); err != nil {
		t.Fatal(err)
	}
	session, err := d.jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.Background())
	if _, err := session.Claim(t.Context(), store.ClaimRequest{Queue: d.jobs.Queue("apples"), Want: 1}); err != nil {
		t.Fatal(err)
	}
	wants(t, "all", oldest.ReplaceAllString(d.must("stats", "--json"), `"oldest_seconds":X`),
		`[{"queue":"apples","ready":1,"scheduled":0,"running":1,"set_aside":0,"taken":0,"oldest_seconds":X},`+
			`{"queue":"pears","ready":0,"scheduled":1,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null},`+
			`{"queue":"tab\tname","ready":0,"scheduled":1,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null}]`+"\n")
	table := d.must("stats")
	contains(t, "table", table, "QUEUE        READY  SCHEDULED  RUNNING  SET ASIDE  TAKEN  OLDEST\n")
	contains(t, "table", table, `"tab\tname"  0      1  `)
	contains(t, "table of one", d.must("stats", "pears"), "pears  0      1          0        0          0      -\n")
}

func TestCompletionNeedsNoDatabase(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := cli("", "completion", shell); r.code != exitOK || r.stdout == "" {
			t.Errorf("%s: got exit code %d and %d bytes", shell, r.code, len(r.stdout))
		}
	}
	contains(t, "completion of a command", cli("", "__complete", "mig").stdout, fmt.Sprintf("migrate\t%s", "Create"))
}
