//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package handler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
)

const ready = `{"ready":true,"protocol":1}`

func init() {
	// A worker whose jobs say what it is to do.
	children["worker"] = func() {
		fmt.Println(ready)
		for scanner := lines(); scanner.Scan(); {
			var job jobLine
			must(json.Unmarshal(scanner.Bytes(), &job))
			if job.Type != "job" {
				continue
			}
			var order string
			must(json.Unmarshal(job.Data, &order))
			obey(order, job.ID, func() bool {
				return scanner.Scan() && strings.Contains(scanner.Text(), `"type":"cancel","id":"`+job.ID+`"`)
			})
		}
	}
	children["never ready"] = func() { select {} }
	children["other protocol"] = func() { fmt.Println(`{"ready":true,"protocol":99}`); select {} }
	children["talks when idle"] = func() { fmt.Println(ready + "\n{}"); select {} }
	children["closes stdin"] = func() { os.Stdin.Close(); fmt.Println(ready); select {} }
	children["closes stdout"] = func() { fmt.Println(ready); os.Stdout.Close(); select {} }
	children["ignores the end"] = func() { signal.Ignore(syscall.SIGTERM); fmt.Println(ready); select {} }
	children["answers twice"] = func() { // the second time when it has the next job
		fmt.Println(ready)
		before := ""
		for scanner := lines(); scanner.Scan(); {
			var job jobLine
			must(json.Unmarshal(scanner.Bytes(), &job))
			if before != "" {
				obey("", before, nil)
			}
			before = job.ID
			obey("", job.ID, nil)
		}
	}
	children["one job"] = func() { // and then it ends, as it should be, with the outcome as its last words
		fmt.Println(ready)
		scanner := lines()
		if scanner.Scan() {
			var job jobLine
			must(json.Unmarshal(scanner.Bytes(), &job))
			fmt.Printf(`{"id":%q,"outcome":"done","last":true}`, job.ID) // not even a newline
		}
	}
}

// obey does what a job says.
func obey(order, id string, cancelled func() bool) {
	say := func(format string) { fmt.Printf(format+"\n", id) }
	switch order {
	case "retry":
		say(`{"id":%q,"outcome":"retry","error":"worm","delay":3}`)
	case "snooze":
		say(`{"id":%q,"outcome":"snooze","delay":60}`)
	case "discard":
		say(`{"id":%q,"outcome":"discard","error":"stale"}`)
	case "fail":
		say(`{"id":%q,"outcome":"fail","error":"no apple"}`)
	case "pid":
		fmt.Printf(`{"id":%q,"outcome":"retry","error":"%d"}`+"\n", id, os.Getpid())
	case "die":
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
	case "garbage":
		fmt.Println("Hello, world")
	case "other id":
		fmt.Println(`{"id":"8","outcome":"done"}`)
	case "long":
		fmt.Println(strings.Repeat("x", maxLine+1))
		select {}
	case "flood stderr":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20))
		say(`{"id":%q,"outcome":"done"}`)
	case "wait for cancel":
		touch("READY")
		if cancelled() {
			say(`{"id":%q,"outcome":"retry","error":"as you like"}`)
		}
	case "wait for TERM":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		touch("READY")
		<-told
		say(`{"id":%q,"outcome":"done"}`)
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		touch("READY")
		select {}
	default:
		say(`{"id":%q,"outcome":"done"}`)
	}
}

// newWorker is a pool of programs of that kind, whose processes have to be gone at the end.
func newWorker(t *testing.T, o WorkerOptions) (*Worker, *logs) {
	t.Helper()
	noLeaks(t)
	dir, log := t.TempDir(), newLogs()
	o.Logger = log.logger()
	if o.StartTimeout == 0 {
		o.StartTimeout = patience
	}
	if o.Env != nil {
		o.Env["PIDS"] = dir
	}
	w, err := NewWorker(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Close(context.Background())
		allEnd(t, dir, 0)
	})
	return w, log
}

func up(t *testing.T, w *Worker, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d processes are up", n), func() bool {
		got, _ := w.Up()
		return got == n
	})
}

func order(what string) *dispatcher.Job { return newJob(`"` + what + `"`) }

func TestOutcomesOfAWorkerAreThoseOfItsJobs(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker")})
	for what, want := range map[string]string{"done": "done", "retry": "retry", "snooze": "snooze", "discard": "discard", "fail": "fail", "flood stderr": "done"} {
		if err := w.Handle(t.Context(), order(what)); kindOf(err) != want {
			t.Errorf("%s: got %s (%v), want %s", what, kindOf(err), err, want)
		}
	}
}

// pid is that of the process that runs a job.
func pid(t *testing.T, w *Worker) string {
	t.Helper()
	err := w.Handle(t.Context(), order("pid"))
	if err == nil {
		t.Fatal("got no pid")
	}
	return err.Error()
}

func TestProcessStaysFromJobToJob(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker")})
	first := pid(t, w)
	for range 100 {
		if next := pid(t, w); next != first {
			t.Fatalf("got a job run by %s, want %s", next, first)
		}
	}
}

func TestEachProcessRunsOneJobAtATime(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker"), Processes: 4})
	up(t, w, 4)
	var jobs sync.WaitGroup
	for i := range 400 {
		jobs.Go(func() {
			job := order("done")
			job.ID = int64(i) // an answer about another job would be an error
			if err := w.Handle(t.Context(), job); err != nil {
				t.Error(err)
			}
		})
	}
	jobs.Wait()
	if got, of := w.Up(); got != 4 || of != 4 || len(notedPIDs(t, w.options.Env["PIDS"])) != 4 {
		t.Errorf("got %d processes of %d, want the same 4 of 4 as before", got, of)
	}
}

func TestProcessThatDoesNotFollowTheProtocolIsReplacedAndItsJobFails(t *testing.T) {
	for what, says := range map[string]string{
		"die":     "ended while it had the job: exit status 3: last words",
		"garbage": `the line "Hello, world" is not of the protocol`,
		"long":    "said a line of more than 1048576 bytes: signal: killed",
	} {
		t.Run(what, func(t *testing.T) {
			w, log := newWorker(t, WorkerOptions{Program: child(t, "worker")})
			first := pid(t, w)
			err := w.Handle(t.Context(), order(what))
			if kindOf(err) != "retry" || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "worker process "+first) {
				t.Errorf("got %v, want an error that says %q", err, says)
			}
			log.await(t, "the reason", has("error", says))
			if next := pid(t, w); next == first {
				t.Error("got the same process again, want another")
			}
		})
	}
}

func TestProcessMayEndAfterAnOutcomeThatItCallsItsLast(t *testing.T) {
	w, log := newWorker(t, WorkerOptions{Program: child(t, "one job")})
	for range 10 {
		if err := w.Handle(t.Context(), order("done")); err != nil {
			t.Errorf("got %v, want the job done", err)
		}
	}
	line := log.await(t, "its end", has("error", "as it had said"))
	if line["level"] != "DEBUG" || line["delay"] != 0.0 {
		t.Errorf("got %v, want no warning and no delay", line)
	}
}

func TestDeathOfAnIdleProcessIsNoticedAtOnce(t *testing.T) {
	p := child(t, "worker")
	w, log := newWorker(t, WorkerOptions{Program: p})
	up(t, w, 1)
	first := notedPIDs(t, p.Env["PIDS"])[0]
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	log.await(t, "its end", has("error", fmt.Sprintf("worker process %d ended by itself: signal: killed", first)))
	if next := pid(t, w); next == fmt.Sprint(first) {
		t.Error("got a job run by a dead process")
	}
}

func TestASecondAnswerToAJobCostsTheNextOneNothing(t *testing.T) {
	w, log := newWorker(t, WorkerOptions{Program: child(t, "answers twice")})
	for id := range int64(5) {
		job := newJob("1")
		job.ID = id + 1
		if err := w.Handle(t.Context(), job); err != nil {
			t.Errorf("job %d: got %v, want it done", job.ID, err)
		}
	}
	log.await(t, "the reason", has("error", `it spoke of the job "1" while it had the job "2": signal: killed`))
}

func TestAProcessThatOnlyKnowsOtherJobsFailsItsJob(t *testing.T) {
	w, log := newWorker(t, WorkerOptions{Program: child(t, "worker")})
	pid(t, w)
	says := `it spoke of the job "8" while it had the job "7"`
	err := w.Handle(t.Context(), order("other id")) // by the process that has done a job, and then by one that has not
	if kindOf(err) != "retry" || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want an error that says %q", err, says)
	}
	log.await(t, "the reason", has("error", says))
}

func TestProcessThatTalksWithoutAJobIsKilled(t *testing.T) {
	w, log := newWorker(t, WorkerOptions{Program: child(t, "talks when idle")})
	_ = w
	log.await(t, "its end", has("error", `said "{}" though it had no job: signal: killed`))
}

func TestProcessThatClosesItsPipesIsReplaced(t *testing.T) {
	t.Run("stdout", func(t *testing.T) {
		p := child(t, "closes stdout")
		p.KillAfter = 20 * time.Millisecond
		_, log := newWorker(t, WorkerOptions{Program: p})
		log.await(t, "its end", has("error", "ended by itself: signal: terminated"))
	})
	t.Run("stdin", func(t *testing.T) {
		p := child(t, "closes stdin")
		p.KillAfter = 20 * time.Millisecond
		w, _ := newWorker(t, WorkerOptions{Program: p})
		if err := w.Handle(t.Context(), order("done")); kindOf(err) != "retry" || !strings.Contains(err.Error(), "did not read the job") {
			t.Errorf("got %v, want that it did not read the job", err)
		}
	})
}

func TestProgramThatDoesNotBecomeReadyIsStartedAgainAndJobsArePutOff(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(nowhere, []byte("#!/nowhere/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	const short = 100 * time.Millisecond
	for says, tt := range map[string]struct {
		Program
		startTimeout time.Duration // for those that say something it is long: they are as slow as the machine
	}{
		"was not ready within 100ms: signal: killed":       {child(t, "never ready"), short},
		`its first line is "{\"ready\":true,\"protocol\"`:  {child(t, "other protocol"), patience},
		"ended before it was ready: exit status 4: Syntax": {child(t, "exit", "CODE", "4", "SAY", "SyntaxError"), patience},
		"start: fork/exec": {Program{Command: []string{nowhere}}, short},
	} {
		t.Run(says, func(t *testing.T) {
			w, log := newWorker(t, WorkerOptions{Program: tt.Program, StartTimeout: tt.startTimeout})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tt.startTimeout != short { // the job's own time is over before that
				cancel(dispatcher.ErrTimeout)
			}
			if err := w.Handle(ctx, order("done")); kindOf(err) != "snooze" {
				t.Errorf("got %v, want the job put off", err)
			}
			log.await(t, "why", has("error", says))
			n := 0
			log.await(t, "three starts", func(line map[string]any) bool {
				if has("error", says)(line) {
					n++
					if line["delay"].(float64) < float64(50*time.Millisecond) {
						t.Errorf("got started again after %v, want a backoff", line["delay"])
					}
				}
				return n == 3
			})
		})
	}
}

func TestJobWaitsForAFreeProcessNoLongerThanItsContext(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker", "READY", ready), StartTimeout: time.Hour})
	busy, free := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Handle(busy, order("wait for cancel")) }()
	eventually(t, "the process is busy", exists(ready))
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- w.Handle(ctx, order("done")) }()
	cancel(dispatcher.ErrTimeout)
	if err := <-waiting; !errors.Is(err, dispatcher.ErrTimeout) || !strings.Contains(err.Error(), "no process was free") {
		t.Errorf("got %v, want that none was free", err)
	}
	free()
	<-result
}

// cancelledOrder has a worker run the order and ends its context once it is at it.
func cancelledOrder(t *testing.T, what string, killAfter time.Duration) (before, after string, err error) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready")
	p := child(t, "worker", "READY", ready)
	p.KillAfter = killAfter
	w, _ := newWorker(t, WorkerOptions{Program: p})
	before = pid(t, w)
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Handle(ctx, order(what)) }()
	eventually(t, "it runs", exists(ready))
	cancel(dispatcher.ErrTimeout)
	err = <-result
	return before, pid(t, w), err
}

func TestCancelledJobMayStillHaveAnOutcome(t *testing.T) {
	before, after, err := cancelledOrder(t, "wait for cancel", time.Hour)
	if kindOf(err) != "retry" || err.Error() != "as you like" || before != after {
		t.Errorf("got %v by %s, then %s; want what the program said, and the same process", err, before, after)
	}
}

func TestProcessThatIgnoresACancelGetsSIGTERMAndItsOutcomeCounts(t *testing.T) {
	// Between SIGTERM and SIGKILL it has half of KillAfter, which has to be enough on a machine that is busy, too.
	heard := false
	for killAfter := time.Second; !heard && killAfter <= patience; killAfter *= 2 {
		t.Run(killAfter.String(), func(t *testing.T) {
			before, after, err := cancelledOrder(t, "wait for TERM", killAfter)
			if err != nil && strings.Contains(err.Error(), "signal: killed") {
				t.Logf("got %v, with more time it may have an outcome", err)
				return
			}
			heard = true
			if err != nil || before == after {
				t.Errorf("got %v by %s, then %s; want the job done, and another process", err, before, after)
			}
		})
	}
	if !heard {
		t.Error("got it killed each time, want its outcome")
	}
}

func TestProcessThatIgnoresAllIsKilled(t *testing.T) {
	before, after, err := cancelledOrder(t, "hang", 50*time.Millisecond)
	if kindOf(err) != "retry" || !strings.Contains(err.Error(), "stopped: signal: killed") || before == after {
		t.Errorf("got %v by %s, then %s; want it killed, and another process", err, before, after)
	}
}

func TestLargeDataReachesAWorker(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker")})
	for range 2 {
		if err := w.Handle(t.Context(), order(strings.Repeat("x", 8<<20))); err != nil {
			t.Errorf("got %v, want the job done", err)
		}
	}
}

func TestJobThatIsNoJSONIsSetAsideAndDisturbsNobody(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "worker")})
	before := pid(t, w)
	if err := w.Handle(t.Context(), newJob("{]\n")); kindOf(err) != "fail" {
		t.Errorf("got %v, want it set aside", err)
	}
	if after := pid(t, w); after != before {
		t.Errorf("got the process %s, want %s still", after, before)
	}
}

func TestStderrOfAWorkerIsInTheLog(t *testing.T) {
	p := child(t, "worker")
	w, log := newWorker(t, WorkerOptions{Program: p})
	_ = w.Handle(t.Context(), order("die"))
	line := log.await(t, "its words", has("stderr", "last words"))
	if line["pid"] == nil || line["level"] != "INFO" {
		t.Errorf("got %v, want the pid at INFO", line)
	}
}

func TestClosedWorkerLetsJobsFinishAndProcessesGo(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := child(t, "worker", "READY", ready)
	p.KillAfter = time.Hour // so that none is killed
	w, log := newWorker(t, WorkerOptions{Program: p, Processes: 3})
	up(t, w, 3)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Handle(ctx, order("wait for cancel")) }()
	eventually(t, "it runs", exists(ready))
	closed := make(chan error, 1)
	go func() { closed <- w.Close(t.Context()) }()
	eventually(t, "it is closing", func() bool {
		w.runs.mu.Lock()
		defer w.runs.mu.Unlock()
		return w.runs.closed
	})
	if err := w.Handle(t.Context(), order("done")); kindOf(err) != "snooze" {
		t.Errorf("got %v from a closed handler, want the job put off", err)
	}
	cancel()
	if err := <-result; err == nil || err.Error() != "as you like" {
		t.Errorf("got %v, want the outcome", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("got %v from Close, want nil", err)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	for _, line := range log.lines {
		if line["level"] == "WARN" {
			t.Errorf("got %v in the log, want no warning", line)
		}
	}
}

func TestCloseKillsWhatIsStuckWhenItsTimeIsOver(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := child(t, "worker", "READY", ready)
	p.KillAfter = time.Hour
	w, _ := newWorker(t, WorkerOptions{Program: p, Processes: 2})
	result := make(chan error, 1)
	timedOut, end := context.WithCancelCause(t.Context())
	go func() { result <- w.Handle(timedOut, order("hang")) }()
	eventually(t, "it runs", exists(ready))
	end(dispatcher.ErrTimeout) // and has an hour from now
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from Close, want the context's error", err)
	}
	if err := <-result; err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got %v, want it killed", err)
	}
}

func TestIdleProcessThatIgnoresTheEndOfItsStdinIsKilled(t *testing.T) {
	p := child(t, "ignores the end")
	p.KillAfter = 20 * time.Millisecond
	w, _ := newWorker(t, WorkerOptions{Program: p})
	up(t, w, 1)
	if err := w.Close(t.Context()); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestWorkerClosedWhileItStartsEndsItsProcesses(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "never ready"), Processes: 2, StartTimeout: time.Hour})
	if err := w.Close(t.Context()); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestProcessesKilledAtRandomCostNoMoreThanTheJobTheyHad(t *testing.T) {
	p := child(t, "worker")
	w, _ := newWorker(t, WorkerOptions{Program: p, Processes: 3})
	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		n := 0
		for range ended { // not by the clock: on a slow machine none would live to do a job
			if n++; n%10 != 0 {
				continue
			}
			for _, pid := range notedPIDs(t, p.Env["PIDS"]) {
				if alive(pid) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					break
				}
			}
		}
	})
	var jobs sync.WaitGroup
	for range 6 {
		jobs.Go(func() {
			for range 100 {
				if err := w.Handle(t.Context(), order("done")); err != nil && !strings.Contains(err.Error(), "signal: killed") {
					t.Errorf("got %v, want done or killed", err)
				}
				ended <- struct{}{}
			}
		})
	}
	jobs.Wait()
	close(ended)
	killer.Wait()
	if err := w.Handle(t.Context(), order("done")); err != nil && !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got %v, want it to go on", err)
	}
}

func TestAJobWhoseTimeIsOverBeforeAnyProcessRunsHasHadNoAttempt(t *testing.T) {
	w, _ := newWorker(t, WorkerOptions{Program: child(t, "never ready"), StartTimeout: time.Hour})
	for cause, kind := range map[error]string{dispatcher.ErrTimeout: "snooze", dispatcher.ErrCancelled: "retry"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := w.Handle(ctx, order("done")); kindOf(err) != kind {
			t.Errorf("%v: got %s (%v), want %s", cause, kindOf(err), err, kind)
		}
	}
}
