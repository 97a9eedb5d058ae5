// Package telemetry is all that the project says to OpenTelemetry, through its API only: without an
// SDK in the program it costs next to nothing and does nothing.
//
// Names follow the semantic conventions for messaging. A job carries the context of the span that
// put it in its metadata; the span that processes it links to that one. No job data and no query
// parameter is ever recorded.
package telemetry

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/pq-dispatch/pq-dispatch"

const (
	keySystem     = attribute.Key("messaging.system")
	keyQueue      = attribute.Key("messaging.destination.name")
	keyOperation  = attribute.Key("messaging.operation.name")
	keyType       = attribute.Key("messaging.operation.type")
	keyMessage    = attribute.Key("messaging.message.id")
	keyBatch      = attribute.Key("messaging.batch.message_count")
	keyTask       = attribute.Key("pq_dispatch.task")
	keyAttempt    = attribute.Key("pq_dispatch.attempt")
	keyOutcome    = attribute.Key("pq_dispatch.outcome")
	keyWakeReason = attribute.Key("pq_dispatch.wake.reason")
	keyErrorType  = attribute.Key("error.type")
	system        = "postgresql"
	operationPut  = "put"
	operationRun  = "process"
)

// propagator carries the trace in a job's metadata, as traceparent and tracestate.
var propagator = propagation.TraceContext{}

// instruments are made once. They and the tracer reach the SDK that the program sets, even later.
var instruments = sync.OnceValue(func() (m struct {
	sent     metric.Int64Counter
	jobs     metric.Int64Counter
	duration metric.Float64Histogram
	lateness metric.Float64Histogram
	inFlight metric.Int64UpDownCounter
	wakes    metric.Int64Counter
	refused  metric.Int64Counter
}) {
	meter := otel.Meter(scope)
	// These fail only for malformed names; the instruments they return then do nothing.
	m.sent, _ = meter.Int64Counter("messaging.client.sent.messages",
		metric.WithUnit("{message}"), metric.WithDescription("Jobs put."))
	m.jobs, _ = meter.Int64Counter("pq_dispatch.jobs",
		metric.WithUnit("{job}"), metric.WithDescription("Runs of jobs, by outcome."))
	m.duration, _ = meter.Float64Histogram("messaging.process.duration",
		metric.WithUnit("s"), metric.WithDescription("Run time of handlers."))
	m.lateness, _ = meter.Float64Histogram("pq_dispatch.lateness",
		metric.WithUnit("s"), metric.WithDescription("From the moment a job was due until its handler started."))
	m.inFlight, _ = meter.Int64UpDownCounter("pq_dispatch.in_flight",
		metric.WithUnit("{job}"), metric.WithDescription("Handlers running."))
	m.wakes, _ = meter.Int64Counter("pq_dispatch.wakes",
		metric.WithUnit("{wake}"), metric.WithDescription("What woke the dispatcher, by reason."))
	m.refused, _ = meter.Int64Counter("pq_dispatch.refused",
		metric.WithUnit("{job}"), metric.WithDescription("Outcomes that came after the claim was lost."))
	return m
})

// Put opens the span of jobs being put and writes its context into their metadata. The function it
// returns ends it, with the ids they were given.
func Put(ctx context.Context, queue string, metadata *map[string]string) (context.Context, func(ids []int64, err error)) {
	ctx, span := tracer().Start(ctx, operationPut+" "+queue, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(keySystem.String(system), keyQueue.String(queue), keyOperation.String(operationPut), keyType.String("send"))
	}
	if span.SpanContext().IsValid() {
		carrier := propagation.MapCarrier{}
		propagator.Inject(ctx, carrier)
		if *metadata == nil {
			*metadata = carrier
		} else {
			maps.Copy(*metadata, carrier) // the draft's own copy
		}
	}
	return ctx, func(ids []int64, err error) {
		switch {
		case err != nil:
			span.SetStatus(codes.Error, "put failed")
		case len(ids) == 1:
			span.SetAttributes(keyMessage.String(strconv.FormatInt(ids[0], 10)))
		default:
			span.SetAttributes(keyBatch.Int(len(ids)))
		}
		if err == nil {
			instruments().sent.Add(ctx, int64(len(ids)), metric.WithAttributes(keySystem.String(system), keyQueue.String(queue)))
		}
		span.End()
	}
}

// tracer is asked for once: the provider looks it up by name each time.
var tracer = sync.OnceValue(func() trace.Tracer { return otel.Tracer(scope) })

// onlyConsumer are the options of nearly all spans of handlers.
var onlyConsumer = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}

// Queue is what is said about the handlers of one queue. Its attribute sets are made once: hashing
// them for each job would cost more than all else that a dispatcher does for it.
type Queue struct {
	name     string
	spanName string
	all      metric.MeasurementOption // the queue
	done     metric.MeasurementOption // and the outcome, of nearly all jobs
}

// done is the outcome of a run that has done its job.
const done = "done"

// failures are the outcomes that are errors of the run. A job that puts itself off, has become pointless, or is handed
// back by a dispatcher that stops has none that anyone should be woken for.
var failures = []string{"retry", "set_aside", "claim_lost"}

// other is the standard's word for an error without a type of its own.
const other = "_OTHER"

// NewQueue returns the telemetry of a queue.
func NewQueue(name string) *Queue {
	return &Queue{
		name:     name,
		spanName: operationRun + " " + name,
		all:      metric.WithAttributes(keySystem.String(system), keyQueue.String(name)),
		done:     metric.WithAttributes(keySystem.String(system), keyQueue.String(name), keyOutcome.String(done)),
	}
}

// Run is what is known of a job when its handler starts.
type Run struct {
	Task     string
	ID       int64
	Attempt  int
	Metadata map[string]string
	Lateness time.Duration
}

// Processing is a handler at work.
type Processing struct {
	queue *Queue
	ctx   context.Context
	span  trace.Span
	start time.Time // zero: nobody measures
}

// Process opens the span of a handler, which is in the context that it returns.
func (q *Queue) Process(ctx context.Context, r Run) (context.Context, Processing) {
	options := onlyConsumer
	if r.Metadata != nil {
		from := trace.SpanContextFromContext(propagator.Extract(context.Background(), propagation.MapCarrier(r.Metadata)))
		if from.IsValid() {
			options = append(slices.Clip(options), trace.WithLinks(trace.Link{SpanContext: from}))
		}
	}
	ctx, span := tracer().Start(ctx, q.spanName, options...)
	if span.IsRecording() {
		span.SetAttributes(keySystem.String(system), keyQueue.String(q.name), keyOperation.String(operationRun), keyType.String("process"),
			keyMessage.String(strconv.FormatInt(r.ID, 10)), keyTask.String(r.Task), keyAttempt.Int(r.Attempt))
	}
	p := Processing{queue: q, ctx: ctx, span: span}
	if m := instruments(); m.jobs.Enabled(ctx) {
		p.start = time.Now()
		m.lateness.Record(ctx, r.Lateness.Seconds(), q.all)
		m.inFlight.Add(ctx, 1, q.all)
	}
	return ctx, p
}

// End closes the span with the run's outcome ("done", "retry", ...) and the kind of its error, if any: of an outcome
// that is no failure it is not told.
func (p Processing) End(outcome, errorType string) {
	switch {
	case !slices.Contains(failures, outcome):
		errorType = ""
	case errorType == "*errors.errorString":
		errorType = other
	}
	if errorType != "" {
		p.span.SetStatus(codes.Error, outcome)
		p.span.SetAttributes(keyErrorType.String(errorType))
	}
	if p.span.IsRecording() {
		p.span.SetAttributes(keyOutcome.String(outcome))
	}
	p.span.End()
	if p.start.IsZero() {
		return
	}
	result := p.queue.done
	switch {
	case errorType != "":
		result = metric.WithAttributes(keySystem.String(system), keyQueue.String(p.queue.name), keyOutcome.String(outcome), keyErrorType.String(errorType))
	case outcome != done:
		result = metric.WithAttributes(keySystem.String(system), keyQueue.String(p.queue.name), keyOutcome.String(outcome))
	}
	m := instruments()
	m.inFlight.Add(p.ctx, -1, p.queue.all)
	m.duration.Record(p.ctx, time.Since(p.start).Seconds(), result)
	m.jobs.Add(p.ctx, 1, result)
}

// Wake counts what woke the dispatcher: "notification", "timer", "sweep", ...
func Wake(ctx context.Context, reason string) {
	instruments().wakes.Add(ctx, 1, metric.WithAttributes(keyWakeReason.String(reason)))
}

// Refused counts outcomes that came after the claim was lost.
func Refused(ctx context.Context, n int) { instruments().refused.Add(ctx, int64(n)) }
