package workers

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/child"
)

// childEnv makes the test binary a worker process.
const childEnv = "PQ_DISPATCH_WORKERS_TEST_PROCESS"

type told struct {
	Jobs  int
	Leave bool // at once, without being told to
}

type message struct {
	Progress
	Bye string `json:",omitempty"` // in the last message
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Setenv(childEnv, "1") // for what the tests start
		os.Exit(m.Run())
	}
	var s told
	ctx, cancel, err := child.Settings(context.Background(), os.Stdin, &s, nil)
	if err != nil {
		os.Exit(1)
	}
	defer cancel()
	t := NewTeller()
	t.TellStarts, t.TellEnds = true, true
	for id := range int64(s.Jobs) {
		t.Entered(id, time.Now())
		t.Returned(id)
	}
	t.Works()
	if s.Leave {
		cancel()
	}
	out := json.NewEncoder(os.Stdout)
	t.Report(ctx, func(p Progress, last bool) {
		m := message{Progress: p}
		if last {
			m.Bye = "bye"
		}
		_ = out.Encode(m)
	})
}

func fleetOf(t *testing.T, settings ...told) *Fleet[message] {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := New[message]([]string{self}, time.Minute)
	for i, s := range settings {
		if err := f.Start(string(rune('a'+i)), s); err != nil {
			t.Fatal(errors.Join(err, f.Stop()))
		}
	}
	return f
}

func TestFleetAddsUpWhatItsProcessesTell(t *testing.T) {
	f := fleetOf(t, told{Jobs: 2}, told{Jobs: 3})
	if err := f.AllReady(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	if got := f.Done(); got != 5 {
		t.Errorf("got %d jobs done, want 5", got)
	}
	if first, last, ok := f.Span(); !ok || last.Before(first) {
		t.Errorf("got from %v to %v, %v, want some time", first, last, ok)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
	f.Look(func(all Members[message]) {
		if len(all.Starts()) != 5 || len(all[1].Ends) != 3 || all[0].Latest.Bye != "bye" || !all[0].Ended {
			t.Errorf("got %+v and %+v, want all starts and ends, and a last message", all[0], all[1])
		}
	})
}

func TestProcessThatEndsBeforeItsTimeIsAnErrorAndOneThatWasKilledIsNot(t *testing.T) {
	f := fleetOf(t, told{Jobs: 1}, told{})
	if err := f.AllReady(t.Context(), time.Minute); err != nil {
		t.Fatal(errors.Join(err, f.Stop()))
	}
	var killed *Member[message]
	f.Look(func(all Members[message]) { killed = all[0] })
	if err := f.Kill(t.Context(), killed); err != nil {
		t.Error(err)
	}
	if err := f.Start("c", told{Leave: true}); err != nil {
		t.Error(err)
	}
	never := func(Members[message]) bool { return false }
	if err := f.Await(t.Context(), time.Minute, never); err == nil || !strings.Contains(err.Error(), "c: ended before it was told to") {
		t.Errorf("got %v, want the end of c", err)
	}
	if err := f.Stop(); err == nil || strings.Contains(err.Error(), "a:") {
		t.Errorf("got %v, want the end of c and not that of a", err)
	}
}

func TestWaitIsEndedByItsContextAndBySilence(t *testing.T) {
	f := fleetOf(t, told{})
	never := func(Members[message]) bool { return false }
	if err := f.Await(t.Context(), time.Millisecond, never); err == nil || !strings.Contains(err.Error(), "nothing has happened for 1ms") {
		t.Errorf("got %v, want that nothing has happened", err)
	}
	wrong := errors.New("wrong")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(wrong)
	if err := f.Await(ctx, 0, never); !errors.Is(err, wrong) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
}

func TestTellerTellsNewsNowAndThenAndAllInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		teller := NewTeller()
		teller.TellStarts = true
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		type news struct {
			at   time.Duration
			done int
			ids  []int64
			last bool
		}
		var got []news
		reported := make(chan struct{})
		go func() {
			defer close(reported)
			teller.Report(ctx, func(p Progress, last bool) {
				n := news{at: time.Since(begin), done: p.Done, last: last}
				for _, s := range p.Starts {
					n.ids = append(n.ids, s.ID)
				}
				got = append(got, n)
			})
		}()
		for id := range int64(3) { // the first is told at once, the others when it may be again
			teller.Entered(id, time.Now())
			synctest.Wait()
			teller.Returned(id)
		}
		time.Sleep(time.Second)
		teller.Returned(9)
		synctest.Wait()
		cancel()
		<-reported
		want := []news{
			{ids: []int64{0}}, {at: reporting, done: 3, ids: []int64{1, 2}},
			{at: time.Second, done: 4}, {at: time.Second, done: 4, last: true},
		}
		if !slices.EqualFunc(got, want, func(a, b news) bool {
			return a.at == b.at && a.done == b.done && a.last == b.last && slices.Equal(a.ids, b.ids)
		}) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
