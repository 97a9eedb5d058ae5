package observe

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}}

func newStore(t *testing.T) (*store.Store, *pgxpool.Pool) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), migrated.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return store.New(pool, store.Options{}), pool
}

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func receive[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-from:
	case <-timer.C:
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// run runs a dispatcher until the function that it returns is called, or the test ends.
func run(t *testing.T, d *dispatcher.Dispatcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, done, "the dispatcher's end"); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func quiet(o dispatcher.Options) dispatcher.Options {
	o.Logger = slog.New(slog.DiscardHandler)
	return o
}

// collector receives what is exported by OTLP, as protobuf over HTTP.
type collector struct {
	mu      sync.Mutex
	raw     bytes.Buffer
	traces  []*tracepb.ExportTraceServiceRequest
	metrics []*metricspb.ExportMetricsServiceRequest
	errs    []error
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	switch r.URL.Path {
	case "/v1/traces":
		var request tracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		c.traces = append(c.traces, &request)
	case "/v1/metrics":
		var request metricspb.ExportMetricsServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		c.metrics = append(c.metrics, &request)
	default:
		http.NotFound(w, r)
	}
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		default:
			m[a.Key] = a.Value.String()
		}
	}
	return m
}

// program is the telemetry of this test binary, of which there can be only one, and the collector that it
// exports to.
var program = sync.OnceValues(func() (*Telemetry, *collector) {
	c := &collector{}
	server := httptest.NewServer(c)
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL,
		"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		"OTEL_RESOURCE_ATTRIBUTES":    "deployment.environment.name=test",
		"OTEL_BSP_SCHEDULE_DELAY":     "3600000", // only when flushed
		"OTEL_METRIC_EXPORT_INTERVAL": "3600000",
	} {
		os.Setenv(name, value)
		defer os.Unsetenv(name)
	}
	t, err := Start(context.Background(), Build{Version: "v1.2.3", Revision: "abc"}, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	return t, c
})

// private is telemetry that the library does not know of.
func private(t *testing.T) *Telemetry {
	t.Helper()
	tel, err := newTelemetry(t.Context(), Build{Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}
