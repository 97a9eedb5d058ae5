package dispatcher_test

import (
	"context"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Each claim from a position came upon it, and gave it back.
func TestARunningJobThatIsGivenAPriorityIsClaimedOnceMoreAtMost(t *testing.T) {
	pool := poolAt(t, migrated.Database(t))
	jobs := store.New(pool, store.Options{})
	for _, sql := range []string{
		`create sequence claims minvalue 0 start 0`, // of which each has its batch in the ledger
		`create function claimed() returns trigger language plpgsql as $$ begin perform nextval('public.claims'); return new; end $$`,
		`create trigger claimed before insert on pq_dispatch.ledger for each row execute function claimed()`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	apples := jobs.Queue("apples")
	held, release, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Sweep: time.Hour, Queue: dispatcher.QueueOptions{Concurrency: 2, Prefetch: -1}}))
	d.Handle("apples", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if string(job.Data) == `"slow"` {
			held <- struct{}{}
			<-release
			return nil
		}
		done <- struct{}{}
		return nil
	}))
	start(t, d)
	defer close(release)
	slow := put(t, apples, "slow")
	receive(t, held, "the job that runs")
	if _, err := pool.Exec(t.Context(), `update queue set expected_at = now() where id = $1`, slow); err != nil {
		t.Fatal(err)
	}
	const quick = 100
	for range quick {
		put(t, apples, "quick")
		receive(t, done, "a quick job")
	}
	var claims int
	if err := pool.QueryRow(t.Context(), `select last_value from claims`).Scan(&claims); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d claims", claims)
	if most := quick + quick/4; claims > most {
		t.Errorf("got %d claims that found something, want %d at most", claims, most)
	}
}
