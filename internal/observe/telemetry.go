// Metrics and traces: the SDK, and where it sends to.

package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	serviceName = "pq-dispatch" // unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise

	// shutdownTime is how long the last spans and metrics have to reach their collector.
	shutdownTime = 5 * time.Second

	// scrapeTime bounds one answer to Prometheus, whose own default is 10 s.
	scrapeTime = 9 * time.Second

	// maxScrapes is how many are answered at once. There is one Prometheus, or two; what comes on top
	// gets a 503.
	maxScrapes = 4
)

// seconds are the histograms' bounds: from a job that is started at once to one that has waited for a day.
// Those that the SDK has without being told are milliseconds of web requests.
var seconds = []float64{
	.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600,
}

// Build says which program it is that is looked at.
type Build struct{ Version, Revision string }

// Telemetry is the program's OpenTelemetry SDK and its Prometheus registry.
type Telemetry struct {
	registry *prometheus.Registry
	metrics  *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider // nil: none are exported
	meter    metric.Meter
}

// Start makes an SDK and gives it to the whole program, which it can do once. The metrics are there to be
// fetched from [Telemetry.Handler]. Traces and metrics are exported as well if the environment says so: if
// OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER name an exporter, or one of the OTEL_EXPORTER_OTLP_*ENDPOINT
// variables an address. OTEL_SDK_DISABLED=true forbids that.
//
// The SDK's own troubles, such as a collector that is away, go to log.
func Start(ctx context.Context, build Build, log *slog.Logger) (*Telemetry, error) {
	otel.SetErrorHandler(&troubles{log: log})
	t, err := newTelemetry(ctx, build)
	if err != nil {
		return nil, err
	}
	if t.traces != nil {
		otel.SetTracerProvider(t.traces)
	}
	otel.SetMeterProvider(t.metrics)
	otel.SetTextMapPropagator(propagation.TraceContext{}) // no baggage: whatever it holds would go to every handler
	return t, nil
}

func newTelemetry(ctx context.Context, build Build) (*Telemetry, error) {
	about, err := describe(ctx, build)
	if err != nil {
		return nil, fmt.Errorf("observe: check OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Telemetry{registry: newRegistry(build)}
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("observe: %w", err)
	}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(about),
		sdkmetric.WithReader(exporter),
		sdkmetric.WithView(sdkmetric.NewView(
			sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram, Unit: "s"},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: seconds}},
		)),
	}
	// The Prometheus exporter of the variable would open a second listener; here it is there anyway.
	if exports("METRICS") && os.Getenv("OTEL_METRICS_EXPORTER") != "prometheus" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("observe: check OTEL_METRICS_EXPORTER and OTEL_EXPORTER_OTLP_*: %w", err)
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	if exports("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("observe: check OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_*: %w", err)
		}
		// OTEL_TRACES_SAMPLER and OTEL_BSP_* are read by the SDK.
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(exporter))
	}
	t.metrics = sdkmetric.NewMeterProvider(options...)
	t.meter = t.metrics.Meter("github.com/pq-dispatch/pq-dispatch/internal/observe")
	return t, nil
}

// exports tells whether the environment asks for the export of a signal, "TRACES" or "METRICS". By the
// standard it would also do so by saying nothing, to an address on this host where mostly no one listens.
func exports(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch os.Getenv("OTEL_" + signal + "_EXPORTER") {
	case "none":
		return false
	case "":
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
	}
	return true
}

// describe says whose telemetry it is: what the environment says, and of the process what tells it from
// others. Its arguments are left out, which may hold an address with a password.
func describe(ctx context.Context, build Build) (*resource.Resource, error) {
	return resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", serviceName),
			attribute.String("service.version", build.Version)),
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithProcessPID(),
		resource.WithFromEnv(), // last, so that it has the last word
	)
}

// newRegistry has what is told of every Go program, and which build this is.
func newRegistry(build Build) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pq_dispatch_build_info",
			Help: "Always 1; the labels say which build this is.",
			ConstLabels: prometheus.Labels{
				"version": build.Version, "revision": build.Revision, "goversion": runtime.Version(),
			},
		}, func() float64 { return 1 }),
	)
	return registry
}

// Handler answers Prometheus, in its own format or in OpenMetrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTime,
		ErrorHandling:       promhttp.ContinueOnError, // what can be told is told
	})
}

// Flush sends what there is to the collectors, if there are any, before ctx ends.
func (t *Telemetry) Flush(ctx context.Context) error {
	err := t.metrics.ForceFlush(ctx)
	if t.traces != nil {
		err = errors.Join(err, t.traces.ForceFlush(ctx))
	}
	return wrap("flush", err)
}

// Shutdown sends the last of the telemetry and ends the SDK. It takes 5 s at most, or until ctx ends, and what
// has not reached a collector by then is lost; the error says why. To be called when the dispatcher has
// ended, so that its last jobs are among what is sent.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	// At the same time: they may have one collector, which may be away.
	var ending sync.WaitGroup
	var metrics, traces error
	ending.Go(func() { metrics = t.metrics.Shutdown(ctx) })
	if t.traces != nil {
		ending.Go(func() { traces = t.traces.Shutdown(ctx) })
	}
	ending.Wait()
	return wrap("shut down", errors.Join(metrics, traces))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("observe: %s the telemetry: %w", what, err)
}

// quietTime is how long nothing more is logged after one of the SDK's troubles: a collector that is away
// makes one every few seconds, and the first says it all.
const quietTime = time.Minute

// troubles logs the errors of the SDK.
type troubles struct {
	log *slog.Logger

	mu      sync.Mutex
	last    time.Time
	skipped int
}

// Handle logs an error, unless it comes too soon after another.
func (t *troubles) Handle(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && time.Since(t.last) < quietTime {
		t.skipped++
		return
	}
	t.log.Warn("telemetry is not whole", "error", err, "not_logged", t.skipped)
	t.last, t.skipped = time.Now(), 0
}
