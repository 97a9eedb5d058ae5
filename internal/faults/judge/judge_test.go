package judge

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pq-dispatch/pq-dispatch/internal/faults/journal"
)

const ms = int64(time.Millisecond)

// history reads what has happened, an event a line: its time in ms, the process, the kind, and then a number (the token, or a
// server process), #attempt, +ms until it is due, and a text. What the database holds at the end stands there too:
// "20 db accepted 1 #1", and at any time "db waits 1", "db aside 1", "db effect 1"; and "db leak 2 things".
func history(t testing.TB, text string) (events []journal.Event, final Final) {
	t.Helper()
	final = Final{Effects: map[int64]int{}, Pace: 10}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var e journal.Event
		at, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e.Time, e.Process, e.Kind = int64(at*float64(ms))+int64(time.Hour), fields[1], journal.Kind(fields[2])
		for _, f := range fields[3:] {
			n, err := strconv.ParseInt(strings.TrimLeft(f, "#+"), 10, 64)
			switch {
			case err != nil:
				e.Text = strings.TrimSpace(e.Text + " " + f)
			case f[0] == '#':
				e.Attempt = int(n)
			case f[0] == '+':
				e.Due = n * ms
			default:
				e.Token, e.Job = n, n
			}
		}
		switch e.Kind {
		case "accepted":
			final.Completions = append(final.Completions, Completion{Token: e.Token, Job: e.Job, Attempt: e.Attempt, At: e.Time})
		case "waits", "aside":
			final.Rows = append(final.Rows, Row{Token: e.Token, Job: e.Job, Attempt: e.Attempt, SetAside: e.Kind == "aside"})
		case "effect-row":
			final.Effects[e.Token]++
		case "leak":
			final.Leaks = append(final.Leaks, Leak{What: e.Text, Count: int(e.Token)})
		case journal.Forgiven:
			e.Due += int64(time.Hour)
			events = append(events, e)
		default:
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b journal.Event) int { return int(a.Time - b.Time) })
	return events, final
}

func TestWhatMustNotHappenIsFoundAndWhatOnlyLooksLikeItIsNot(t *testing.T) {
	const put = "0 p put-begin 1 plain\n 1 p put-ok 1\n 0 a.1 session-up 71\n 0 b.1 session-up 72\n"
	const done = "10 a.1 start 1 #1\n 20 a.1 end 1 #1 done\n 21 db accepted 1 #1\n"
	const first = "0 p put-begin 1 plain\n 1 p put-ok 1\n"
	const late = "2700 a.1 start 1 #1 apples\n 2710 a.1 end 1 #1 done\n 2711 db accepted 1 #1\n"
	const older = "0 a.1 serves apples\n 0 a.1 session-up 71\n 0 b.1 serves pears\n 0 b.1 session-up 72\n" + first + late
	const younger = "1500 p put-begin 2 plain\n 1501 p put-ok 2\n 1600 a.1 start 2 #1 apples\n 1610 a.1 end 2 #1 done\n 1611 db accepted 2 #1\n"
	const tx = "0 p put-begin 1 tx\n 1 p put-ok 1\n 0 a.1 session-up 71\n 0 b.1 session-up 72\n"
	for _, c := range []struct {
		name, history string
		want          map[What]int
	}{
		{"a job that is done", put + done, nil},
		{"a committed job that is nowhere", put, map[What]int{Lost: 1}},
		{"a job that is gone without a run", put + "21 db accepted 1 #1", map[What]int{Lost: 1}},
		{"a job that is gone after a run that failed", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +0 failed\n 21 db accepted 1 #1", map[What]int{Lost: 1}},
		{"an indeterminate put that is nowhere", "0 p put-begin 1 plain\n 1 p put-indeterminate 1", nil},
		{"a put whose producer was killed, and that is done", "0 p put-begin 1 plain\n 0 a.1 session-up 71\n" + done, nil},
		{"a commit that a failover lost, as announced", put + "5000 run forgiven +0", nil},
		{"a commit that was lost though it was before what a failover may lose", put + "5000 run forgiven +500", map[What]int{Lost: 1}},

		{"a job that was rolled back and yet runs", "0 p put-begin 1 plain\n 1 p put-rolledback 1\n 0 a.1 session-up 71\n" + done, map[What]int{Phantom: 1}},
		{"a put that failed and yet runs", "0 p put-begin 1 plain\n 1 p put-failed 1\n 0 a.1 session-up 71\n" + done, map[What]int{Phantom: 1}},
		{"a put that failed and yet waits", "0 p put-begin 1 plain\n 1 p put-failed 1\n 1 db waits 1 #1", map[What]int{Phantom: 1, Stuck: 1}},
		{"a job that nobody put", "0 a.1 session-up 71\n" + done, map[What]int{Phantom: 1}},
		{"a job that was put twice by one put", put + "1 db aside 1 #1\n 1 db waits 1 #1", map[What]int{Phantom: 1, Stuck: 1}},
		{"a job that was rolled back", "0 p put-begin 1 plain\n 1 p put-rolledback 1", nil},

		{"two completions", put + done + "22 db accepted 1 #1", map[What]int{AcceptedTwice: 1}},
		{"two effects in transactions that complete", tx + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 done-tx\n 19 db accepted 1 #1\n 0 db effect-row 1\n 0 db effect-row 1", map[What]int{AcceptedTwice: 1}},
		{"a completion without its effect", tx + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 done-tx\n 19 db accepted 1 #1", map[What]int{HalfAccepted: 1}},
		{"an effect without its completion", tx + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 broken\n 0 db effect-row 1\n 0 db aside 1 #1", map[What]int{HalfAccepted: 1, Aside: 1}},
		{"a transaction whose commit was not answered", tx + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +0 broken\n 19 db accepted 1 #1\n 0 db effect-row 1", nil},
		{"a process killed just after the commit", tx + "10 a.1 start 1 #1\n 19 db accepted 1 #1\n 0 db effect-row 1\n 20 run ended a.1", nil},

		{"a run after the completion was accepted", put + done + "1500 b.1 start 1 #1\n 1600 b.1 end 1 #1 done", map[What]int{Again: 2}},
		{"the same with a session that broke long after", put + done + "1500 b.1 start 1 #1\n 1600 b.1 end 1 #1 done\n 1490 run backend-ended 71", map[What]int{Again: 1}},
		{"a run after another that was done under an unbroken claim", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 done\n 30 b.1 start 1 #1\n 40 b.1 end 1 #1 done\n 41 db accepted 1 #1", map[What]int{Again: 1}},
		{"the same after the session broke", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 done\n 21 run backend-ended 71\n 22 a.1 session-lost\n 30 b.1 start 1 #1\n 40 b.1 end 1 #1 done\n 41 db accepted 1 #1", nil},
		{"a zombie's completion, accepted before the next run begins", put + "10 a.1 start 1 #1\n 2000 a.1 end 1 #1 done\n 100 run backend-ended 71\n 200 a.1 session-lost\n 2001 db accepted 1 #1\n 2100 b.1 start 1 #1\n 2200 b.1 end 1 #1 done", nil},

		{"a failure of a lost claim, written before the completion of the next run", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +50 failed\n 25 run backend-ended 71\n 26 a.1 session-lost\n 30 b.1 start 1 #1\n 35 b.1 end 1 #1 done\n 90 b.1 start 1 #2\n 95 b.1 end 1 #2 done\n 96 db accepted 1 #2", nil},
		{"the same of an earlier attempt, which is over", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 failed\n 25 run backend-ended 71\n 26 a.1 session-lost\n 30 b.1 start 1 #2\n 35 b.1 end 1 #2 done\n 90 b.1 start 1 #3\n 95 b.1 end 1 #3 done\n 96 db accepted 1 #3", map[What]int{Again: 1}},

		{"two handlers at once", put + "10 a.1 start 1 #1\n 15 b.1 start 1 #1\n 20 a.1 end 1 #1 done\n 21 db accepted 1 #1\n 25 b.1 end 1 #1 done", map[What]int{Overlap: 1}},
		{"two handlers at once in one process", put + "10 a.1 start 1 #1\n 15 a.1 start 1 #2\n 20 a.1 end 1 #1 done\n 21 db accepted 1 #1\n 25 a.1 end 1 #2 done", map[What]int{Overlap: 1, Attempts: 1}},
		{"two handlers at once after the first one's session broke", put + "10 a.1 start 1 #1\n 12 run backend-ended 71\n 13 a.1 session-lost\n 13 a.1 cancelled 1 #1\n 15 b.1 start 1 #1\n 20 a.1 end 1 #1 done\n 21 db accepted 1 #1\n 25 b.1 end 1 #1 done", nil},
		{"two handlers at once as the server crashed", put + "10 a.1 start 1 #1\n 12 run server-down\n 13 a.1 session-lost\n 15 b.1 start 1 #1\n 20 a.1 end 1 #1 done\n 21 db accepted 1 #1\n 25 b.1 end 1 #1 done", nil},
		{"a run of a claim that is lost already, of which its dispatcher has not heard", put + "12 run backend-ended 71\n 2015 b.1 start 1 #1\n 2016 a.1 start 1 #1\n 2020 b.1 end 1 #1 done\n 2021 db accepted 1 #1\n 2025 a.1 session-lost\n 2025 a.1 end 1 #1 broken", nil},
		{"the same, the other way round", put + "12 run backend-ended 71\n 2015 a.1 start 1 #1\n 2016 b.1 start 1 #1\n 2020 b.1 end 1 #1 done\n 2021 db accepted 1 #1\n 2025 a.1 session-lost\n 2025 a.1 end 1 #1 broken", nil},
		{"a second handler after the first one's process died", put + "10 a.1 start 1 #1\n 12 run ended a.1\n 15 b.1 start 1 #2\n 20 b.1 end 1 #2 done\n 21 db accepted 1 #2", nil},

		{"a run before its time", "0 p put-begin 1 +100 plain\n 1 p put-ok 1\n 0 a.1 session-up 71\n" + done, map[What]int{Early: 1}},
		{"a run at its time", "0 p put-begin 1 +10 plain\n 1 p put-ok 1\n 0 a.1 session-up 71\n" + done, nil},
		{"a retry before its delay is over", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +100 failed\n 110 b.1 start 1 #2\n 115 b.1 end 1 #2 done\n 116 db accepted 1 #2", map[What]int{Early: 1}},
		{"a retry at its time", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +100 failed\n 121 b.1 start 1 #2\n 125 b.1 end 1 #2 done\n 126 db accepted 1 #2", nil},
		{"one put off, before its delay is over", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +100 snoozed\n 110 b.1 start 1 #1\n 115 b.1 end 1 #1 done\n 116 db accepted 1 #1", map[What]int{Early: 1}},
		{"a failure that was never written, and another run at once", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +100 failed\n 25 run backend-ended 71\n 26 a.1 session-lost\n 30 b.1 start 1 #1\n 35 b.1 end 1 #1 done\n 36 db accepted 1 #1", nil},

		{"a run of a lost claim, of which its dispatcher has not heard, after a failure elsewhere", put + "2000 run backend-ended 71\n 2080 b.1 start 1 #1\n 2085 b.1 end 1 #1 +100 failed\n 2090 a.1 start 1 #1\n 2095 a.1 end 1 #1 +100 failed\n 2100 a.1 session-lost\n 2400 b.1 start 1 #2\n 2405 b.1 end 1 #2 done\n 2406 db accepted 1 #2", nil},
		{"the same, but its session lived", put + "2080 b.1 start 1 #1\n 2085 b.1 end 1 #1 +100 failed\n 2090 a.1 start 1 #1\n 2095 a.1 end 1 #1 +100 failed\n 2400 b.1 start 1 #2\n 2405 b.1 end 1 #2 done\n 2406 db accepted 1 #2", map[What]int{Early: 1, Attempts: 1}},

		{"a run long after its time", put + "6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1", map[What]int{Late: 1}},
		{"a run as late as a sweep after a fault", put + "2000 run fault-begin 1 x\n 3000 run fault-end 1 x\n 13000 a.1 start 1 #1\n 13010 a.1 end 1 #1 done\n 13011 db accepted 1 #1", nil},
		{"a run long after the processes were ready", put + "2 run open\n 6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1", map[What]int{Late: 1}},
		{"a run soon after the processes were ready", put + "5000 run open\n 6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1", nil},
		{"a run later than that", put + "2000 run fault-begin 1 x\n 3000 run fault-end 1 x\n 19000 a.1 start 1 #1\n 19010 a.1 end 1 #1 done\n 19011 db accepted 1 #1", map[What]int{Late: 1}},
		{"a run later than that, but others used the machine", put + "2000 run fault-begin 1 x\n 3000 run fault-end 1 x\n 3500 run watched 1 #50 x\n 19000 a.1 start 1 #1\n 19010 a.1 end 1 #1 done\n 19011 db accepted 1 #1", nil},
		{"a run long after its time, while others used the machine", put + "1000 run machine #90\n 2000 run machine #20\n 3000 run machine #0\n 6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1", nil},
		{"the same, but they used little of it", put + "1000 run machine #30\n 2000 run machine #10\n 3000 run machine #10\n 6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1", map[What]int{Late: 1}},
		{"the same, but they used it at another time", "-9000 run machine #90\n" + put + "1000 run machine #10\n 6000 a.1 start 1 #1\n 6010 a.1 end 1 #1 done\n 6011 db accepted 1 #1\n 6100 run machine #10\n 7000 run machine #90", map[What]int{Late: 1}},

		{"a job that still waits", put + "0 db waits 1 #1", map[What]int{Stuck: 1}},
		{"a job set aside though it could be done", put + "0 db aside 1 #1", map[What]int{Aside: 1}},
		{"a job set aside after its last attempt", "0 p put-begin 1 doomed\n 1 p put-ok 1\n 0 a.1 session-up 71\n 10 a.1 start 1 #1\n 11 a.1 end 1 #1 +5 failed\n 20 a.1 start 1 #2\n 21 a.1 end 1 #2 +5 failed\n 30 a.1 start 1 #3\n 31 a.1 end 1 #3 failed\n 32 db aside 1 #3", nil},
		{"one attempt more than that", "0 p put-begin 1 doomed\n 1 p put-ok 1\n 0 a.1 session-up 71\n 10 a.1 start 1 #1\n 11 a.1 end 1 #1 +5 failed\n 20 a.1 start 1 #2\n 21 a.1 end 1 #2 +5 failed\n 30 a.1 start 1 #3\n 31 a.1 end 1 #3 +5 failed\n 40 a.1 start 1 #4\n 41 a.1 end 1 #4 failed\n 42 db aside 1 #4", map[What]int{Attempts: 1}},
		{"a failure that is not counted", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 failed\n 30 b.1 start 1 #1\n 35 b.1 end 1 #1 done\n 36 db accepted 1 #1", map[What]int{Attempts: 1}},
		{"an attempt that is left out", put + "10 a.1 start 1 #2\n 20 a.1 end 1 #2 done\n 21 db accepted 1 #2", map[What]int{Attempts: 1}},
		{"an attempt that a process took with it before it began", put + "5 run ended b.1\n 10 a.1 start 1 #2\n 20 a.1 end 1 #2 done\n 21 db accepted 1 #2", nil},
		{"one put off that is counted", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 snoozed\n 30 b.1 start 1 #2\n 35 b.1 end 1 #2 done\n 36 db accepted 1 #2", map[What]int{Attempts: 1}},

		{"a failure whose next attempt a process took with it before it began", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 failed\n 26 run ended b.1\n 50 a.1 start 1 #3\n 55 a.1 end 1 #3 done\n 56 db accepted 1 #3", nil},
		{"a death that may have been a second later than it seems, when the job had failed", put + "5 run ended b.1\n 10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 failed\n 50 a.1 start 1 #3\n 55 a.1 end 1 #3 done\n 56 db accepted 1 #3", nil},
		{"one put off, by a process that died later", put + "10 a.1 start 1 #1\n 20 a.1 end 1 #1 +5 snoozed\n 30 b.1 start 1 #1\n 35 b.1 end 1 #1 +5 snoozed\n 36 run ended a.1\n 50 b.1 start 1 #2\n 55 b.1 end 1 #2 done\n 56 db accepted 1 #2", nil},
		{"a death before the job failed, which nothing counts any more", put + "5 run ended b.1\n 3000 a.1 start 1 #1\n 3010 a.1 end 1 #1 +5 failed\n 3100 a.1 start 1 #3\n 3110 a.1 end 1 #3 done\n 3111 db accepted 1 #3", map[What]int{Attempts: 1}},
		{"a death before the job was put", "0 a.1 session-up 71\n 0 b.1 session-up 72\n 5 run ended b.1\n 5000 p put-begin 1 plain\n 5001 p put-ok 1\n 5010 a.1 start 1 #2\n 5020 a.1 end 1 #2 done\n 5021 db accepted 1 #2", map[What]int{Attempts: 1}},
		{"two attempts for one death", put + "5 run ended b.1\n 10 a.1 start 1 #3\n 20 a.1 end 1 #3 done\n 21 db accepted 1 #3", map[What]int{Attempts: 1}},
		{"a death of a process that does not serve the queue", put + "0 b.1 serves pears\n 5 run ended b.1\n 10 a.1 start 1 #2 apples\n 20 a.1 end 1 #2 done\n 21 db accepted 1 #2", map[What]int{Attempts: 1}},
		{"a death of a process that serves it", put + "0 b.1 serves pears\n 0 b.1 serves apples\n 5 run ended b.1\n 10 a.1 start 1 #2 apples\n 20 a.1 end 1 #2 done\n 21 db accepted 1 #2", nil},
		{"a death while another had the job in hand", put + "10 a.1 start 1 #1\n 3000 run ended b.1\n 6000 run ended a.1\n 7000 c.1 start 1 #3\n 7010 c.1 end 1 #3 done\n 7011 db accepted 1 #3", map[What]int{Attempts: 1}},
		{"the death of the one that had it", put + "10 a.1 start 1 #1\n 3000 run ended b.1\n 6000 run ended a.1\n 7000 c.1 start 1 #2\n 7010 c.1 end 1 #2 done\n 7011 db accepted 1 #2", nil},
		{"a failure and the death of its session, both counted", put + "10 a.1 start 1 #1\n 3000 a.1 end 1 #1 +9000 broken\n 3001 run ended a.1\n 7000 c.1 start 1 #3\n 7010 c.1 end 1 #3 done\n 7011 db accepted 1 #3", map[What]int{Attempts: 1}},
		{"one put off while the late failure of a lost claim is written", put + "10 a.1 start 1 #1\n 20 run backend-ended 71\n 30 b.1 start 1 #1\n 2000 b.1 end 1 #1 +5 snoozed\n 2001 a.1 end 1 #1 +5 failed\n 5000 b.1 start 1 #2\n 5010 b.1 end 1 #2 done\n 5011 db accepted 1 #2", nil},

		{"a job that begins long after one that was put long after it", older + younger, map[What]int{Disorder: 1}},
		{"not so long after it", "0 a.1 serves apples\n 0 a.1 session-up 71\n" + first + strings.ReplaceAll(younger, "1500 p", "900 p") + late, nil},
		{"where a fault was near", older + younger + "500 run fault-begin 1 x\n 600 run fault-end 1 x", nil},
		{"where one was near that breaks nothing", older + younger + "500 run fault-begin 1 +1 x\n 600 run fault-end 1 x", map[What]int{Disorder: 1}},
		{"where one is yet to come", older + younger + "2750 run fault-begin 1 x\n 2800 run fault-end 1 x", map[What]int{Disorder: 1}},
		{"in another process", older + strings.ReplaceAll(younger, "a.1", "b.1"), nil},
		{"where another process serves the queue as well", older + younger + "0 b.1 serves apples", nil},
		{"in another queue", older + strings.ReplaceAll(younger, "apples", "plums"), nil},
		{"after one that was scheduled, and is more urgent by that", older + strings.ReplaceAll(younger, "begin 2", "begin 2 +50"), nil},
		{"though it was scheduled itself, and due", strings.ReplaceAll(older, "begin 1", "begin 1 +400") + younger, map[What]int{Disorder: 1}},
		{"and nobody knows when it was put", strings.ReplaceAll(older, "put-ok", "put-indeterminate") + younger, nil},

		{"a context that goes on after the session was lost", put + "10 a.1 start 1 #1\n 12 run backend-ended 71\n 13 a.1 session-lost\n 6000 a.1 end 1 #1 done\n 6001 db accepted 1 #1", map[What]int{Uncancelled: 1}},
		{"one whose process was stopped meanwhile", put + "10 a.1 start 1 #1\n 11 run stopped a.1\n 12 run backend-ended 71\n 5990 run continued a.1\n 5995 a.1 session-lost\n 6000 a.1 end 1 #1 done\n 6001 db accepted 1 #1", nil},
		{"one that ends in time", put + "10 a.1 start 1 #1\n 12 run backend-ended 71\n 13 a.1 session-lost\n 13 a.1 cancelled 1 #1\n 6000 a.1 end 1 #1 done\n 6001 db accepted 1 #1", nil},
		{"one whose process died at that", put + "10 a.1 start 1 #1\n 12 run backend-ended 71\n 12 run ended a.1\n 30 b.1 start 1 #2\n 40 b.1 end 1 #2 done\n 41 db accepted 1 #2", nil},

		{"goroutines that are left", put + done + "50 a.1 exit #2", map[What]int{Leaked: 2}},
		{"connections that are left", put + done + "0 db leak 3 connections", map[What]int{Leaked: 3}},
		{"none that are left", put + done + "50 a.1 exit #0\n 0 db leak 0 connections", nil},
		{"a process that ends by itself", put + done + "50 run ended a.1 #1", map[What]int{Crashed: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Judge(history(t, c.history))
			got := map[What]int{}
			maps.Copy(got, v.Counts)
			maps.DeleteFunc(got, func(_ What, n int) bool { return n == 0 })
			want := c.want
			if want == nil {
				want = map[What]int{}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s%v", diff, v.Violations)
			}
			if v.OK() != (len(want) == 0) {
				t.Errorf("got OK %v, want %v", v.OK(), len(want) == 0)
			}
		})
	}
}

// work is runs that end well, one every 50 ms.
func work(from, to int) string {
	var b strings.Builder
	for at := from; at < to; at += 50 {
		n := strconv.Itoa(1000 + at)
		stamp := func(ms int) string { return strconv.Itoa(at + ms) }
		b.WriteString(stamp(0) + " p put-begin " + n + " plain\n" + stamp(1) + " p put-ok " + n + "\n" + stamp(2) + " a.1 start " + n + " #1\n")
		b.WriteString(stamp(3) + " a.1 end " + n + " #1 done\n" + stamp(4) + " db accepted " + n + " #1\n")
	}
	return b.String()
}

func TestAReturnToWorkIsTimedFromTheEndOfTheFault(t *testing.T) {
	const before = "0 a.1 session-up 71\n 6000 run fault-begin 1 x\n 7000 run fault-end 1 x\n"
	for _, c := range []struct {
		name, history string
		back          time.Duration
		slow          int
	}{
		{"at once", work(0, 20000) + "14000 run watched 1 x", 0, 0},
		{"after three seconds", work(0, 6000) + work(9500, 20000) + "14000 run watched 1 x", 3 * time.Second, 0},
		{"after six seconds", work(0, 6000) + work(12500, 20000) + "14000 run watched 1 x", 6 * time.Second, 1},
		{"never", work(0, 6000) + "14000 run watched 1 x", -1, 1},
		{"never, but others used the machine", work(0, 6000) + "14000 run watched 1 #50 x", -1, 0},
		{"never, but it was not watched for long", work(0, 6000) + "8000 run watched 1 x", -1, 0},
		{"never, as it may", work(0, 6000) + "14000 run watched 1 +1 x", -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Judge(history(t, before+c.history))
			if len(v.Returns) != 1 || (v.Returns[0].Back-c.back).Abs() > 600*time.Millisecond {
				t.Errorf("got %+v, want it back after %v", v.Returns, c.back)
			}
			if v.Counts[Slow] != c.slow {
				t.Errorf("got %d slow, want %d: %v", v.Counts[Slow], c.slow, v.Violations)
			}
		})
	}
}

func TestOfManyViolationsAFewAreKeptWithTheirEvidenceAndAllAreCounted(t *testing.T) {
	var b strings.Builder
	for n := range 100 {
		b.WriteString("0 p put-begin " + strconv.Itoa(n+1) + " plain\n 1 p put-ok " + strconv.Itoa(n+1) + "\n")
	}
	v := Judge(history(t, b.String()))
	if v.Counts[Lost] != 100 || len(v.Violations) != keep {
		t.Errorf("got %d counted, %d kept, want 100 and %d", v.Counts[Lost], len(v.Violations), keep)
	}
	for _, violation := range v.Violations {
		if len(violation.Evidence) == 0 {
			t.Errorf("%s: got no evidence", violation.Text)
		}
	}
}

func TestOverlapsAreCountedByTheFaultThatCameBefore(t *testing.T) {
	v := Judge(history(t, `0 p put-begin 1 plain
		1 p put-ok 1
		0 a.1 session-up 71
		0 b.1 session-up 72
		2 run fault-begin 1 first
		3 run fault-end 1 first
		10 a.1 start 1 #1
		11 run fault-begin 2 second
		12 run backend-ended 71
		13 a.1 cancelled 1 #1
		14 run fault-end 2 second
		15 b.1 start 1 #2
		16 run fault-begin 3 third
		20 a.1 end 1 #1 broken
		25 b.1 end 1 #2 done
		26 db accepted 1 #2`))
	if diff := cmp.Diff(map[string]int{"second": 1}, v.Overlaps); diff != "" || !v.OK() {
		t.Errorf("overlaps (-want +got):\n%s%v", diff, v.Violations)
	}
}
