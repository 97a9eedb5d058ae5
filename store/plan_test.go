package store_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/store"
)

var (
	rowsRead    = regexp.MustCompile(`queue_ready_idx on queue.*\(actual rows=(\d+)`)
	wrongInPlan = regexp.MustCompile(`Seq Scan on queue|Bitmap Heap Scan on queue`)
)

// A17. Plans must not flip with the size of the table or the state of its statistics.
func TestClaimAndGetReadOnlyTheHeadOfTheQueue(t *testing.T) {
	for _, size := range []int{10, 200_000} {
		for _, analyzed := range []bool{false, true} {
			for _, scheduled := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d rows, analyzed %v, some scheduled jobs due %v", size, analyzed, scheduled), func(t *testing.T) {
					pool, _ := open(t)
					exec(t, pool, `alter table queue set (autovacuum_enabled = off)`)
					exec(t, pool, `
						insert into queue (q_name, data, expected_at)
						select 'apples', '1', case when i % 2 = 0 then now() + i * interval '1s' end from generate_series(1, $1) i`, size)
					if scheduled {
						exec(t, pool, `insert into queue (q_name, data, schedule_at, expected_at) select 'apples', '2', now() - interval '1s', now() from generate_series(1, 3) i`)
					}
					if analyzed {
						exec(t, pool, `analyze queue`)
					}
					var plans []string
					config := pool.Config().ConnConfig
					config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { plans = append(plans, n.Message) }
					connect := func(ctx context.Context) (*pgx.Conn, error) {
						conn, err := pgx.ConnectConfig(ctx, config)
						if err != nil {
							return nil, err
						}
						_, err = conn.PgConn().Exec(ctx, `
							load 'auto_explain';
							set auto_explain.log_min_duration = 0;
							set auto_explain.log_nested_statements = on;
							set auto_explain.log_analyze = on;
							set auto_explain.log_timing = off;
							set auto_explain.log_level = notice`).ReadAll()
						return conn, err
					}
					conn, err := connect(t.Context())
					if err != nil {
						t.Skipf("plans cannot be read: %v", err)
					}
					defer conn.Close(t.Context())
					jobs := store.New(conn, store.Options{Connect: connect})
					apples := jobs.Queue("apples")
					session := openSession(t, jobs)

					read := func(what string, do func()) {
						t.Helper()
						plans = nil
						do()
						seen := false
						for _, plan := range plans {
							if wrongInPlan.MatchString(plan) {
								t.Errorf("%s:\n%s", what, plan)
							}
							for _, match := range rowsRead.FindAllStringSubmatch(plan, -1) {
								seen = true
								// A loop in PL/pgSQL fetches 10 rows, then 50 at a time.
								if n, _ := strconv.Atoi(match[1]); n > 100 {
									t.Errorf("%s read %d rows:\n%s", what, n, plan)
								}
							}
						}
						if !seen {
							t.Errorf("%s: no plan with queue_ready_idx among\n%s", what, strings.Join(plans, "\n"))
						}
					}
					var claims store.Claims
					read("claim", func() { claims = claim(t, session, apples, 5) })
					read("get", func() { get(t, apples) })
					read("claim, with some held", func() { claim(t, session, apples, 2, idsOf(claims.Jobs)...) })
					plans = nil
					settle(t, jobs, runsOf(claims.Jobs[:2]), store.Return{Run: runsOf(claims.Jobs)[3]})
					for _, plan := range plans {
						if wrongInPlan.MatchString(plan) {
							t.Errorf("settle:\n%s", plan)
						}
					}
				})
			}
		}
	}
}
