package store_test

import (
	"testing"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// BenchmarkEmptyClaim is one look at a queue that has nothing to do, beside others that have: on the
// client's clock, and as the server counts the time of its statements. These are three: when the next
// job is due, the claim, and what time it is.
func BenchmarkEmptyClaim(b *testing.B) {
	server := pgtest.Server(b, devpg.Options{Settings: map[string]string{
		"shared_preload_libraries":          "pg_stat_statements",
		"pg_stat_statements.track_planning": "on",
		"fsync":                             "on",
	}})
	pool := connectPool(b, server.URL(""))
	jobs := store.New(pool, store.Options{})
	check(b, jobs.Migrate(b.Context()))
	exec(b, pool, `create extension pg_stat_statements`)
	for _, test := range []struct{ name, others string }{
		{"empty table", ``},
		{"beside another queue's", `insert into queue (q_name, data) select 'pears', '1' from generate_series(1, 100000)`},
		{"before its own future ones", `insert into queue (q_name, data, schedule_at) select 'apples', '1', now() + '1h'::interval + i * '1ms'::interval from generate_series(1, 100000) i`},
	} {
		b.Run(test.name, func(b *testing.B) {
			if test.others != "" {
				exec(b, pool, test.others)
				exec(b, pool, `vacuum analyze queue`)
			}
			session, err := jobs.OpenSession(b.Context())
			check(b, err)
			defer session.Close(b.Context())
			look := func() {
				if claims := claim(b, session, jobs.Queue("apples"), 100); len(claims.Jobs) > 0 {
					b.Fatalf("claimed %v, want nothing", idsOf(claims.Jobs))
				}
			}
			for range 10 { // by then the plans are made
				look()
			}
			exec(b, pool, `select pg_stat_statements_reset()`)
			calls := 0
			for b.Loop() {
				look()
				calls++
			}
			spent := func(statement string) float64 {
				return one[float64](b, pool, `
					select coalesce(sum(total_exec_time + total_plan_time), 0) * 1000
					from pg_stat_statements
					where query like $1 and query not like '%pg_stat_statements%'`, statement) / float64(calls)
			}
			b.ReportMetric(spent(`%clock_timestamp()`)+spent(`%"claim"(%`), "server-µs/op")
			b.ReportMetric(spent(`%"claim"(%`), "claim-µs/op")
			b.ReportMetric(spent(`%"next_due"(%`), "next_due-µs/op")
		})
	}
}
