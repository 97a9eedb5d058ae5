package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// newOrchard is a database with a job in each state, the ids from 1: running, waiting, scheduled, retrying, set
// aside, taken.
func newOrchard(t *testing.T) *database {
	t.Helper()
	d := newDatabase(t)
	d.must("put", "apples", `"running"`)
	session, err := d.jobs.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(context.Background()) })
	if claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: d.jobs.Queue("apples"), Want: 1}); err != nil || len(claims.Jobs) != 1 {
		t.Fatalf("got %v, %v, want one job", claims.Jobs, err)
	}
	d.must("put", "apples", `{"kind": "<Cox>\u009b1m", "n": [1]}`, "--task", "eat", "--max-attempts", "3", "--expected-at", "2040-01-01T00:00:00Z")
	d.must("put", "apples", "3", "--schedule-at", "2100-01-01T00:00:00Z")
	d.must("put", "apples", "4", "--schedule-at", "2100-01-02T00:00:00Z")
	d.must("put", "apples", "5")
	d.must("put", "apples", "6")
	d.exec(`update queue set attempt = 3, last_error = E'bruised\n\x1b[31m' where id = 4`)
	d.exec(`update queue set attempt = 5, last_error = 'rotten', set_aside = true, dequeued_at = now() where id = 5`)
	d.exec(`update queue set dequeued_at = now() where id = 6`)
	return d
}

func (d *database) exec(sql string, args ...any) {
	d.Helper()
	if _, err := d.query.Exec(d.Context(), sql, args...); err != nil {
		d.Fatal(err)
	}
}

// fails runs it on the database, where it has to fail, and returns its output.
func (d *database) fails(code int, part string, args ...string) string {
	d.Helper()
	r := d.run(args...)
	r.failsWith(d.T, code, part)
	return r.stdout
}

func TestLsListsPagesThatScriptsCanFollow(t *testing.T) {
	d := newOrchard(t)
	entry := func(id int, state, rest string) string {
		return fmt.Sprintf(`{"id":%d,"queue":"apples","state":%q,%s}`, id, state, rest)
	}
	const plain = `"task":null,"attempt":1,"max_attempts":null,"enqueued_at":"TIME","schedule_at":null,"expected_at":null,"dequeued_at":null,"last_error":null`
	want := []string{
		entry(2, "waiting", `"task":"eat","attempt":1,"max_attempts":3,"enqueued_at":"TIME","schedule_at":null,"expected_at":"TIME","dequeued_at":null,"last_error":null`),
		entry(1, "running", plain),
		entry(3, "scheduled", strings.Replace(plain, `"schedule_at":null`, `"schedule_at":"TIME"`, 1)),
		entry(4, "retrying", `"task":null,"attempt":3,"max_attempts":null,"enqueued_at":"TIME","schedule_at":"TIME","expected_at":null,"dequeued_at":null,"last_error":"bruised\n\u001b[31m"`),
		entry(5, "set_aside", `"task":null,"attempt":5,"max_attempts":null,"enqueued_at":"TIME","schedule_at":null,"expected_at":null,"dequeued_at":"TIME","last_error":"rotten"`),
		entry(6, "taken", strings.Replace(plain, `"dequeued_at":null`, `"dequeued_at":"TIME"`, 1)),
	}
	wants(t, "ls --json", masked(d.must("ls", "--json")), `{"jobs":[`+strings.Join(want, ",")+`],"next":null,"cut":false}`+"\n")
	wants(t, "ls of none", d.must("ls", "--queue", "pears", "--json"), `{"jobs":[],"next":null,"cut":false}`+"\n")

	next := regexp.MustCompile(`--after (\S+)`)
	var lines []string
	for after := []string{}; ; {
		r := d.run(append([]string{"ls", "--limit", "2"}, after...)...)
		if r.code != exitOK {
			t.Fatal(r.stderr)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(r.stdout), "\n")[1:]...)
		m := next.FindStringSubmatch(r.stderr)
		if m == nil {
			wants(t, "standard error of the last page", r.stderr, "")
			break
		}
		after = []string{"--after", m[1]}
	}
	if len(lines) != 6 {
		t.Fatalf("got the lines %q, want 6", lines)
	}
	for i, part := range []string{"2   apples  waiting", "1   apples  running", "3   apples  scheduled", "4   apples  retrying", "5   apples  set_aside", "6   apples  taken"} {
		contains(t, "line", lines[i], part)
	}
	contains(t, "line of a failed job", lines[3], "  2100-01-02T00:00:00Z  bruised [31m")
	for filter, want := range map[string]string{"--state running": "1 ", "--task eat": "2 ", "--state retrying --queue apples": "4 "} {
		out := d.must(append([]string{"ls"}, strings.Fields(filter)...)...)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[1], want) {
			t.Errorf("ls %s: got %q, want job %s", filter, out, want)
		}
	}
	wants(t, "ls of old jobs", masked(d.must("ls", "--older-than", "1h", "--json")), `{"jobs":[],"next":null,"cut":false}`+"\n")
}

var held = regexp.MustCompile(`"(pid|dispatcher)":-?\d+`)

func TestShowTellsAllOfAJob(t *testing.T) {
	d := newOrchard(t)
	d.exec(`update queue set metadata = '{"a": "b"}' where id = 2`)
	wants(t, "show --json", masked(d.must("show", "2", "--json")),
		`{"id":2,"queue":"apples","state":"waiting","task":"eat","attempt":1,"max_attempts":3,"enqueued_at":"TIME","schedule_at":null,"expected_at":"TIME","dequeued_at":null,"last_error":null,`+
			`"data":{"n":[1],"kind":"<Cox>`+"\u009b"+`1m"},"metadata":{"a":"b"},"held_by":null}`+"\n")
	running := held.ReplaceAllString(masked(d.must("show", "1", "--json")), `"$1":N`)
	contains(t, "show of a running job", running, `"state":"running"`)
	contains(t, "show of a running job", running, `"held_by":{"pid":N,"application":null,"address":"127.0.0.1","connected_at":"TIME","dispatcher":N,"claimed_at":"TIME"}`)
	text := d.must("show", "2")
	for _, part := range []string{"state        waiting\n", "attempt      1 of 3\n", "expected at  2040-01-01T00:00:00Z\n", "\nmetadata\n{\n  \"a\": \"b\"\n}\n", "\ndata\n{\n  \"n\": [\n", `\u009b1m`} {
		contains(t, "show", text, part)
	}
	if strings.Contains(text, "\u009b") || strings.Contains(d.must("show", "4"), "\x1b") {
		t.Error("show passes control characters to the terminal")
	}
	contains(t, "show of a running job", d.must("show", "1"), "held by      dispatcher ")
	wants(t, "show --raw", d.must("show", "3", "--raw"), "3\n")
	d.fails(exitNoJob, "no job with the id 4711", "show", "4711")
}

func TestPrintableKeepsTheJSONTheSame(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"ä🍏\": 1\n}":  "{\n  \"ä🍏\": 1\n}",
		"\"\u009b\u202e\"":   `"\u009b\u202e"`,
		"\"\U000e0001\"":     `"\udb40\udc01"`,
		"\"\u007f and tab\"": `"\u007f and tab"`,
	} {
		wants(t, "printable", printable(text), want)
	}
}

func TestOperationsPrintAnOutcomeForEachID(t *testing.T) {
	d := newOrchard(t)
	wants(t, "retry", d.must("retry", "5", "3"), "3 retried\n5 retried\n")
	wants(t, "retry of all kinds", d.fails(exitFailed, "job 6: a consumer of Python's pq has taken it; job 99: there is no such job", "retry", "4", "6", "99", "--json"),
		`{"id":4,"outcome":"retried"}`+"\n"+`{"id":6,"outcome":"taken"}`+"\n"+`{"id":99,"outcome":"gone"}`+"\n")
	wants(t, "move", d.must("move", "4", "--to", "pears"), "4 moved\n")
	wants(t, "move of a running job", d.fails(exitFailed, "job 1: it is running", "move", "1", "--to", "pears"), "1 running\n")
	wants(t, "discard of a running job", d.fails(exitFailed, "'pq-dispatch cancel' asks it to stop", "discard", "1"), "1 running\n")
	wants(t, "cancel", d.must("cancel", "1", "2"), "1 asked\n2 cancelled\n")
	wants(t, "cancel again", d.fails(exitFailed, "out of its queue already", "cancel", "2"), "2 not_waiting\n")
	wants(t, "discard", d.must("discard", "2"), "2 discarded\n")
	d.fails(exitFailed, "due already", "retry", "4")
}

func TestOperationsTakeAllThatTheirFlagsSelect(t *testing.T) {
	d := newDatabase(t)
	d.exec(`insert into queue (q_name, data, task, schedule_at) select 'apples', '1', case when i % 2 = 0 then 'eat' end,
		case when i % 3 = 0 then now() + interval '1h' end from generate_series(1, 6000) i`)
	d.exec(`insert into queue (q_name, data, set_aside, dequeued_at) select 'apples', '1', true, now() - i * interval '1 min' from generate_series(1, 100) i`)
	for _, step := range []struct{ command, want string }{
		{"cancel --queue apples --task eat --dry-run", "3000 jobs\n"},
		{"cancel --queue apples --task eat --dry-run --json", `{"selected":3000}` + "\n"},
		{"cancel --queue apples --task eat", "cancelled 3000\n"},
		{"retry --queue apples --task eat --json", `{"outcomes":{"retried":3000}}` + "\n"},
		{"retry --queue apples --dry-run", "100 jobs\n"},
		{"move --queue apples --to pears --state scheduled", "moved 1000\n"},
		{"purge apples --state set_aside --older-than 100m --dry-run", "1 job\n"},
		{"purge apples --state set_aside --older-than 50m --dry-run", "51 jobs\n"},
		{"purge apples --state set_aside --older-than 50m --yes", "discarded 51\n"},
		{"purge apples --state taken --yes", "0 jobs\n"},
		{"purge apples --state taken --yes --json", `{"outcomes":{}}` + "\n"},
		{"discard --queue apples --state all --yes", "discarded 5049\n"},
		{"discard --queue pears --state all --dry-run", "1000 jobs\n"},
	} {
		wants(t, step.command, d.must(strings.Fields(step.command)...), step.want)
	}
	d.fails(exitUsage, "--yes", "purge", "pears", "--state", "all")
	wants(t, "jobs in the end", fmt.Sprint(d.number(`select count(*) from queue`)), "1000")
}

func TestAQuestionIsAnsweredByYesOnly(t *testing.T) {
	for answer, want := range map[string]error{"y\n": nil, "YES\n": nil, " yes ": nil, "\n": errNotConfirmed, "": errNotConfirmed, "no\n": errNotConfirmed, "yesterday\n": errNotConfirmed} {
		var stderr bytes.Buffer
		a := newApp(strings.NewReader(answer), nil, &stderr)
		if got := a.question(t.Context(), "purge 3 jobs of apples?"); !errors.Is(got, want) || want == nil && got != nil {
			t.Errorf("%q: got %v, want %v", answer, got, want)
		}
		contains(t, "question", stderr.String(), "purge 3 jobs of apples? [y/N] ")
	}
}

// A dispatcher and a purge share the jobs out between them: each is run or deleted, none both, none twice.
func TestPurgeBesideADispatcherDeletesNoJobThatRuns(t *testing.T) {
	d := newDatabase(t)
	const n = 5000
	d.exec(`insert into queue (q_name, data) select 'apples', to_jsonb(i) from generate_series(1, $1::int) i`, n)
	var runs [n + 1]atomic.Int32
	var handled atomic.Int32
	started := make(chan struct{})
	worker := dispatcher.New(d.jobs, dispatcher.Options{Concurrency: 4})
	worker.HandleAll("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		if handled.Add(1) == 1 {
			close(started)
		}
		var there bool
		if err := d.query.QueryRow(ctx, `select exists (select from queue where id = $1)`, job.ID).Scan(&there); err != nil {
			return err
		}
		if !there {
			t.Errorf("job %d is gone while it runs", job.ID)
		}
		runs[job.ID].Add(1)
		return nil
	}))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- worker.Run(ctx) }()
	<-started
	out := d.must("purge", "apples", "--state", "waiting", "--yes")
	d.eventually("the queue is empty", func() bool { return d.number(`select count(*) from queue`) == 0 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	ran := 0
	for id := range runs {
		if count := runs[id].Load(); count > 1 {
			t.Errorf("job %d was run %d times", id, count)
		} else {
			ran += int(count)
		}
	}
	var purged int
	if m := regexp.MustCompile(`discarded +(\d+)`).FindStringSubmatch(out); m != nil {
		fmt.Sscan(m[1], &purged)
	}
	if ran+purged != n {
		t.Errorf("%d jobs were run and %d purged, want %d together", ran, purged, n)
	}
	t.Logf("%d jobs were run, %d purged", ran, purged)
}

func TestPauseAndResumeSayWhatTheyDid(t *testing.T) {
	d := newDatabase(t)
	contains(t, "pause", d.run("pause", "apples").stderr, "apples is paused until it is resumed")
	contains(t, "pause until a time", d.run("pause", "apples", "--until", "2100-01-02T03:04:05Z", "--reason", "wasps\n").stderr, "apples is paused until 2100-01-02T03:04:05Z")
	contains(t, "queues", d.must("queues"), "until 2100-01-02T03:04:05Z: wasps\n")
	wants(t, "queues --json", masked(d.must("queues", "--json")),
		`[{"queue":"apples","ready":0,"scheduled":0,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null,"at_least":[],"paused":{"until":"TIME","reason":"wasps\n","since":"TIME"}}]`+"\n")
	wants(t, "pause --json", d.must("pause", "apples", "--json"), `{"queue":"apples","paused_until":null}`+"\n")
	wants(t, "pause for a while --json", masked(d.must("pause", "apples", "--until", "2h", "--json")), `{"queue":"apples","paused_until":"TIME"}`+"\n")
	d.fails(exitUsage, "has passed", "pause", "apples", "--until", "2020-01-01T00:00:00Z")
	wants(t, "resume --json", d.must("resume", "apples", "--json"), `{"queue":"apples","was_paused":true}`+"\n")
	contains(t, "resume", d.run("resume", "apples").stderr, "apples was not paused")
	wants(t, "queues in the end", d.must("queues", "--json"), "[]\n")
}

func TestQueuesShowsThemAtAGlance(t *testing.T) {
	d := newOrchard(t)
	d.must("put", "pears", "1", "--schedule-at", "1h")
	wants(t, "queues --json", oldest.ReplaceAllString(d.must("queues", "--json"), `"oldest_seconds":X`),
		`[{"queue":"apples","ready":1,"scheduled":2,"running":1,"set_aside":1,"taken":1,"oldest_seconds":X,"at_least":[],"paused":null},`+
			`{"queue":"pears","ready":0,"scheduled":1,"running":0,"set_aside":0,"taken":0,"oldest_seconds":null,"at_least":[],"paused":null}]`+"\n")
	contains(t, "table", d.must("queues"), "pears   0      1          0        0          0      -       -\n")
	contains(t, "table of one, counted to 1", d.must("queues", "apples", "--count-to", "1"), "apples  1      >1         1        >1         >1     ")
	contains(t, "counted to 1 --json", d.must("queues", "apples", "--count-to", "1", "--json"), `"at_least":["scheduled","set_aside","taken"]`)
	contains(t, "a queue without a job", d.must("queues", "figs"), "figs")
}

func TestDispatchersShowsThoseThatLive(t *testing.T) {
	d := newOrchard(t)
	var id int
	out := d.must("dispatchers", "--json")
	if _, err := fmt.Sscanf(out, `[{"id":%d,`, &id); err != nil {
		t.Fatalf("got %q: %v", out, err)
	}
	out = regexp.MustCompile(`"(id|pid|oldest_claim_seconds)":[-0-9.e]+`).ReplaceAllString(masked(out), `"$1":N`)
	wants(t, "dispatchers --json", out,
		`[{"id":N,"alive":true,"pid":N,"application":null,"address":"127.0.0.1","since":"TIME","jobs":1,"batches":1,"oldest_claim_seconds":N}]`+"\n")
	contains(t, "table", d.must("dispatchers"), fmt.Sprintf("\n%d  yes    ", id))
	wants(t, "none", newDatabase(t).must("dispatchers", "--json"), "[]\n")
}

func TestQueueNamesAreCompleted(t *testing.T) {
	d := newOrchard(t)
	d.must("put", "apricots", "1")
	d.must("put", "pears", "1")
	for line, want := range map[string]string{
		"get ap":          "apples\napricots\n:4\n",
		"purge p":         "pears\n:4\n",
		"pause pears p":   ":4\n",
		"queues pears ap": "apples\napricots\n:4\n",
		"ls --queue p":    "pears\n:4\n",
		"ls --state set":  "set_aside\n:4\n",
		"move 1 --to apr": "apricots\n:4\n",
	} {
		r := d.run(append([]string{"__complete"}, strings.Fields(line)...)...)
		wants(t, line, r.stdout, want)
	}
	nowhere := cli("", "__complete", "--database-url", "postgres://user:canary@127.0.0.1:1/app", "get", "ap")
	wants(t, "without a database", nowhere.stdout, ":4\n")
	if strings.Contains(nowhere.stderr, "canary") {
		t.Errorf("got %q, want no password", nowhere.stderr)
	}
}

func TestTimesBeyondTheYear9999AreJSON(t *testing.T) {
	d := newDatabase(t)
	d.exec(`insert into queue (q_name, data, schedule_at, expected_at) values ('apples', '0', null, '4713-12-01 BC'), ('apples', '0', '294276-12-31', null)`)
	contains(t, "ls", d.must("ls", "--json"), `"expected_at":"0000-01-01T00:00:00Z"`)
	contains(t, "show", d.must("show", "2", "--json"), `"schedule_at":"9999-12-31T23:59:59Z"`)
	contains(t, "get", d.must("get", "apples", "--json"), `"expected_at":"0000-01-01T00:00:00Z"`)
}
