package observe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel"
	tracespb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// scraped is what Prometheus would get.
type scraped map[string]*dto.MetricFamily

func scrape(t *testing.T, h http.Handler) scraped {
	t.Helper()
	response := httptest.NewRecorder()
	h.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if response.Code != http.StatusOK {
		t.Fatalf("got status %d, want 200: %s", response.Code, response.Body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatalf("what was scraped cannot be parsed: %v", err)
	}
	return families
}

// find returns the one series of a family with these labels; nil: there is none.
func (s scraped) find(t *testing.T, family string, labels ...string) (found *dto.Metric) {
	t.Helper()
	for _, m := range s[family].GetMetric() {
		got := map[string]string{}
		for _, l := range m.Label {
			got[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && got[labels[i]] == labels[i+1]
		}
		if matches && found != nil {
			t.Errorf("%s%v: got two series, want one", family, labels)
		}
		if matches {
			found = m
		}
	}
	return found
}

// value is that of a gauge or a counter; -1: there is none.
func (s scraped) value(t *testing.T, family string, labels ...string) float64 {
	t.Helper()
	switch m := s.find(t, family, labels...); {
	case m == nil:
		return -1
	case m.Counter != nil:
		return m.Counter.GetValue()
	default:
		return m.Gauge.GetValue()
	}
}

// queueName is one that no other run of a test has used: the program's counters go on.
func queueName() string { return fmt.Sprintf("apples-%d", rand.Int64()) }

func TestPrometheusGetsWhatRealJobsHaveDone(t *testing.T) {
	tel, _ := program()
	jobs, _ := newStore(t)
	name := queueName()
	queue := jobs.Queue(name)
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	ran := make(chan struct{}, 10)
	d.Handle(name, dispatcher.HandlerFunc(func(_ context.Context, job *dispatcher.Job) error {
		ran <- struct{}{}
		switch {
		case bytes.Contains(job.Data, []byte("pointless")):
			return dispatcher.Discard("it is " + canary)
		case bytes.Contains(job.Data, []byte("later")):
			return dispatcher.Snooze(time.Hour)
		}
		if bytes.Contains(job.Data, []byte("sour")) {
			return retry.Permanent(errors.New("it was " + canary))
		}
		return nil
	}))
	for _, data := range []string{canary, canary, canary, canary + " sour", "pointless", "later"} {
		if _, err := queue.Put(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	stop := run(t, d)
	for range 6 {
		receive(t, ran, "a job")
	}
	stop()

	got := scrape(t, tel.Handler())
	label := []string{"messaging_destination_name", name}
	with := func(more ...string) []string { return slices.Concat(label, more) }
	for _, want := range []struct {
		family string
		labels []string
		value  float64
	}{
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "done"), 3},
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "set_aside", "error_type", "_OTHER"), 1},
		// What a handler decides is no error that anyone is to be woken for.
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "discarded"), 1},
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "discarded", "error_type", "*dispatcher.discard"), -1},
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "snoozed"), 1},
		{"pq_dispatch_jobs_total", with("pq_dispatch_outcome", "snoozed", "error_type", "*dispatcher.snooze"), -1},
		{"messaging_client_sent_messages_total", label, 6},
		{"pq_dispatch_in_flight", label, 0},
		{"pq_dispatch_build_info", []string{"version", "v1.2.3", "revision", "abc"}, 1},
		{"target_info", []string{"service_name", "pq-dispatch", "service_version", "v1.2.3", "deployment_environment_name", "test"}, 1},
	} {
		if v := got.value(t, want.family, want.labels...); v != want.value {
			t.Errorf("%s%v: got %v, want %v", want.family, want.labels, v, want.value)
		}
	}
	for _, family := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_start_time_seconds", "pq_dispatch_wakes_total"} {
		if got[family] == nil {
			t.Errorf("got no %s, want it", family)
		}
	}
	for family, labels := range map[string][]string{
		"pq_dispatch_lateness_seconds":       label,
		"messaging_process_duration_seconds": with("pq_dispatch_outcome", "done"),
	} {
		m := got.find(t, family, labels...)
		if m == nil || m.Histogram == nil {
			t.Errorf("%s: got no histogram, want one", family)
			continue
		}
		var bounds []float64
		for _, b := range m.Histogram.Bucket {
			bounds = append(bounds, b.GetUpperBound())
		}
		if len(bounds) < len(seconds) || !slices.Equal(bounds[:len(seconds)], seconds) {
			t.Errorf("%s: got the bounds %v, want %v", family, bounds, seconds)
		}
		if n := m.Histogram.GetSampleCount(); n < 3 {
			t.Errorf("%s: got %d samples, want one a job", family, n)
		}
	}
}

func TestPrometheusMayAskForOpenMetrics(t *testing.T) {
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	response := httptest.NewRecorder()
	private(t).Handler().ServeHTTP(response, request)
	if got := response.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Errorf("got the type %q, want OpenMetrics", got)
	}
	if !strings.HasSuffix(response.Body.String(), "# EOF\n") {
		t.Error("got no # EOF at the end, want it")
	}
}

// A job that was put while a request was served has a span under the request's; the handler's has a trace of its
// own that links to that: a job may be put by a request and run, and run again, long after it.
func TestACollectorCanJoinAHandlerToWhoPutTheJob(t *testing.T) {
	tel, collector := program()
	jobs, _ := newStore(t)
	name := queueName()
	d := dispatcher.New(jobs, quiet(dispatcher.Options{}))
	ran := make(chan struct{}, 1)
	d.HandleAll(name, dispatcher.HandlerFunc(func(context.Context, *dispatcher.Job) error {
		ran <- struct{}{}
		return nil
	}))
	stop := run(t, d)
	ctx, request := otel.Tracer("test").Start(t.Context(), "request")
	id, err := jobs.Queue(name).Put(ctx, canary)
	if err != nil {
		t.Fatal(err)
	}
	request.End()
	receive(t, ran, "the job")
	stop()
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}

	collector.mu.Lock()
	defer collector.mu.Unlock()
	var parent, put, process *tracespb.Span
	for _, r := range collector.traces {
		for _, rs := range r.ResourceSpans {
			about := attributes(rs.Resource.Attributes)
			if about["service.name"] != "pq-dispatch" || about["service.version"] != "v1.2.3" || about["deployment.environment.name"] != "test" {
				t.Errorf("got the resource %v, want the service and what the environment says", about)
			}
			if args, told := about["process.command_args"]; told {
				t.Errorf("got the arguments %q in the resource, want none", args)
			}
			for _, ss := range rs.ScopeSpans {
				for _, span := range ss.Spans {
					switch {
					case string(span.SpanId) == string(idOf(request.SpanContext().SpanID())):
						parent = span
					case span.Name == "put "+name:
						put = span
					case span.Name == "process "+name:
						process = span
					}
				}
			}
		}
	}
	if parent == nil || put == nil || process == nil {
		t.Fatalf("got the request's span: %v, the put's: %v, the handler's: %v; want all", parent != nil, put != nil, process != nil)
	}
	if put.Kind != tracespb.Span_SPAN_KIND_PRODUCER || !bytes.Equal(put.ParentSpanId, parent.SpanId) || !bytes.Equal(put.TraceId, parent.TraceId) {
		t.Errorf("got the put %v of kind %v, want a producer under the request", put, put.Kind)
	}
	if process.Kind != tracespb.Span_SPAN_KIND_CONSUMER || len(process.Links) != 1 ||
		!bytes.Equal(process.Links[0].SpanId, put.SpanId) || !bytes.Equal(process.Links[0].TraceId, put.TraceId) {
		t.Errorf("got the handler's links %v, want one to the put", process.Links)
	}
	for _, span := range []*tracespb.Span{put, process} {
		got := attributes(span.Attributes)
		if got["messaging.system"] != "postgresql" || got["messaging.destination.name"] != name || got["messaging.message.id"] != strconv.FormatInt(id, 10) {
			t.Errorf("%s: got %v, want system, queue and the job's id %d", span.Name, got, id)
		}
	}
	if got := attributes(process.Attributes)["pq_dispatch.outcome"]; got != "done" {
		t.Errorf("got the outcome %q, want done", got)
	}

	counted := false
	for _, r := range collector.metrics {
		for _, rm := range r.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					for _, p := range m.GetSum().GetDataPoints() {
						counted = counted || m.Name == "pq_dispatch.jobs" && attributes(p.Attributes)["messaging.destination.name"] == name && p.GetAsInt() == 1
					}
				}
			}
		}
	}
	if !counted {
		t.Error("got no pq_dispatch.jobs of 1 for the queue, want it exported too")
	}
	if bytes.Contains(collector.raw.Bytes(), []byte(canary)) {
		t.Error("got a job's data in what was exported, want none")
	}
	if len(collector.errs) > 0 {
		t.Errorf("got %v, want requests that can be read", collector.errs)
	}
}

func idOf(id [8]byte) []byte { return id[:] }

func TestExportIsOffUnlessTheEnvironmentAsksForIt(t *testing.T) {
	tests := map[string]struct {
		env             map[string]string
		traces, metrics bool
	}{
		"nothing is set":           {nil, false, false},
		"an endpoint for all":      {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, true, true},
		"an endpoint for one":      {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, true, false},
		"an exporter is named":     {map[string]string{"OTEL_METRICS_EXPORTER": "otlp"}, false, true},
		"one of them is none":      {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, true, false},
		"the SDK is disabled":      {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, false, false},
		"only the sampler is set":  {map[string]string{"OTEL_TRACES_SAMPLER": "always_on"}, false, false},
		"only the protocol is set": {map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			if traces, metrics := exports("TRACES"), exports("METRICS"); traces != test.traces || metrics != test.metrics {
				t.Errorf("got traces %v, metrics %v; want %v, %v", traces, metrics, test.traces, test.metrics)
			}
		})
	}
}

func TestWithoutACollectorNoSpanIsRecorded(t *testing.T) {
	if tel := private(t); tel.traces != nil {
		t.Error("got a tracer, want none")
	}
}

func TestTheSamplerIsThatOfTheEnvironment(t *testing.T) {
	for sampler, want := range map[string]bool{"always_off": false, "always_on": true} {
		t.Run(sampler, func(t *testing.T) {
			server := httptest.NewServer(&collector{})
			defer server.Close()
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", server.URL+"/v1/traces")
			t.Setenv("OTEL_TRACES_SAMPLER", sampler)
			_, span := private(t).traces.Tracer("test").Start(t.Context(), "span")
			defer span.End()
			if got := span.IsRecording(); got != want {
				t.Errorf("got recording %v, want %v", got, want)
			}
		})
	}
}

func TestTheNameOfTheServiceIsThatOfTheEnvironment(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "orchard")
	if got := scrape(t, private(t).Handler()); got.value(t, "target_info", "service_name", "orchard") != 1 {
		t.Errorf("got %v, want service_name=orchard", got["target_info"])
	}
}

func TestAWrongExporterIsAnErrorThatNamesTheVariable(t *testing.T) {
	for _, variable := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "pigeon")
			if _, err := newTelemetry(t.Context(), Build{}); err == nil || !strings.Contains(err.Error(), variable) {
				t.Errorf("got %v, want an error that names %s", err, variable)
			}
		})
	}
}

func TestACollectorThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	tel, err := newTelemetry(t.Context(), Build{})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.traces.Tracer("test").Start(t.Context(), "span")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tel.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to say that there was no time", err)
	}
}

func TestTheSDKsTroublesAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := &troubles{log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 5 {
			h.Handle(errors.New("no collector"))
		}
		time.Sleep(quietTime)
		h.Handle(errors.New("still none"))
		if got := strings.Count(out.String(), "\n"); got != 2 || !strings.Contains(out.String(), "not_logged=4") {
			t.Errorf("got %s, want two lines, the second with not_logged=4", out.String())
		}
	})
}
