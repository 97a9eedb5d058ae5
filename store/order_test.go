package store_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pq-dispatch/pq-dispatch/store"
)

// planned is a job of the model. Times are in minutes from the start of the test.
type planned struct {
	id                 int64
	schedule, expected *int
}

func (p planned) due() bool { return p.schedule == nil || *p.schedule < 0 }

// before is the order among due jobs: schedule_at has no say in it.
func before(a, b planned) int {
	switch {
	case a.expected == nil && b.expected == nil:
	case a.expected == nil:
		return 1
	case b.expected == nil:
		return -1
	case *a.expected != *b.expected:
		return cmp.Compare(*a.expected, *b.expected)
	}
	return cmp.Compare(a.id, b.id)
}

func TestGetAndClaimKeepTheOrder(t *testing.T) {
	pool, jobs := open(t)
	session := openSession(t, jobs)
	start := one[time.Time](t, pool, `select now()`)
	minutes := rapid.Ptr(rapid.OneOf(rapid.IntRange(-3, -1), rapid.IntRange(60, 62)), true)
	var nextID int64
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		gets, claims := jobs.Queue(fmt.Sprintf("get %d", round)), jobs.Queue(fmt.Sprintf("claim %d", round))
		plan := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) planned {
			return planned{schedule: minutes.Draw(rt, "schedule_at"), expected: minutes.Draw(rt, "expected_at")}
		}), 0, 25).Draw(rt, "jobs")

		var batch pgx.Batch
		for i := range plan {
			nextID++
			plan[i].id = nextID
			for j, q := range []*store.Queue{gets, claims} {
				batch.Queue(`insert into queue (id, q_name, data, schedule_at, expected_at) values ($1, $2, '1', $3, $4)`,
					nextID*2+int64(j), q.Name(), at(start, plan[i].schedule), at(start, plan[i].expected))
			}
		}
		check(t, pool.SendBatch(t.Context(), &batch).Close())
		due := slices.DeleteFunc(slices.Clone(plan), func(p planned) bool { return !p.due() })
		slices.SortFunc(due, before)
		var want []int64
		for _, p := range due {
			want = append(want, p.id)
		}

		var got []int64
		for _, id := range drain(t, gets) {
			got = append(got, id/2)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("Get: got %v, want %v", got, want)
		}

		got = nil
		var held, batches []int64
		for {
			c := claim(t, session, claims, rapid.IntRange(1, 10).Draw(rt, "want"), held...)
			if len(c.Jobs) == 0 {
				break
			}
			batches = append(batches, c.Batch)
			ids := idsOf(c.Jobs)
			held = append(held, ids...)
			for i := range ids {
				ids[i] /= 2
			}
			// The jobs of one batch come in any order; the dispatcher sorts them in with those it has.
			slices.SortFunc(ids, func(a, b int64) int { return cmp.Compare(slices.Index(want, a), slices.Index(want, b)) })
			got = append(got, ids...)
		}
		_, err := session.Claim(t.Context(), store.ClaimRequest{Release: held, Ended: batches})
		check(t, err)
		if !slices.Equal(got, want) {
			rt.Fatalf("Claim: got %v, want %v", got, want)
		}
	})
}

func at(start time.Time, minutes *int) *time.Time {
	if minutes == nil {
		return nil
	}
	return new(start.Add(time.Duration(*minutes) * time.Minute))
}

func TestAScheduledJobTakesItsPlaceWhenItIsDue(t *testing.T) {
	pool, jobs := open(t)
	apples := jobs.Queue("apples")
	urgent := put(t, apples, 1, store.ScheduleAt("1h"), store.ExpectedAt("1h"))
	late := put(t, apples, 2, store.ExpectedAt("2h"))
	none := put(t, apples, 3)
	if job := get(t, apples); job.ID != late {
		t.Fatalf("got %v, want job %d", job, late)
	}
	put(t, apples, 4, store.ScheduleAt(time.Hour))
	exec(t, pool, `update queue set schedule_at = now() where id = $1`, urgent)
	wantIDs(t, "get", drain(t, apples), urgent, none)
}
