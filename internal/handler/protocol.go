// What a worker program and we say to each other: one JSON object a line. docs/workers.md is the
// description for those who write programs; here are its types and the parser of what they say.

package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// protocol is the version that we speak. A program is told it by a variable of its environment, and says
// in its first line which one it speaks.
const protocol = 1

// maxLine is how long a line of a program may be, in bytes. It says little: outcomes, with an error.
const maxLine = 1 << 20

// jobLine gives a job to a program. Type and id come first and the data last, without spaces between, so
// that a shell can take the line apart without a parser. The id is a string, as JavaScript would round
// large numbers.
type jobLine struct {
	Type        string          `json:"type"` // "job"
	ID          string          `json:"id"`
	Queue       string          `json:"queue"`
	Task        string          `json:"task"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts,omitzero"`
	EnqueuedAt  string          `json:"enqueued_at"`
	ScheduleAt  string          `json:"schedule_at,omitzero"`
	ExpectedAt  string          `json:"expected_at,omitzero"`
	TraceParent string          `json:"traceparent,omitzero"`
	TraceState  string          `json:"tracestate,omitzero"`
	Data        json.RawMessage `json:"data"`
}

// cancelLine tells a program that the run's time is over. It may still say what became of the job.
type cancelLine struct {
	Type   string `json:"type"` // "cancel"
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

func newJobLine(ctx context.Context, job *dispatcher.Job, maxAttempts int) ([]byte, error) {
	trace := traceOf(ctx, job)
	return encodeLine(&jobLine{
		Type: "job", ID: jobID(job), Queue: job.Queue, Task: job.Task,
		Attempt: job.Attempt, MaxAttempts: attemptsOf(job, maxAttempts),
		EnqueuedAt: stamp(job.EnqueuedAt), ScheduleAt: stamp(job.ScheduleAt), ExpectedAt: stamp(job.ExpectedAt),
		TraceParent: trace["traceparent"], TraceState: trace["tracestate"],
		Data: data(job),
	})
}

func jobID(job *dispatcher.Job) string { return strconv.FormatInt(job.ID, 10) }

func newCancelLine(id string, reason error) []byte {
	line, _ := encodeLine(&cancelLine{Type: "cancel", ID: id, Reason: reason.Error()}) // of three texts
	return line
}

// encodeLine writes the text of the job's data as it is, but for white space.
func encodeLine(v any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return line.Bytes(), err
}

// greeting is the first line of a program.
type greeting struct {
	Ready    bool `json:"ready"`
	Protocol int  `json:"protocol"`
}

func parseGreeting(line []byte) error {
	var g greeting
	if err := decodeLine(line, &g); err != nil {
		return fmt.Errorf("its first line: %w", err)
	}
	if !g.Ready || g.Protocol != protocol {
		return fmt.Errorf(`its first line is %s; want {"ready":true,"protocol":%d}`, quoted(line), protocol)
	}
	return nil
}

// outcomeLine is what a program says of a job that it was given.
type outcomeLine struct {
	ID      string   `json:"id"`
	Outcome string   `json:"outcome"`
	Error   string   `json:"error"`
	Delay   *float64 `json:"delay"` // seconds
	Last    bool     `json:"last"`  // it is about to end, and can have no other job
}

// errOtherJob tells that an outcome is not that of the job in hand: of one before it, most likely, answered twice.
var errOtherJob = errors.New("it spoke of the job")

// parseOutcome reads an outcome: the error that a handler returns for it, and whether it is the program's
// last. err is non-nil if the line does not follow the protocol.
func parseOutcome(line []byte, id string) (outcome error, last bool, err error) {
	var o outcomeLine
	if err := decodeLine(line, &o); err != nil {
		return nil, false, err
	}
	outcome, err = o.meaning(id)
	return outcome, o.Last, err
}

func (o *outcomeLine) meaning(id string) (outcome, err error) {
	if o.ID != id {
		return nil, fmt.Errorf("%w %.40q while it had the job %q", errOtherJob, o.ID, id)
	}
	var delay time.Duration
	if o.Delay != nil {
		if o.Outcome != "retry" && o.Outcome != "snooze" {
			return nil, fmt.Errorf("it said a delay with the outcome %.40q; retry and snooze have one", o.Outcome)
		}
		if delay, err = seconds(*o.Delay); err != nil {
			return nil, err
		}
	}
	said := printable([]byte(o.Error))
	if said == "" {
		said = "the program gave no reason"
	}
	switch o.Outcome {
	case "done":
		if o.Error != "" {
			return nil, errors.New("it said an error with the outcome done")
		}
		return nil, nil
	case "retry":
		if o.Delay != nil {
			return retry.After(delay, errors.New(said)), nil
		}
		return errors.New(said), nil
	case "snooze":
		if o.Delay == nil {
			return nil, errors.New("it said snooze without a delay")
		}
		return dispatcher.Snooze(delay), nil
	case "discard":
		return dispatcher.Discard(said), nil
	case "fail":
		return retry.Permanent(errors.New(said)), nil
	}
	return nil, fmt.Errorf("it said the outcome %.40q; known are done, retry, snooze, discard, fail", o.Outcome)
}

// seconds is a delay within 0..retry.MaxDelay.
func seconds(n float64) (time.Duration, error) {
	if n < 0 || math.IsNaN(n) {
		return 0, fmt.Errorf("it said a delay of %v seconds", n)
	}
	return time.Duration(min(n, retry.MaxDelay.Seconds()) * float64(time.Second)), nil
}

// decodeLine reads one JSON object of which all keys are known: a misspelt one, ignored, would be a delay
// or an error lost in silence.
func decodeLine(line []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return fmt.Errorf("the line %s is not of the protocol: %w", quoted(line), err)
	}
	return nil
}

// quoted is the beginning of a line, for an error.
func quoted(line []byte) string { return strconv.Quote(shorten(printable(line), 200)) }
