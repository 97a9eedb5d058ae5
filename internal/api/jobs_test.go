package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/internal/admin"
	"github.com/pq-dispatch/pq-dispatch/internal/view"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestAJobIsPutAsTheBodySays(t *testing.T) {
	s := start(t)
	got := s.want(201, "", "POST", "/api/v1/queues/apples/jobs",
		`{"data": {"kind": "Cox"}, "delay": "1h", "expected_at": "2030-01-02T15:04:05.25+01:00", "task": "eat", "max_attempts": 3}`)
	id := got.body["id"].(string)
	if got.header.Get("Location") != "/api/v1/jobs/"+id || got.body["queue"] != "apples" {
		t.Errorf("got %v at %q, want a job of apples and its path", got, got.header.Get("Location"))
	}
	job := s.want(200, "", "GET", got.header.Get("Location"), "").body
	for name, want := range map[string]any{
		"id": id, "queue": "apples", "state": "scheduled", "task": "eat", "max_attempts": "3", "attempt": "1", "data": map[string]any{"kind": "Cox"},
		"expected_at": "2030-01-02T14:04:05.25Z", "dequeued_at": nil, "last_error": nil, "metadata": nil, "held_by": nil,
	} {
		if n, is := job[name].(interface{ Int64() (int64, error) }); is {
			job[name] = fmt.Sprint(n)
		}
		if diff := cmp.Diff(want, job[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	var ahead float64
	check(t, s.pool.QueryRow(t.Context(), `select extract(epoch from schedule_at - enqueued_at) from queue`).Scan(&ahead))
	if ahead < 3600 || ahead > 3660 {
		t.Errorf("got it scheduled after %v s, want an hour", ahead)
	}

	at := s.put("apples", `{"data": null, "schedule_at": "2030-01-02T15:04:05Z", "delay": null, "task": null}`)
	job = s.want(200, "", "GET", "/api/v1/jobs/"+at, "").body
	if job["schedule_at"] != "2030-01-02T15:04:05Z" || job["task"] != nil || job["data"] != nil || job["max_attempts"] != nil {
		t.Errorf("got %v, want one scheduled then, and nothing else", job)
	}
}

// Numbers, escapes and texts come back as they were sent, to the last digit.
func TestDataIsKeptExactly(t *testing.T) {
	s := start(t)
	for _, data := range []string{
		`null`, `0`, `-0.1`, `9007199254740993`, `123456789012345678901234567890`, `0.10000000000000000000000000000000001`, `"<a href='x'>&</a>"`,
		`"\u2028 é 🍎"`, `[]`, `{}`, `[[1.50]]`, `""`, `true`,
	} {
		id := s.put("apples", `{"data": `+data+`}`)
		var stored bool
		check(t, s.pool.QueryRow(t.Context(), `select data::text = $1::jsonb::text from queue where id = $2::text::bigint`, data, id).Scan(&stored))
		got := s.want(200, "", "GET", "/api/v1/jobs/"+id, "").text
		unescaped := strings.ReplaceAll(data, `\u2028`, "\u2028")
		if !stored || !strings.Contains(strings.ReplaceAll(got, `\u2028`, "\u2028"), `"data":`+unescaped+`,`) {
			t.Errorf("%s: stored as it is: %v; got %s", data, stored, got)
		}
	}
}

func TestManyAreAllPutOrNone(t *testing.T) {
	s := start(t)
	got := s.want(201, "", "POST", "/api/v1/queues/apples/jobs/batch", `{"data": [{"n": 1}, null, 12345678901234567890], "delay": "1h", "task": "eat"}`)
	var kept []string
	for _, id := range got.body["ids"].([]any) {
		job := s.want(200, "", "GET", "/api/v1/jobs/"+id.(string), "").body
		if job["task"] != "eat" || job["state"] != "scheduled" {
			t.Errorf("got %v, want each scheduled, and of the task", job)
		}
		kept = append(kept, fmt.Sprint(job["data"]))
	}
	if want := []string{"map[n:1]", "<nil>", "12345678901234567890"}; !slices.Equal(kept, want) {
		t.Errorf("got %q, want %q", kept, want)
	}
	many := `{"data": [0` + strings.Repeat(`,0`, 4998) + `,`
	s.want(422, "invalid_data", "POST", "/api/v1/queues/apples/jobs/batch", many+`"\u0000"]}`)
	s.wantJobs(3)
	s.want(201, "", "POST", "/api/v1/queues/apples/jobs/batch", many+`1]}`)
	s.wantJobs(5003)
}

func TestAQueueMayHaveAnyName(t *testing.T) {
	s := start(t)
	s.handler = admin.Routes{API: s.handler}.Handler() // as the daemon serves it
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.StringN(1, 50, 200).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).Draw(r, "name")
		if name == "/" { // net/http takes it for the end of the path
			name = "//"
		}
		name = rapid.OneOf(rapid.Just(name), rapid.SampledFrom([]string{
			"a/b", "apples/gob", "apples/json", "a/", "//", ".", "..", "../jobs", "a b", "a?b#c", "%2F", "{queue}", "jobs", "+", "\n", "é🍎", strings.Repeat("x", 200),
		})).Draw(r, "known name")
		path := "/api/v1/queues/" + encodeName(name)
		put := s.ask("POST", path+"/jobs", `{"data": 1}`)
		if put.status != 201 || put.body["queue"] != name {
			r.Fatalf("%q: got %v, want it put there", name, put)
		}
		job := s.ask("GET", put.header.Get("Location"), "")
		overview := s.ask("GET", path, "")
		list := s.ask("GET", "/api/v1/jobs?limit=1&queue="+url.QueryEscape(name), "")
		if job.body["queue"] != name || overview.body["queue"] != name || len(list.body["jobs"].([]any)) != 1 {
			r.Errorf("%q: got %v, %v, %v, want it in each", name, job, overview, list)
		}
	})
}

// encodeName encodes dots too: clients and proxies take .. for a way up.
func encodeName(name string) string { return strings.ReplaceAll(url.PathEscape(name), ".", "%2E") }

func TestPagesListEachJobOnce(t *testing.T) {
	s := start(t)
	var want []string
	for i := range 7 {
		want = append(want, s.put("apples", fmt.Sprintf(`{"data": %d}`, i)))
	}
	other := s.put("pears", `{"data": 1, "task": "eat", "delay": "1h"}`)
	var got []string
	for path := "/api/v1/jobs?queue=apples&limit=3"; path != ""; {
		page := s.want(200, "", "GET", path, "").body
		for _, job := range page["jobs"].([]any) {
			got = append(got, job.(map[string]any)["id"].(string))
		}
		path = ""
		if next, is := page["next"].(string); is {
			path = "/api/v1/jobs?queue=apples&limit=3&after=" + next
		}
		if page["cut"] != false {
			t.Errorf("got %v, want a page that was not cut", page)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for query, want := range map[string]int{
		"": 8, "state=scheduled": 1, "task=eat": 1, "state=waiting&task=eat": 0, "queue=plums": 0, "state=running": 0, "queue=pears&state=scheduled&task=eat": 1,
	} {
		page := s.want(200, "", "GET", "/api/v1/jobs?"+query, "")
		jobs := page.body["jobs"].([]any)
		if len(jobs) != want {
			t.Errorf("%s: got %v, want %d jobs", query, page, want)
		}
		if want == 1 && jobs[0].(map[string]any)["id"] != other {
			t.Errorf("%s: got %v, want job %s", query, page, other)
		}
	}
	next := s.want(200, "", "GET", "/api/v1/jobs?limit=1", "").body["next"].(string)
	s.want(400, "invalid_parameter", "GET", "/api/v1/jobs?state=running&after="+next, "")
}

func TestOperationsOnAJobInEachState(t *testing.T) {
	s := start(t)
	waiting := func() string { return s.put("apples", `{"data": 1}`) }
	scheduled := func() string { return s.put("apples", `{"data": 1, "delay": "1h"}`) }
	after := func(id, column string) string {
		s.exec(`update queue set `+column+` where id = $1::text::bigint`, id)
		return id
	}
	setAside := func() string {
		return after(waiting(), `dequeued_at = now(), set_aside = true, attempt = 5, last_error = 'rotten'`)
	}
	taken := func() string { return after(waiting(), `dequeued_at = now()`) }
	// A get whose transaction is open holds its job as a dispatcher does.
	tx, err := s.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	held := s.put("held", `{"data": 1}`)
	job, err := s.jobs.Queue("held").With(tx).Get(t.Context(), 0)
	check(t, err)
	if job == nil || fmt.Sprint(job.ID) != held {
		t.Fatalf("got %v, want job %s", job, held)
	}
	running := func() string { return held }
	busy := waiting()
	locked, err := s.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = locked.Rollback(t.Context()) }()
	_, err = locked.Exec(t.Context(), `select from queue where id = $1::text::bigint for update`, busy)
	check(t, err)

	tests := []struct {
		what   string
		job    func() string
		method string
		path   string
		status int
		result string // the outcome or the code
	}{
		{"waiting", waiting, "POST", "/retry", 409, "job_waiting"},
		{"waiting", waiting, "POST", "/cancel", 200, "cancelled"},
		{"waiting", waiting, "DELETE", "", 200, "discarded"},
		{"scheduled", scheduled, "POST", "/retry", 200, "retried"},
		{"scheduled", scheduled, "POST", "/cancel", 200, "cancelled"},
		{"scheduled", scheduled, "DELETE", "", 200, "discarded"},
		{"set aside", setAside, "POST", "/retry", 200, "retried"},
		{"set aside", setAside, "POST", "/cancel", 409, "job_not_waiting"},
		{"set aside", setAside, "DELETE", "", 200, "discarded"},
		{"taken", taken, "POST", "/retry", 409, "job_taken"},
		{"taken", taken, "POST", "/cancel", 409, "job_not_waiting"},
		{"running", running, "POST", "/retry", 409, "job_running"},
		{"running", running, "POST", "/cancel", 202, "asked"},
		{"running", running, "DELETE", "", 409, "job_running"},
		{"locked", func() string { return busy }, "DELETE", "", 409, "job_busy"},
		{"locked", func() string { return busy }, "POST", "/cancel", 409, "job_busy"},
	}
	for _, test := range tests {
		id := test.job()
		got := s.ask(test.method, "/api/v1/jobs/"+id+test.path, "")
		result := got.body["outcome"]
		if result == nil {
			result = got.body["code"]
		}
		if got.status != test.status || result != test.result {
			t.Errorf("%s, %s %s: got %v, want %d %s", test.what, test.method, test.path, got, test.status, test.result)
		}
		if retry := got.header.Get("Retry-After"); (retry == "1") != (test.result == "job_busy") {
			t.Errorf("%s, %s %s: got Retry-After %q", test.what, test.method, test.path, retry)
		}
		found := s.ask("GET", "/api/v1/jobs/"+id, "")
		if wanted := map[bool]int{true: 404, false: 200}[test.result == "discarded"]; found.status != wanted {
			t.Errorf("%s, %s %s: got %v afterwards, want %d", test.what, test.method, test.path, found, wanted)
		}
	}
	for body, attempt := range map[string]string{``: "1", `{}`: "1", `{"keep_attempts": false}`: "1", `{"keep_attempts": true}`: "5"} {
		id := setAside()
		s.want(200, "", "POST", "/api/v1/jobs/"+id+"/retry", body)
		if got := s.want(200, "", "GET", "/api/v1/jobs/"+id, "").body; fmt.Sprint(got["attempt"]) != attempt || got["state"] != "waiting" {
			t.Errorf("retry %s: got %v, want attempt %s, waiting", body, got, attempt)
		}
	}
	if got := s.want(200, "", "GET", "/api/v1/jobs/"+held, "").body; got["state"] != "running" || got["held_by"].(map[string]any)["dispatcher"] != nil {
		t.Errorf("got %v, want it held by a session", got)
	}
	if got := s.want(200, "", "GET", "/api/v1/jobs?state=running", ""); len(got.body["jobs"].([]any)) != 1 {
		t.Errorf("got %v, want the one that runs", got)
	}
}

// Only SQL can write these, but a list must not fail for one.
func TestTimesOutsideOfRFC3339AreShownAsItsFirstAndLast(t *testing.T) {
	s := start(t)
	for stored, want := range map[string]any{
		"infinity": nil, "-infinity": "0000-01-01T00:00:00Z", "4000-01-01 BC": "0000-01-01T00:00:00Z", "20000-01-01": "9999-12-31T23:59:59Z",
	} {
		id := s.put("apples", `{"data": 1}`)
		s.exec(`update queue set schedule_at = 'infinity', expected_at = $1::text::timestamptz, enqueued_at = 'infinity' where id = $2::text::bigint`, stored, id)
		got := s.want(200, "", "GET", "/api/v1/jobs/"+id, "").body
		if got["expected_at"] != want || got["enqueued_at"] != nil {
			t.Errorf("%s: got %v, want it expected at %v", stored, got, want)
		}
	}
	s.want(200, "", "GET", "/api/v1/jobs", "")
}

func TestQueuesArePausedAndResumed(t *testing.T) {
	s := start(t)
	s.put("apples", `{"data": 1}`)
	s.put("apples", `{"data": 1, "delay": "1h"}`)
	const path = "/api/v1/queues/apples"
	if got := s.want(200, "", "GET", path, "").body; fmt.Sprintf("%v %v %v", got["ready"], got["scheduled"], got["paused"]) != "1 1 <nil>" {
		t.Errorf("got %v, want one ready, one scheduled, no pause", got)
	}
	if got := s.want(200, "", "POST", path+"/pause", `{"reason": "wasps\u0000"}`).body; got["paused_until"] != nil {
		t.Errorf("got %v, want it paused for ever", got)
	}
	if job, err := s.jobs.Queue("apples").Get(t.Context(), 0); err != nil || job != nil {
		t.Errorf("got %v, %v, want no job of a paused queue", job, err)
	}
	if got := s.want(200, "", "GET", path, "").body["paused"].(map[string]any); !strings.HasPrefix(got["reason"].(string), "wasps") || got["until"] != nil {
		t.Errorf("got %v, want the reason", got)
	}
	if got := s.want(200, "", "POST", path+"/pause", `{"until": "2130-01-02T15:04:05Z"}`).body["paused_until"]; got != "2130-01-02T15:04:05Z" {
		t.Errorf("got it paused until %v, want what was asked", got)
	}
	got := s.want(200, "", "POST", path+"/pause", `{"for": "1h"}`).body["paused_until"].(string)
	if end, err := time.Parse(time.RFC3339Nano, got); err != nil || time.Until(end) < 50*time.Minute || time.Until(end) > 70*time.Minute {
		t.Errorf("got it paused until %v, want an hour from now", got)
	}
	for _, was := range []bool{true, false} {
		if got := s.want(200, "", "POST", path+"/resume", "").body["was_paused"]; got != was {
			t.Errorf("got was_paused %v, want %v", got, was)
		}
	}
	s.want(200, "", "POST", "/api/v1/queues/none/pause", "")
	names := ""
	for _, q := range s.want(200, "", "GET", "/api/v1/queues", "").body["queues"].([]any) {
		names += " " + q.(map[string]any)["queue"].(string)
	}
	if names != " apples none" {
		t.Errorf("got the queues%s, want apples none", names)
	}
	if got := s.want(200, "", "GET", "/api/v1/queues/unheard", "").body; fmt.Sprint(got["ready"]) != "0" || got["oldest_seconds"] != nil {
		t.Errorf("got %v, want an empty queue", got)
	}
}

func TestCountsThatWereNotCountedToTheirEndAreNamed(t *testing.T) {
	o := store.Overview{Counts: store.Counts{Queue: "apples", Ready: countTo, Oldest: time.Second}, AtLeast: []string{"ready", "oldest", "taken"}}
	if got, want := view.OverviewOf(o).AtLeast, []string{"ready", "oldest_seconds", "taken"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s := start(t)
	s.exec(`insert into queue (q_name, data) select 'apples', '1' from generate_series(1, 1200)`)
	if got := s.want(200, "", "GET", "/api/v1/queues/apples", "").body; fmt.Sprintf("%v %v", got["ready"], got["at_least"]) != "1200 [oldest_seconds]" {
		t.Errorf("got %v, want all counted, but the oldest not looked for among all", got)
	}
	s.want(400, "invalid_parameter", "GET", "/api/v1/queues/%00", "")
}

func TestTheCallersTraceReachesTheJob(t *testing.T) {
	s := start(t)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for path, body := range map[string]string{"/jobs": `{"data": 1}`, "/jobs/batch": `{"data": [1]}`} {
		s.want(201, "", "POST", "/api/v1/queues/apples"+path, body, "traceparent", "00-"+trace+"-b7ad6b7169203331-01", "tracestate", "a=b")
	}
	s.want(201, "", "POST", "/api/v1/queues/pears/jobs", `{"data": 1}`, "traceparent", "00-rubbish")
	jobs := s.want(200, "", "GET", "/api/v1/jobs", "").body["jobs"].([]any)
	for _, job := range jobs {
		job := s.want(200, "", "GET", "/api/v1/jobs/"+job.(map[string]any)["id"].(string), "").body
		metadata, _ := job["metadata"].(map[string]any)
		parent, _ := metadata["traceparent"].(string)
		if has := strings.Contains(parent, trace) && metadata["tracestate"] == "a=b"; has != (job["queue"] == "apples") {
			t.Errorf("got %v, want the trace in those of apples only", job)
		}
	}
	if len(jobs) != 3 {
		t.Errorf("got %d jobs, want 3", len(jobs))
	}
}

func TestManyCallersAtOnceAreAllServed(t *testing.T) {
	s := start(t)
	server := httptest.NewServer(s.handler)
	defer server.Close()
	const callers, each = 16, 20
	var mu sync.Mutex
	ids := map[string]bool{}
	discarded := 0
	var calling sync.WaitGroup
	call := func(method, path, body string) response {
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return response{}
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Error(err)
			return response{}
		}
		return s.examine(r, answer)
	}
	shared := call("POST", "/api/v1/queues/apples/jobs", `{"data": "shared"}`).body["id"].(string)
	for caller := range callers {
		calling.Go(func() {
			for n := range each {
				got := call("POST", "/api/v1/queues/apples/jobs", fmt.Sprintf(`{"data": [%d, %d]}`, caller, n))
				if got.status != 201 {
					t.Errorf("got %v, want it put", got)
					continue
				}
				mu.Lock()
				ids[got.body["id"].(string)] = true
				mu.Unlock()
			}
			// Of all that discard the same job, one does it.
			got := call("DELETE", "/api/v1/jobs/"+shared, "")
			mu.Lock()
			defer mu.Unlock()
			switch got.status {
			case 200:
				discarded++
			case 404, 409:
			default:
				t.Errorf("got %v, want it discarded, gone, or in the hands of another", got)
			}
		})
	}
	calling.Wait()
	if len(ids) != callers*each || discarded != 1 {
		t.Errorf("got %d ids and %d discards, want %d and 1", len(ids), discarded, callers*each)
	}
	s.wantJobs(callers * each)
}

func TestDispatchersAreListedWithWhatTheyHold(t *testing.T) {
	s := start(t)
	if got := s.want(200, "", "GET", "/api/v1/dispatchers", ""); len(got.body["dispatchers"].([]any)) != 0 {
		t.Errorf("got %v, want none", got)
	}
	id := s.put("apples", `{"data": 1}`)
	session, err := s.jobs.OpenSession(t.Context())
	check(t, err)
	defer session.Close(t.Context())
	claims, err := session.Claim(t.Context(), store.ClaimRequest{Queue: s.jobs.Queue("apples"), Want: 5})
	check(t, err)
	if len(claims.Jobs) != 1 {
		t.Fatalf("got %d claims, want 1", len(claims.Jobs))
	}
	got := s.want(200, "", "GET", "/api/v1/dispatchers", "").body["dispatchers"].([]any)[0].(map[string]any)
	if fmt.Sprintf("%v %v %v %v", got["id"], got["alive"], got["jobs"], got["batches"]) != fmt.Sprintf("%d true 1 1", session.ID()) || got["oldest_claim_seconds"] == nil {
		t.Errorf("got %v, want dispatcher %d, alive, with one job", got, session.ID())
	}
	holder := s.want(200, "", "GET", "/api/v1/jobs/"+id, "").body["held_by"].(map[string]any)
	if fmt.Sprint(holder["dispatcher"]) != fmt.Sprint(session.ID()) || holder["claimed_at"] == nil {
		t.Errorf("got it held by %v, want dispatcher %d", holder, session.ID())
	}
	if got := s.want(200, "", "GET", "/api/v1/queues/apples", "").body; fmt.Sprintf("%v %v", got["running"], got["ready"]) != "1 0" {
		t.Errorf("got %v, want one running, none ready", got)
	}
}
