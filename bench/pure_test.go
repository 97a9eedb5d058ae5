package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestHistogramHasThePercentilesOfWhatItCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(2*time.Minute)), 1, 200).Draw(t, "nanoseconds")
		h := newHistogram()
		for _, v := range values {
			h.record(time.Duration(v))
		}
		slices.Sort(values)
		for _, p := range []float64{50, 99, 100} {
			rank := max(1, int(math.Ceil(float64(len(values))*p/100)))
			want := milliseconds(time.Duration(values[rank-1]).Truncate(time.Microsecond))
			if got := h.percentile(p); math.Abs(got-want) > want/500+0.001 {
				t.Errorf("got p%v %v ms, want %v ms to three digits", p, got, want)
			}
		}
		if h.count() != len(values) {
			t.Errorf("got a count of %d, want %d", h.count(), len(values))
		}
	})
}

func TestHistogramCountsWhatIsBeyondItsRange(t *testing.T) {
	h := newHistogram()
	h.record(-time.Second)
	h.record(2 * longest)
	if h.count() != 2 || h.percentile(1) != 0 || math.Abs(h.percentile(100)-milliseconds(longest)) > 5000 {
		t.Errorf("got %d, from %v to %v ms, want 2, from 0 to an hour", h.count(), h.percentile(1), h.percentile(100))
	}
}

func TestHistogramsTravelAndAddUp(t *testing.T) {
	sum := newHistogram()
	for i := range 3 {
		h := newHistogram()
		for j := range 100 {
			h.record(time.Duration(i*100+j) * time.Millisecond)
		}
		text, err := json.Marshal(message{Delays: h})
		if err != nil {
			t.Fatal(err)
		}
		var got message
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		sum.add(got.Delays)
	}
	sum.add(newHistogram())
	if got := sum.percentile(50); sum.count() != 300 || math.Abs(got-149) > 1 {
		t.Errorf("got %d with p50 %v ms, want 300 with 149 ms", sum.count(), got)
	}
	text, err := json.Marshal(message{Delays: newHistogram()})
	if err == nil {
		err = json.Unmarshal(text, new(message))
	}
	if err != nil {
		t.Errorf("an empty histogram: %v", err)
	}
}

func TestFigureOfSeveralRoundsIsTheMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3},
	} {
		given := slices.Clone(test.values)
		if got := median(given); got != test.want || !slices.Equal(given, test.values) {
			t.Errorf("median(%v): got %v, want %v, and the values as they were", test.values, got, test.want)
		}
	}
}

// someReport has a figure of each kind.
func someReport() *Report {
	h := &harness{report: &Report{
		Bench: "drain", CommandLine: "pq-dispatch bench drain", Versions: Versions{"go1", "15", "v1"},
		Settings: map[string]string{"fsync": "on", "synchronous_commit": "on", "shared_buffers": "128MB"},
		Machine:  Machine{2, "linux", "amd64"}, Scale: reportedScale{Jobs: 10, DurationSeconds: 1.5, Rounds: 3, Embedded: true},
		Figures: newFigures(), Floor: newFigures(), Targets: map[string]Target{}, OK: map[string]bool{},
	}}
	for _, v := range []float64{900, 1000, 1200.5} {
		h.floor("jobs_per_second", v)
		h.figure("jobs_per_second", v/2)
		h.figure("ratio", 0.5)
	}
	h.figure("p99_ms", 12.345)
	h.figure("lost_jobs", 1)
	h.figure("server_cpu_percent", math.NaN()) // not measured
	h.figure("endless", math.Inf(1))
	h.atLeast("ratio", 0.65)
	h.atMost("p99_ms", 25)
	h.atMost("cpu_percent", 1)
	h.never("lost_jobs")
	return h.report
}

func TestReportAsJSONHasStableKeys(t *testing.T) {
	var out bytes.Buffer
	if err := someReport().print(Options{JSON: true, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	want := `{"bench":"drain","command_line":"pq-dispatch bench drain",` +
		`"versions":{"go":"go1","postgresql":"15","pq_dispatch":"v1"},` +
		`"server_settings":{"fsync":"on","shared_buffers":"128MB","synchronous_commit":"on"},` +
		`"machine":{"cpus":2,"os":"linux","arch":"amd64"},` +
		`"scale":{"jobs":10,"duration_seconds":1.5,"rounds":3,"embedded":true},` +
		`"figures":{"jobs_per_second":500,"lost_jobs":1,"p99_ms":12.345,"ratio":0.5},` +
		`"floor":{"jobs_per_second":1000},` +
		`"target":{"cpu_percent":{"at_most":1,"promise":false},"lost_jobs":{"at_most":0,"promise":true},` +
		`"p99_ms":{"at_most":25,"promise":false},"ratio":{"at_least":0.65,"promise":false}},` +
		`"ok":{"cpu_percent":false,"lost_jobs":false,"p99_ms":true,"ratio":false}}` + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReportAsTableShowsFloorFigureAndTarget(t *testing.T) {
	var out bytes.Buffer
	if err := someReport().print(Options{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"pq-dispatch bench drain",
		"pq-dispatch v1, go1, PostgreSQL 15 (started for this) with fsync on, synchronous_commit on, shared_buffers 128MB; 2 CPUs",
		"drain floor measured target",
		"jobs_per_second 1000 500",
		"ratio 0.5 at least 0.65 missed",
		"p99_ms 12.3 at most 25 ok",
		"lost_jobs 1 at most 0 missed",
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if line := strings.Join(strings.Fields(line), " "); line != "" {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestOnlyABrokenPromiseIsAnError(t *testing.T) {
	r := someReport()
	r.judge()
	err := r.broken()
	if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "lost_jobs is 1, and has to be at most 0") || strings.Contains(err.Error(), "ratio") {
		t.Errorf("got %v, want an error about the lost job and nothing else", err)
	}
	r.Figures.samples["lost_jobs"] = []float64{0}
	r.judge()
	if err := r.broken(); err != nil {
		t.Errorf("got %v, want none: to be slow is no error", err)
	}
}

func TestNumbersHaveTheDigitsThatTellSomething(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.65: "0.65", 0.12345: "0.123", 9.876: "9.88", 12.34: "12.3", 100.4: "100", 123456.7: "123457", 25: "25"} {
		if got := number(v); got != want {
			t.Errorf("number(%v): got %s, want %s", v, got, want)
		}
	}
}

func TestProgressIsALineOnATerminalAndNothingElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress("drain", &out)
		p.step("filling")
		p.at("filling", 1, 2)
		p.end()
		if out.Len() > 0 {
			t.Errorf("got %q where there is no terminal, want nothing", &out)
		}
		p.terminal = true
		p.step("round %d", 1)
		p.at("filling", 1, 2) // too soon
		time.Sleep(progressInterval)
		p.at("filling", 2, 2)
		p.end()
		if got, want := out.String(), "\r\x1b[Kdrain: round 1\r\x1b[Kdrain: filling: 2 of 2\r\x1b[K"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestScaleTakesWhatIsMissingFromTheNext(t *testing.T) {
	got := Scale{Jobs: 1}.over(Scale{Jobs: 2, Rate: 3}).over(Scale{Duration: 4, Rate: 5, Rounds: 6})
	if want := (Scale{Jobs: 1, Rate: 3, Duration: 4, Rounds: 6}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
