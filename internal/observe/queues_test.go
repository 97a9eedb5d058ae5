package observe

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestTheGaugesSayWhatWaitsAndForHowLong(t *testing.T) {
	tel := private(t)
	jobs, pool := newStore(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	held, release := make(chan struct{}, 2), make(chan struct{})
	d := dispatcher.New(jobs, quiet(dispatcher.Options{Queue: dispatcher.QueueOptions{Concurrency: 1}, Sweep: time.Hour}))
	d.HandleAll("pears", dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		if job.Attempt == 1 && string(job.Data) == `"sour"` {
			return retry.Permanent(errors.New("sour"))
		}
		held <- struct{}{}
		<-release
		return nil
	}))
	exec(`insert into queue (q_name, data, enqueued_at) values
	  ('apples', '1', now() - interval '100 s'),
	  ('apples', '1', now() - interval '50 s')`)
	exec(`insert into queue (q_name, data, enqueued_at, expected_at) values
	  ('apples', '1', now() - interval '300 s', now() + interval '1 h')`)
	exec(`insert into queue (q_name, data, enqueued_at, schedule_at) values
	  ('apples', '1', now() - interval '1 h', now() - interval '10 s'),
	  ('apples', '1', now() - interval '1 h', now() + interval '1 h')`)
	exec(`insert into queue (q_name, data, dequeued_at) values ('apples', '1', now())`) // taken by pq
	exec(`insert into queue (q_name, data) values ('pears', '"sour"')`)
	stop := run(t, d)
	defer stop()
	defer close(release)
	for waiting := true; waiting; {
		if err := pool.QueryRow(t.Context(), `select not exists (select from queue where q_name = 'pears' and set_aside)`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	// It runs, so it waits no more, however long ago it was put.
	exec(`insert into queue (q_name, data, enqueued_at) values ('pears', '1', now() - interval '1 day')`)
	receive(t, held, "the job that runs")

	queues := func() []string { return []string{"pears", "apples", "plums", "apples"} }
	if err := tel.ObserveQueues(pool, jobs, queues); err != nil {
		t.Fatal(err)
	}
	got := scrape(t, tel.Handler())
	if v := got.value(t, "pq_dispatch_database_up"); v != 1 {
		t.Errorf("got pq_dispatch_database_up %v, want 1", v)
	}
	if v := got.value(t, "pq_dispatch_notification_queue_usage_ratio"); v < 0 || v > 1 {
		t.Errorf("got a notification queue %v full, want a part of 1", v)
	}
	for _, want := range []struct {
		queue            string
		ready, setAside  float64
		oldest, youngest float64 // bounds of the age
	}{
		{"apples", 4, 0, 300, 300 + patience.Seconds()},
		{"pears", 0, 1, 0, 0},
		{"plums", 0, 0, 0, 0},
	} {
		name := []string{"messaging_destination_name", want.queue}
		ready, aside, oldest := got.value(t, "pq_dispatch_queue_ready", name...), got.value(t, "pq_dispatch_queue_set_aside", name...), got.value(t, "pq_dispatch_queue_oldest_seconds", name...)
		if ready != want.ready || aside != want.setAside || oldest < want.oldest || oldest > want.youngest {
			t.Errorf("%s: got %v ready, the oldest for %v s, %v set aside; want %v, %v to %v s, %v",
				want.queue, ready, oldest, aside, want.ready, want.oldest, want.youngest, want.setAside)
		}
	}
}

// unreachable counts the looks at a database that is away.
type unreachable struct{ looks atomic.Int32 }

func (u *unreachable) BeginTx(ctx context.Context, _ pgx.TxOptions) (pgx.Tx, error) {
	u.looks.Add(1)
	if _, bounded := ctx.Deadline(); !bounded {
		panic("a look without a bound")
	}
	return nil, errors.New("away")
}

func TestTheDatabaseIsAskedOnlyWhenSomeoneAsksAndRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, db := private(t), &unreachable{}
		if err := tel.ObserveQueues(db, store.New(nil, store.Options{}), func() []string { return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for minute, want := range []int32{0, 1, 1, 2} {
			switch minute {
			case 0:
			case 3:
				time.Sleep(freshTime)
				fallthrough
			default:
				got := scrape(t, tel.Handler())
				if v := got.value(t, "pq_dispatch_database_up"); v != 0 {
					t.Errorf("got pq_dispatch_database_up %v, want 0", v)
				}
				if got["pq_dispatch_queue_ready"] != nil {
					t.Error("got a count of a database that is away, want none")
				}
				if got["go_goroutines"] == nil {
					t.Error("got nothing else, want what can be told")
				}
			}
			if got := db.looks.Load(); got != want {
				t.Errorf("step %d: got %d looks, want %d", minute, got, want)
			}
		}
	})
}

// slow is a database that takes its time to fail.
type slow struct {
	unreachable
	time.Duration
}

func (s *slow) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	time.Sleep(s.Duration)
	return s.unreachable.BeginTx(ctx, o)
}

func TestASlowDatabaseIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slow{Duration: time.Second}
		b := &backlog{db: db, jobs: store.New(nil, store.Options{}), queues: func() []string { return nil }}
		for range 1000 { // for as many seconds
			_, _ = b.look(t.Context())
			time.Sleep(time.Second)
		}
		if got := db.looks.Load(); got < 9 || got > 11 {
			t.Errorf("got %d looks of a second in 1000 s, want ten", got)
		}
	})
}

// That what is read does not depend on how much there is, package store shows.
func TestALookIsBoundedHoweverLongTheQueueIs(t *testing.T) {
	jobs, pool := newStore(t)
	for _, sql := range []string{
		`insert into queue (q_name, data) select 'apples', '1' from generate_series(1, $1)`,
		`insert into queue (q_name, data, enqueued_at, schedule_at) select 'apples', '1', now() - interval '2 h', now() - interval '1 h' from generate_series(1, $1)`,
		`insert into queue (q_name, data, dequeued_at, set_aside) select 'apples', '1', now(), true from generate_series(1, $1)`,
	} {
		if _, err := pool.Exec(t.Context(), sql, maxCounted+1); err != nil {
			t.Fatal(err)
		}
	}
	b := &backlog{db: pool, jobs: jobs, queues: func() []string { return []string{"apples"} }}
	seen, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := seen.queues[0]; got.Queue != "apples" || got.Ready != maxCounted || got.SetAside != maxCounted || got.Oldest < time.Hour {
		t.Errorf("got %+v, want %d ready, the oldest for an hour, and %d set aside", got, maxCounted, maxCounted)
	}
}

func TestAQueueWithASlashInItsNameIsSeen(t *testing.T) {
	jobs, pool := newStore(t)
	if _, err := jobs.Queue("apples/gob/json").Put(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	b := &backlog{db: pool, jobs: jobs, queues: func() []string { return []string{"apples/gob", "apples"} }}
	seen, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := seen.queues; len(got) != 2 || got[0].Queue != "apples" || got[0].Ready != 0 || got[1].Queue != "apples/gob" || got[1].Ready != 1 {
		t.Errorf("got %+v, want no job of apples and one of apples/gob", got)
	}
}

func TestTheSessionsOfADispatcherAreUpOrDown(t *testing.T) {
	tests := map[string]struct {
		listening, holding bool
		err                error
		listen, locks      float64
	}{
		"both are up":         {true, true, nil, 1, 1},
		"it does not listen":  {false, true, nil, 0, 1},
		"it holds no lock":    {true, false, nil, 1, 0},
		"it does not answer":  {true, true, context.DeadlineExceeded, 0, 0},
		"it has not begun to": {false, false, nil, 0, 0},
	}
	for name, test := range tests {
		tel := private(t)
		err := tel.ObserveDispatcher(func(ctx context.Context) (dispatcher.State, error) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Errorf("%s: got a question without a bound", name)
			}
			return dispatcher.State{Listening: test.listening, Holding: test.holding}, test.err
		})
		if err != nil {
			t.Fatal(err)
		}
		got := scrape(t, tel.Handler())
		listen, locks := got.value(t, "pq_dispatch_session_up", "pq_dispatch_session", "listen"), got.value(t, "pq_dispatch_session_up", "pq_dispatch_session", "locks")
		if listen != test.listen || locks != test.locks {
			t.Errorf("%s: got listen %v, locks %v; want %v, %v", name, listen, locks, test.listen, test.locks)
		}
	}
}
