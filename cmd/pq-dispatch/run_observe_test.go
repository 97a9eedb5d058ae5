//go:build unix

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// scraped is what a scrape says of a series; -1: it does not say.
func scraped(t *testing.T, text, family string, labels map[string]string) float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("the metrics cannot be parsed: %v", err)
	}
	for _, m := range families[family].GetMetric() {
		found := 0
		for _, l := range m.Label {
			if labels[l.GetName()] == l.GetValue() {
				found++
			}
		}
		if found == len(labels) {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return -1
}

func TestPrometheusIsToldWhatTheDaemonHasDone(t *testing.T) {
	d := newDatabase(t)
	config := listening + `queues: {apples: {max_attempts: 1, exec: {command: ` + sh(`test "$(cat)" != '"sour"'`) + `}}`
	s := d.daemon(config + `}`)
	s.reload(config+`, pears: {exec: {command: [/bin/true]}}}`, "configuration applied")
	d.must("pause", "pears")
	d.put("pears", 2)
	d.put("apples", 4)
	d.must("put", "apples", `"sour"`)
	d.eventually("the jobs have ended", func() bool {
		return d.number(`select count(*) from queue where q_name = 'apples' and not set_aside`) == 0
	})
	var text string
	d.eventually("they are counted", func() bool { // which they are once the daemon knows what the database has
		_, text = s.get("/metrics")
		apples := map[string]string{"messaging_destination_name": "apples"}
		var ended float64
		for _, outcome := range []string{"done", "set_aside"} {
			apples["pq_dispatch_outcome"] = outcome
			ended += max(0, scraped(t, text, "pq_dispatch_jobs_total", apples))
		}
		return ended >= 5
	})
	for _, tt := range []struct {
		family string
		labels map[string]string
		want   float64
	}{
		{"pq_dispatch_jobs_total", map[string]string{"messaging_destination_name": "apples", "pq_dispatch_outcome": "done"}, 4},
		{"pq_dispatch_jobs_total", map[string]string{"messaging_destination_name": "apples", "pq_dispatch_outcome": "set_aside"}, 1},
		{"pq_dispatch_lateness_seconds", map[string]string{"messaging_destination_name": "apples"}, 5},
		{"pq_dispatch_queue_ready", map[string]string{"messaging_destination_name": "pears"}, 2},
		{"pq_dispatch_queue_set_aside", map[string]string{"messaging_destination_name": "apples"}, 1},
		{"pq_dispatch_session_up", map[string]string{"pq_dispatch_session": "locks"}, 1},
		{"pq_dispatch_session_up", map[string]string{"pq_dispatch_session": "listen"}, 1},
		{"pq_dispatch_database_up", nil, 1},
	} {
		if got := scraped(t, text, tt.family, tt.labels); got != tt.want {
			t.Errorf("%s%v: got %v, want %v", tt.family, tt.labels, got, tt.want)
		}
	}
	if status, _ := s.get("/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("pprof that nobody has asked for: got status %d, want 404", status)
	}
	if status, _ := s.get("/api/v1/queues"); status != http.StatusNotFound {
		t.Errorf("API that nobody has asked for: got status %d, want 404", status)
	}
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
}

// collector receives traces by OTLP, as protobuf over HTTP.
type collector struct {
	mu       sync.Mutex
	spans    map[string]*spanpb.Span // by name
	services map[string]string       // by the name of the span
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request tracepb.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				c.spans[span.Name] = span
				c.services[span.Name] = attribute(resource.Resource.Attributes, "service.name")
			}
		}
	}
}

func attribute(all []*commonpb.KeyValue, key string) string {
	for _, a := range all {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func TestATraceLeadsFromTheProducerToTheEndpoint(t *testing.T) {
	d := newDatabase(t)
	c := &collector{spans: map[string]*spanpb.Span{}, services: map[string]string{}}
	receiver := httptest.NewServer(c)
	defer receiver.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.URL+"/v1/traces")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	traceparents := make(chan string, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { traceparents <- r.Header.Get("traceparent") }))
	defer endpoint.Close()
	s := d.daemon(`queues: {letters: {http: {url: '` + endpoint.URL + `'}}}`)

	// The producer is another process than the daemon: this one.
	exporter, err := autoexport.NewSpanExporter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	ctx, span := provider.Tracer("test").Start(t.Context(), "a visitor signs up")
	if _, err := d.jobs.Queue("letters").Put(ctx, "canary"); err != nil {
		t.Fatal(err)
	}
	span.End()
	if err := provider.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	traceparent := <-traceparents
	d.empty()
	s.signal(syscall.SIGTERM)
	s.ends(exitOK) // and the last spans are on their way before that

	c.mu.Lock()
	defer c.mu.Unlock()
	put, process := c.spans["a visitor signs up"], c.spans["process letters"]
	if put == nil || process == nil {
		t.Fatalf("got the spans %v, want those of the producer and of the handler", c.spans)
	}
	if len(process.Links) != 1 || string(process.Links[0].TraceId) != string(put.TraceId) || string(process.Links[0].SpanId) != string(put.SpanId) {
		t.Errorf("got the links %v, want one to the producer's span %x of trace %x", process.Links, put.SpanId, put.TraceId)
	}
	want := fmt.Sprintf("00-%s-%s-01", hex.EncodeToString(process.TraceId), hex.EncodeToString(process.SpanId))
	wants(t, "traceparent at the endpoint", traceparent, want)
	wants(t, "service of the handler", c.services["process letters"], "pq-dispatch")
	wants(t, "outcome", attribute(process.Attributes, "pq_dispatch.outcome"), "done")
	if strings.Contains(fmt.Sprint(process), "canary") {
		t.Errorf("the span has the job's data: %v", process)
	}
}

func TestTheAPIIsServedWithTheTokenAndTheLimitsOfNow(t *testing.T) {
	d := newDatabase(t)
	config := func(token, limits string) string {
		return `
http: {address: '127.0.0.1:0', api: {enabled: true, token: ` + token + limits + `}}
queues: {apples: {exec: {command: [/bin/true]}}}
`
	}
	s := d.daemon(config("a-token-of-the-past", ""))
	put := func(token, data string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.address()+"/api/v1/queues/apples/jobs", strings.NewReader(`{"data": `+data+`}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	large := `"` + strings.Repeat("x", 2000) + `"`
	for _, data := range []string{"1", large} {
		if got := put("a-token-of-the-past", data); got != http.StatusCreated {
			t.Errorf("put: got status %d, want 201", got)
		}
	}
	s.reload(config("a-token-of-today", ""), "configuration applied")
	if got := put("a-token-of-the-past", "1"); got != http.StatusUnauthorized {
		t.Errorf("put with the old token: got status %d, want 401", got)
	}
	if got := put("a-token-of-today", "1"); got != http.StatusCreated {
		t.Errorf("put with the new token: got status %d, want 201", got)
	}
	s.reload(config("a-token-of-today", ", max_body: 1KiB"), "configuration applied")
	if got := put("a-token-of-today", large); got != http.StatusRequestEntityTooLarge {
		t.Errorf("put beyond the new limit: got status %d, want 413", got)
	}
	d.empty()
	s.signal(syscall.SIGTERM)
	s.ends(exitOK)
	if strings.Contains(s.log.String(), "a-token-of") {
		t.Errorf("the log has a token: %s", s.log)
	}
}
