package store_test

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestEachStateIsListedByItself(t *testing.T) {
	pool, jobs := open(t)
	ids, _ := oneInEachState(t, pool, jobs)
	for _, state := range store.States {
		page, err := jobs.List(t.Context(), store.Filter{State: state}, 10, "")
		check(t, err)
		if len(page.Jobs) != 1 || page.Jobs[0].ID != ids[state] || page.Jobs[0].State != state || page.Next != "" || page.Cut {
			t.Errorf("%s: got %+v, want job %d and no more", state, page, ids[state])
		}
		if got := stateOf(t, jobs, ids[state]); got != state {
			t.Errorf("job %d: got state %s, want %s", ids[state], got, state)
		}
	}
	page, err := jobs.List(t.Context(), store.Filter{}, 10, "")
	check(t, err)
	if len(page.Jobs) != len(ids) {
		t.Errorf("got %d jobs, want %d", len(page.Jobs), len(ids))
	}
	for _, job := range page.Jobs {
		if ids[job.State] != job.ID {
			t.Errorf("got job %d as %s", job.ID, job.State)
		}
	}
}

// modelJob is a row as the test has made it. Times are hours from now; the two ends stand for the infinities.
type modelJob struct {
	id                 int64
	queue              string
	schedule, expected *int
	out                bool
	aside              bool
	attempt            int
	task               string
}

const infinite = 99

func timestamp(hours *int) any {
	switch {
	case hours == nil:
		return nil
	case *hours == infinite:
		return "infinity"
	case *hours == -infinite:
		return "-infinity"
	}
	return fmt.Sprintf("%d hours", *hours)
}

func (j modelJob) state() store.State {
	switch {
	case j.aside:
		return store.SetAside
	case j.out:
		return store.Taken
	case j.schedule != nil && *j.schedule > 0 && j.attempt > 1:
		return store.Retrying
	case j.schedule != nil && *j.schedule > 0:
		return store.Scheduled
	}
	return store.Waiting
}

// compare is the order of a list.
func (j modelJob) compare(o modelJob) int {
	part := func(j modelJob) int {
		switch {
		case j.out:
			return 3
		case j.schedule != nil:
			return 2
		}
		return 1
	}
	nullsLast := func(a, b *int) int {
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return 1
		case b == nil:
			return -1
		}
		return cmp.Compare(*a, *b)
	}
	order := cmp.Or(cmp.Compare(j.queue, o.queue), cmp.Compare(part(j), part(o)))
	if order == 0 && !j.out {
		order = cmp.Or(nullsLast(j.schedule, o.schedule), nullsLast(j.expected, o.expected))
	}
	return cmp.Or(order, cmp.Compare(j.id, o.id))
}

func TestPagesOfAnySizeMakeUpTheWholeListInOrder(t *testing.T) {
	pool, jobs := open(t)
	hours := rapid.Ptr(rapid.SampledFrom([]int{-infinite, -2, -1, 1, 2, infinite}), true)
	rapid.Check(t, func(r *rapid.T) {
		exec(t, pool, `truncate queue`)
		var rows []modelJob
		for i := range rapid.IntRange(0, 25).Draw(r, "jobs") {
			j := modelJob{
				id:       int64(i + 1),
				queue:    rapid.SampledFrom([]string{"apples", "pears", "plums"}).Draw(r, "queue"),
				schedule: hours.Draw(r, "schedule"),
				expected: hours.Draw(r, "expected"),
				out:      rapid.IntRange(0, 2).Draw(r, "out") == 0,
				attempt:  rapid.IntRange(1, 2).Draw(r, "attempt"),
				task:     rapid.SampledFrom([]string{"", "eat"}).Draw(r, "task"),
			}
			j.aside = j.out && rapid.Bool().Draw(r, "aside")
			rows = append(rows, j)
		}
		var batch pgx.Batch
		for _, j := range rows {
			batch.Queue(`
				insert into queue (id, q_name, data, schedule_at, expected_at, dequeued_at, set_aside, attempt, task)
				values ($1, $2, '1',
				  case when $3 ~ 'infinity' then $3::timestamptz else date_trunc('hour', now()) + '30 min' + $3::interval end,
				  case when $4 ~ 'infinity' then $4::timestamptz else date_trunc('hour', now()) + $4::interval end,
				  case when $5 then now() end, $6, $7, nullif($8, ''))`,
				j.id, j.queue, timestamp(j.schedule), timestamp(j.expected), j.out, j.aside, j.attempt, j.task)
		}
		if batch.Len() > 0 {
			check(t, pool.SendBatch(t.Context(), &batch).Close())
		}
		f := store.Filter{
			State: rapid.SampledFrom([]store.State{"", store.Waiting, store.Scheduled, store.Retrying, store.SetAside, store.Taken, store.Running}).Draw(r, "of state"),
			Task:  rapid.SampledFrom([]string{"", "", "eat"}).Draw(r, "of task"),
		}
		name := rapid.SampledFrom([]string{"", "apples", "pears", "figs"}).Draw(r, "of queue")
		if name != "" {
			f.Queue = jobs.Queue(name)
		}
		slices.SortFunc(rows, modelJob.compare)
		var want, got []string
		for _, j := range rows {
			if (name == "" || j.queue == name) && (f.State == "" || j.state() == f.State) && (f.Task == "" || j.task == f.Task) {
				want = append(want, fmt.Sprint(j.id, " ", j.state()))
			}
		}
		limit := rapid.IntRange(1, 8).Draw(r, "limit")
		for after, pages := "", 0; ; pages++ {
			page, err := jobs.List(t.Context(), f, limit, after)
			if err != nil {
				r.Fatal(err)
			}
			for _, job := range page.Jobs {
				got = append(got, fmt.Sprint(job.ID, " ", job.State))
			}
			if page.Next == "" {
				break
			}
			if len(page.Jobs) != limit || pages > len(rows) {
				r.Fatalf("page %d has %d jobs of %d, and there are more", pages, len(page.Jobs), limit)
			}
			after = page.Next
		}
		if !slices.Equal(got, want) {
			r.Fatalf("%+v of queue %q:\ngot  %v\nwant %v", f, name, got, want)
		}
	})
}

func TestRunningJobsAreListedFromTheirLocks(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	exec(t, pool, `alter table queue alter column id restart with 4294967290`) // over the end of a lock's key
	ids, err := store.PutMany(t.Context(), apples, count(12))
	check(t, err)
	session := openSession(t, jobs)
	claim(t, session, apples, 10)
	var got []int64
	for after := ""; ; {
		page, err := jobs.List(t.Context(), store.Filter{State: store.Running, Queue: apples}, 4, after)
		check(t, err)
		for _, job := range page.Jobs {
			got = append(got, job.ID)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	wantIDs(t, "running", got, ids[:10]...)
	page, err := jobs.List(t.Context(), store.Filter{State: store.Waiting}, 10, "")
	check(t, err)
	if len(page.Jobs) != 2 {
		t.Errorf("got %d waiting jobs, want 2", len(page.Jobs))
	}
	if page, err := jobs.List(t.Context(), store.Filter{State: store.Running, Queue: jobs.Queue("pears")}, 10, ""); err != nil || len(page.Jobs) > 0 {
		t.Errorf("of another queue: got %v, %v, want none", page.Jobs, err)
	}
}

func TestACursorOfAnotherListIsRefused(t *testing.T) {
	pool, jobs := open(t)
	_, session := oneInEachState(t, pool, jobs)
	put(t, jobs.Queue("apples"), 1)
	claim(t, session, jobs.Queue("apples"), 1, 1)
	next := func(f store.Filter) string {
		t.Helper()
		page, err := jobs.List(t.Context(), f, 1, "")
		check(t, err)
		if page.Next == "" {
			t.Fatal("got no cursor")
		}
		return page.Next
	}
	for name, try := range map[string]struct {
		f      store.Filter
		cursor string
	}{
		"of another queue":        {store.Filter{Queue: jobs.Queue("pears")}, next(store.Filter{})},
		"of running jobs":         {store.Filter{}, next(store.Filter{State: store.Running})},
		"not of running jobs":     {store.Filter{State: store.Running}, next(store.Filter{})},
		"nonsense":                {store.Filter{}, "nonsense"},
		"an object":               {store.Filter{}, "e30"},
		"of a job that cannot be": {store.Filter{}, "eyJxIjoiIn0"},
	} {
		_, err := jobs.List(t.Context(), try.f, 1, try.cursor)
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		wantError(t, err, store.ErrCursor)
	}
	_, err := jobs.List(t.Context(), store.Filter{State: "rotten"}, 1, "")
	wantError(t, err, store.ErrState)
	_, err = jobs.List(t.Context(), store.Filter{Queue: jobs.Queue("")}, 1, "")
	wantError(t, err, store.ErrQueueName)
}

func TestAFilterThatNoIndexServesIsBoundedAndCanGoOn(t *testing.T) {
	pool, jobs := open(t)
	exec(t, pool, `
		insert into queue (q_name, data, task) select 'apples', '1', case when i = 230000 then 'eat' end from generate_series(1, 240000) i`)
	var cuts, found int
	for after := ""; ; {
		page, err := jobs.List(t.Context(), store.Filter{Task: "eat"}, 10, after)
		check(t, err)
		found += len(page.Jobs)
		if page.Cut {
			cuts++
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if found != 1 || cuts != 2 {
		t.Errorf("found %d jobs after %d cuts, want 1 after 2", found, cuts)
	}
}

// A17. Pages, counts and operations must cost the same in a table of any size, with and without statistics.
func TestPagesReadOnlyWhatTheyShow(t *testing.T) {
	read := regexp.MustCompile(`Scan using (\w+) on queue.*\(actual rows=(\d+)`)
	removed := regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d+)`)
	for _, analyzed := range []bool{false, true} {
		t.Run(fmt.Sprintf("analyzed %v", analyzed), func(t *testing.T) {
			pool, _ := open(t)
			exec(t, pool, `alter table queue set (autovacuum_enabled = off)`)
			exec(t, pool, `
				insert into queue (q_name, data, schedule_at, expected_at, dequeued_at, set_aside)
				select (array['apples', 'pears', 'plums'])[1 + i % 3], '1',
				       case when i % 4 = 1 then now() + (i - 150000) * interval '1s' end,
				       case when i % 5 = 1 then now() + i * interval '1s' end,
				       case when i % 4 = 2 then now() end, i % 8 = 2
				from generate_series(1, 300000) i`)
			if analyzed {
				exec(t, pool, `analyze queue`)
			}
			var plans []string
			config := pool.Config().ConnConfig
			config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { plans = append(plans, n.Message) }
			conn, err := pgx.ConnectConfig(t.Context(), config)
			check(t, err)
			defer conn.Close(context.Background())
			if _, err := conn.PgConn().Exec(t.Context(), `
				load 'auto_explain';
				set auto_explain.log_min_duration = 0;
				set auto_explain.log_nested_statements = on;
				set auto_explain.log_analyze = on;
				set auto_explain.log_timing = off;
				set auto_explain.log_level = notice`).ReadAll(); err != nil {
				t.Skipf("plans cannot be read: %v", err)
			}
			jobs := store.New(conn, store.Options{})
			apples := jobs.Queue("apples")
			bounded := func(what string, most int, do func()) {
				t.Helper()
				plans = nil
				do()
				seen := 0
				for _, plan := range plans {
					if wrongInPlan.MatchString(plan) {
						t.Errorf("%s:\n%s", what, plan)
					}
					rows := 0
					for _, m := range read.FindAllStringSubmatch(plan, -1) {
						n, _ := strconv.Atoi(m[2])
						rows, seen = rows+n, seen+1
					}
					for _, m := range removed.FindAllStringSubmatch(plan, -1) {
						n, _ := strconv.Atoi(m[1])
						rows += n
					}
					if rows > most {
						t.Errorf("%s read %d rows, want at most %d:\n%s", what, rows, most, plan)
					}
				}
				if seen == 0 {
					t.Errorf("%s: no plan reads an index of the queue:\n%s", what, strings.Join(plans, "\n"))
				}
			}
			var inEachState []int64
			for _, queue := range []*store.Queue{nil, apples} {
				for _, state := range []store.State{"", store.Waiting, store.Scheduled, store.SetAside, store.Taken} {
					after, name := "", fmt.Sprintf("%v of queue %v", state, queue != nil)
					for page := range 3 {
						bounded(fmt.Sprintf("page %d of state %s", page, name), 200, func() {
							p, err := jobs.List(t.Context(), store.Filter{Queue: queue, State: state}, 20, after)
							check(t, err)
							if len(p.Jobs) != 20 || p.Next == "" {
								t.Fatalf("%s: got %d jobs and the cursor %q, want 20 and one", name, len(p.Jobs), p.Next)
							}
							after = p.Next
							inEachState = append(inEachState, p.Jobs[0].ID)
						})
					}
				}
			}
			bounded("overview", 3000, func() { _, err := jobs.Overviews(t.Context(), 1000); check(t, err) })
			bounded("names", 3, func() { _, err := jobs.QueueNames(t.Context(), 100); check(t, err) })
			bounded("one job", 100, func() { _, err := jobs.Find(t.Context(), 1000); check(t, err) })
			for _, op := range []store.Operation{store.Retry(false), store.Move(apples), store.Cancel(), store.Discard()} {
				bounded("an operation", 2*len(inEachState), func() { _, err := jobs.Operate(t.Context(), op, inEachState...); check(t, err) })
			}
		})
	}
}

func BenchmarkListAmongMillions(b *testing.B) {
	pool, jobs := open(b)
	exec(b, pool, `
		insert into queue (q_name, data, schedule_at, expected_at, dequeued_at, set_aside)
		select 'queue ' || i % 100, '1', case when i % 4 = 1 then now() + (i - 1500000) * interval '1s' end,
		       case when i % 5 = 1 then now() + i * interval '1s' end, case when i % 4 = 2 then now() end, i % 8 = 2
		from generate_series(1, 3000000) i`)
	exec(b, pool, `vacuum analyze queue`)
	some := jobs.Queue("queue 42")
	for name, f := range map[string]store.Filter{
		"all":                      {},
		"waiting":                  {State: store.Waiting},
		"set aside":                {State: store.SetAside},
		"a queue, set aside":       {Queue: some, State: store.SetAside},
		"a queue, scheduled":       {Queue: some, State: store.Scheduled},
		"running":                  {State: store.Running},
		"a task, of which is none": {Task: "eat"},
	} {
		b.Run(name, func(b *testing.B) {
			after := ""
			for b.Loop() {
				page, err := jobs.List(b.Context(), f, 50, after)
				check(b, err)
				after = page.Next
			}
		})
	}
	b.Run("overview", func(b *testing.B) {
		for b.Loop() {
			_, err := jobs.Overviews(b.Context(), 100_000)
			check(b, err)
		}
	})
	b.Run("discard", func(b *testing.B) {
		start, n := time.Now(), 0
		for results, err := range jobs.OperateAll(b.Context(), store.Discard(), store.Filter{State: store.SetAside}) {
			check(b, err)
			if n += len(results); n >= 100_000 {
				break
			}
		}
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "jobs/s")
	})
}
