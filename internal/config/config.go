// Package config is the configuration of the daemon: what it may say, where each value comes from, and
// whether it makes sense. It is data only; it opens no connection and starts nothing.
//
// A value comes from a flag, else from a variable PQ_DISPATCH_..., else from the YAML file, else it is the
// default. All four are read off one description, the tags of the types below: [Load], the flags, the
// variables, the JSON Schema and the printed form cannot disagree.
package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/handler"
	"github.com/pq-dispatch/pq-dispatch/retry"
)

// The tags:
//
//	key      the name in the file; the flag and the variable are made of the names on the way to it
//	doc      one sentence for the help and for editors
//	default  as one would write it; none: empty, 0 or false
//	range    FROM..TO, both included, TO may be left out
//	oneof    the words that are allowed
//	flag     the flag, where it is not the path: one that all commands have, and which is not registered here
//	env      a second variable, older than the file
//	restart  a change takes effect with the next start; inherited by what is inside
//
// A key X_file beside a key X of type Secret, Address or []Secret names a file that holds the value.

// Config is the whole configuration. [Load] makes it; fields are then as they will be used, with
// defaults filled in, and secrets read from their files.
type Config struct {
	Database    Database          `key:"database" doc:"The database, and the queue table in it." restart:"true"`
	Concurrency int               `key:"concurrency" doc:"Handlers at once in this process." default:"100" range:"1..100000"`
	Grace       time.Duration     `key:"grace" doc:"How long running handlers may go on after SIGTERM." default:"30s" range:"0s..24h"`
	Sweep       time.Duration     `key:"sweep" doc:"How often all queues are looked at, whatever was notified." default:"10s" range:"100ms..1h"`
	Log         Log               `key:"log" doc:"The log, on standard error."`
	HTTP        Listener          `key:"http" doc:"One listener for probes, metrics, profiles and the API."`
	Queue       Defaults          `key:"queue" doc:"What holds for each queue that does not say otherwise."`
	Queues      map[string]*Queue `key:"queues" doc:"The queues and their handlers, by name. A suffix /gob chooses a codec."`

	origins origins
}

// Database says how to reach the table.
type Database struct {
	URL           Address `key:"url" doc:"Address, as a URL or as key=value pairs. Empty: $DATABASE_URL, else PostgreSQL's own variables." flag:"database-url"`
	URLFile       string  `key:"url_file" doc:"File that holds the address."`
	DirectURL     Address `key:"direct_url" doc:"Address of the same database past a pooler, for sessions that listen or hold locks. Empty: the database's address." flag:"direct-url" env:"PQ_DISPATCH_DIRECT_URL"`
	DirectURLFile string  `key:"direct_url_file" doc:"File that holds the direct address."`
	Schema        string  `key:"schema" doc:"Schema of the queue table." default:"public" flag:"schema"`
	Table         string  `key:"table" doc:"Name of the queue table." default:"queue" flag:"table"`
}

// Log says what is logged.
type Log struct {
	Level  string `key:"level" doc:"The least important level that is logged." default:"info" oneof:"debug info warn error"`
	Format string `key:"format" doc:"Form of the lines; auto is text on a terminal and JSON elsewhere." default:"auto" oneof:"auto json text" restart:"true"`
}

// Listener is the HTTP server of the daemon itself.
type Listener struct {
	Address string `key:"address" doc:"HOST:PORT to listen on, such as 127.0.0.1:9464. Empty: no listener." restart:"true"`
	Pprof   bool   `key:"pprof" doc:"Serve Go's profiles below /debug/pprof/." restart:"true"`
	API     API    `key:"api" doc:"The HTTP API."`
}

// API is the HTTP API of the listener.
type API struct {
	Enabled           bool   `key:"enabled" doc:"Serve the API." restart:"true"`
	Token             Secret `key:"token" doc:"Bearer token that callers of the API must send."`
	TokenFile         string `key:"token_file" doc:"File that holds the token."`
	MaxBody           Size   `key:"max_body" doc:"Largest body of a request." default:"1MiB" range:"1KiB..1GiB"`
	RequestsPerSecond int    `key:"requests_per_second" doc:"Requests that are served in a second; more are answered with 429. 0: no limit." default:"100" range:"0..1000000"`
}

// Defaults are the keys of a queue that the section queue can set for all.
type Defaults struct {
	Concurrency int           `key:"concurrency" doc:"Handlers of a queue at once. 0: as many as the process may run, or a worker has processes." range:"0..100000"`
	Timeout     time.Duration `key:"timeout" doc:"How long one run may take. 0s: no limit." range:"0s..720h"`
	MaxAttempts int           `key:"max_attempts" doc:"How often a job may run before it is set aside, if it does not say itself." default:"25" range:"1..1000000"`
	Prefetch    int           `key:"prefetch" doc:"Most jobs held in reserve. 0: follows the handling rate; -1: none." range:"-1..100000"`
	Retry       Retry         `key:"retry" doc:"When a failed job is run again."`
}

// Retry says when a failed job is run again.
type Retry struct {
	Kind   string        `key:"policy" doc:"Whether the delay grows with each attempt or is always the same." default:"exponential" oneof:"exponential fixed"`
	Delay  time.Duration `key:"delay" doc:"Delay after the first failure." default:"1s" range:"0s..720h"`
	Max    time.Duration `key:"max" doc:"Longest delay (exponential)." default:"1h" range:"1ms..720h"`
	Factor float64       `key:"factor" doc:"Growth of the delay per attempt (exponential)." default:"2" range:"1..1000"`
	Jitter float64       `key:"jitter" doc:"Share of the delay that chance adds or takes (exponential)." default:"0.2" range:"0..1"`
}

// Policy is the retry policy that r describes.
func (r Retry) Policy() retry.Policy {
	if r.Kind == "fixed" || r.Delay == 0 { // no growth makes it more
		return retry.Fixed(r.Delay)
	}
	e := retry.Exponential{Initial: r.Delay, Max: r.Max, Factor: r.Factor, Jitter: r.Jitter}
	if e.Jitter == 0 {
		e.Jitter = -1 // there, 0 is the default and less than 0 is none
	}
	return e
}

// Queue is a queue and its handler: exactly one of HTTP, Exec and Worker is not nil.
type Queue struct {
	Defaults         // those of the section queue where the queue does not say otherwise
	Codec    string  `key:"codec" doc:"How data is encoded, as the suffix of the name would say it." oneof:"json gob"`
	HTTP     *HTTP   `key:"http" doc:"Send each job to a URL."`
	Exec     *Exec   `key:"exec" doc:"Start a program for each job."`
	Worker   *Worker `key:"worker" doc:"Hand jobs to programs that keep running."`
}

// Handler is the kind of the queue's handler: http, exec or worker.
func (q *Queue) Handler() string {
	switch {
	case q.HTTP != nil:
		return "http"
	case q.Exec != nil:
		return "exec"
	case q.Worker != nil:
		return "worker"
	}
	return ""
}

// Slots is how many handlers of the queue run at once; 0: as many as the process may run. A job beyond the
// processes of a worker would only wait in this process, while another one might run it.
func (q *Queue) Slots() int {
	switch {
	case q.Worker == nil:
		return q.Concurrency
	case q.Concurrency == 0:
		return q.Worker.Processes
	}
	return min(q.Concurrency, q.Worker.Processes)
}

// HTTP sends a job to a URL.
type HTTP struct {
	URL                   Endpoint      `key:"url" doc:"URL that gets each job by POST. It may be a local one." required:"true"`
	Headers               Headers       `key:"headers" doc:"Further headers of each request."`
	Secrets               []Secret      `key:"secrets" doc:"Standard Webhooks secrets (whsec_...), the newest first; requests are signed with each."`
	SecretsFile           string        `key:"secrets_file" doc:"File that holds the secrets, one a line."`
	Timeout               time.Duration `key:"timeout" doc:"How long one request may take." default:"30s" range:"1ms..720h"`
	MaxConnectionsPerHost int           `key:"max_connections_per_host" doc:"Connections to the host at once. 0: no limit." range:"0..100000"`
	MaxResponse           Size          `key:"max_response" doc:"How much of a response is read." default:"1MiB" range:"1KiB..1GiB"`
}

// Options are those of its handler.
func (h *HTTP) Options() handler.HTTPOptions {
	o := handler.HTTPOptions{
		URL: h.URL.Reveal(), Headers: Reveal(h.Headers), Timeout: h.Timeout,
		MaxConnsPerHost: h.MaxConnectionsPerHost, MaxResponse: int64(h.MaxResponse),
	}
	for _, secret := range h.Secrets {
		o.Secrets = append(o.Secrets, secret.Reveal())
	}
	return o
}

// Exec starts a program for each job.
type Exec struct {
	Command   []string      `key:"command" doc:"The program, by its absolute path, and its arguments. No shell is involved." required:"true"`
	Dir       string        `key:"dir" doc:"Directory to run it in, absolute." default:"/"`
	Env       Env           `key:"env" doc:"Variables of its environment."`
	Inherit   []string      `key:"inherit" doc:"Names of variables that it gets from the daemon's own environment." default:"[PATH, HOME]"`
	KillAfter time.Duration `key:"kill_after" doc:"Time from SIGTERM to SIGKILL when it has to end." default:"10s" range:"0s..1h"`
	MaxOutput Size          `key:"max_output" doc:"How much of its standard output is logged, at level debug." default:"64KiB" range:"1B..64MiB"`
}

// Worker hands jobs to programs that keep running.
type Worker struct {
	Command      []string      `key:"command" doc:"The program, by its absolute path, and its arguments. No shell is involved." required:"true"`
	Dir          string        `key:"dir" doc:"Directory to run it in, absolute." default:"/"`
	Env          Env           `key:"env" doc:"Variables of its environment."`
	Inherit      []string      `key:"inherit" doc:"Names of variables that it gets from the daemon's own environment." default:"[PATH, HOME]"`
	Processes    int           `key:"processes" doc:"How many of it run; each has one job at a time." default:"4" range:"1..10000"`
	KillAfter    time.Duration `key:"kill_after" doc:"Time from SIGTERM to SIGKILL when one has to end." default:"10s" range:"0s..1h"`
	StartTimeout time.Duration `key:"start_timeout" doc:"How long one may take until it says that it is ready." default:"10s" range:"10ms..1h"`
}

// Finding is a mistake in a configuration, or a warning about it.
type Finding struct {
	Where Position `json:"where"`
	Key   string   `json:"key"`  // the path of the key it is about, such as queues.apples.timeout; may be empty
	Text  string   `json:"text"` // what is wrong and what to do
}

func (f Finding) String() string {
	text := f.Text
	if f.Key != "" {
		text = f.Key + ": " + text
	}
	if at := f.Where.String(); at != "" {
		text = at + ": " + text
	}
	return text
}

// Position is the place where a value was given.
type Position struct {
	Source string `json:"source"`           // a file, $VARIABLE or --flag; empty: the default
	Line   int    `json:"line,omitempty"`   // from 1; 0: the source as a whole
	Column int    `json:"column,omitempty"` // from 1, in characters
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.Source
	}
	return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Column)
}

// Error is all that is wrong with a configuration.
type Error struct{ Findings []Finding }

func (e *Error) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return "config: " + strings.Join(lines, "\n")
}
