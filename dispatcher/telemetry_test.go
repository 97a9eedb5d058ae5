package dispatcher_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// canary stands in the data and the error of a job; it must come out nowhere but in last_error.
const canary = "canary-5e1f"

func TestTelemetryFollowsAJobAndNeverItsData(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	traces := trace.NewTracerProvider(trace.WithSyncer(spans))
	reader := metric.NewManualReader()
	otel.SetTracerProvider(traces)
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))

	log := &syncBuffer{}
	jobs := newStore(t)
	apples := jobs.Queue("apples")
	handled := make(chan oteltrace.SpanContext, 10)
	d := dispatcher.New(jobs, dispatcher.Options{
		Logger: slog.New(slog.NewTextHandler(log, nil)),
		Queue:  dispatcher.QueueOptions{Retry: retry.Fixed(0), MaxAttempts: 1},
	})
	d.Handle("apples", dispatcher.HandlerFunc(func(ctx context.Context, job *dispatcher.Job) error {
		handled <- oteltrace.SpanContextFromContext(ctx)
		if job.Task == "" && strings.Contains(string(job.Data), "sour") {
			return retry.Permanent(fmt.Errorf("it was sour"))
		}
		return nil
	}))
	r := start(t, d)

	ctx, parent := traces.Tracer("test").Start(t.Context(), "request")
	good, err := apples.Put(ctx, canary)
	if err != nil {
		t.Fatal(err)
	}
	parent.End()
	inHandler := receive(t, handled, "the job")
	put(t, apples, canary+" sour")
	receive(t, handled, "the sour one")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}

	var putSpan, process tracetest.SpanStub
	for _, span := range spans.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "messaging.message.id" && a.Value.AsString() == fmt.Sprint(good) {
				switch span.SpanKind {
				case oteltrace.SpanKindProducer:
					putSpan = span
				case oteltrace.SpanKindConsumer:
					process = span
				}
			}
		}
	}
	if putSpan.Name != "put apples" || putSpan.Parent.SpanID() != parent.SpanContext().SpanID() {
		t.Errorf("got the put's span %q under %v, want \"put apples\" under the caller's", putSpan.Name, putSpan.Parent.SpanID())
	}
	if process.Name != "process apples" || process.SpanContext.SpanID() != inHandler.SpanID() {
		t.Errorf("got the handler's span %q, want \"process apples\" in the handler's context", process.Name)
	}
	if len(process.Links) != 1 || process.Links[0].SpanContext.SpanID() != putSpan.SpanContext.SpanID() {
		t.Errorf("got the links %v, want one to the put", process.Links)
	}
	wantAttributes(t, process, map[string]string{
		"messaging.system":           "postgresql",
		"messaging.destination.name": "apples",
		"messaging.operation.name":   "process",
		"messaging.operation.type":   "process",
		"pq_dispatch.attempt":        "1",
		"pq_dispatch.outcome":        "done",
	})

	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{
		"messaging.client.sent.messages": 2,
		"pq_dispatch.jobs{done}":         1,
		"pq_dispatch.jobs{set_aside}":    1,
		"pq_dispatch.in_flight":          0,
	} {
		if got := sum(metrics, name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
	for _, name := range []string{"messaging.process.duration", "pq_dispatch.lateness"} {
		if got := observations(metrics, name); got != 2 {
			t.Errorf("%s: got %d observations, want 2", name, got)
		}
	}

	for what, text := range map[string]string{
		"the log":     log.String(),
		"the spans":   fmt.Sprintf("%+v", spans.GetSpans()),
		"the metrics": fmt.Sprintf("%+v", metrics),
	} {
		if strings.Contains(text, canary) {
			t.Errorf("%s: a job's data is in it", what)
		}
	}
	if !strings.Contains(log.String(), "it was sour") {
		t.Error("the log does not say why the job was set aside")
	}
}

func wantAttributes(t *testing.T, span tracetest.SpanStub, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, a := range span.Attributes {
		got[string(a.Key)] = a.Value.String()
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("span %q: got %s=%q, want %q", span.Name, key, got[key], value)
		}
	}
}

// sum adds up a counter, of one outcome if the name ends in {outcome}.
func sum(metrics metricdata.ResourceMetrics, name string) (total int64) {
	name, outcome, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			data, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != name {
				continue
			}
			for _, point := range data.DataPoints {
				if value, _ := point.Attributes.Value(attribute.Key("pq_dispatch.outcome")); outcome == "" || value.AsString() == outcome {
					total += point.Value
				}
			}
		}
	}
	return total
}

func observations(metrics metricdata.ResourceMetrics, name string) (n uint64) {
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			if data, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == name {
				for _, point := range data.DataPoints {
					n += point.Count
				}
			}
		}
	}
	return n
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
