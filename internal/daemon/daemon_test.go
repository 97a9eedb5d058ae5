//go:build unix

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/admin"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/retry"
	"github.com/pq-dispatch/pq-dispatch/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var discard = slog.New(slog.DiscardHandler)

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}}

// load loads a configuration.
func load(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pq-dispatch.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noGoroutines checks at the end of the test that it has left none behind.
func noGoroutines(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before, pgtest.Goroutines()) })
}

// ready is a worker in shell, that does what it is told by nobody and ends with its input.
const ready = `{processes: 2, command: [/bin/sh, -c, 'echo "{\"ready\":true,\"protocol\":1}"; while read -r line; do echo "{\"id\":\"$(echo "$line" | sed "s/.*\"id\":\"\([0-9]*\)\".*/\1/")\",\"outcome\":\"done\"}"; done']}`

// daemonRun is a Run under way.
type daemonRun struct {
	jobs    *store.Store
	hurry   context.CancelFunc
	stop    context.CancelFunc
	reload  chan os.Signal
	next    chan *config.Config // what Load gives, or nil for an error
	log     *records
	level   *slog.LevelVar
	ended   chan error
	testing *testing.T
}

// records are the messages of a log.
type records struct {
	slog.Handler
	mu   sync.Mutex
	said []string
	news chan struct{} // of capacity 1
}

func (r *records) Handle(_ context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, record.Message)
	select {
	case r.news <- struct{}{}:
	default:
	}
	return nil
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) has(message string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.said, message)
}

const patience = 60 * time.Second

func begin(t *testing.T, url string, c *config.Config) *daemonRun {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	hurry, hurryUp := context.WithCancel(context.Background())
	r := &daemonRun{
		jobs: store.New(pool, store.Options{}), hurry: hurryUp, stop: stop, reload: make(chan os.Signal, 1), next: make(chan *config.Config, 1),
		log: &records{news: make(chan struct{}, 1)}, level: &slog.LevelVar{}, ended: make(chan error, 1), testing: t,
	}
	go func() {
		r.ended <- Run(ctx, Options{
			Config: c, Pool: pool, Jobs: r.jobs, Log: slog.New(r.log), Level: r.level, Hurry: hurry, Reload: r.reload,
			Load: func() (*config.Config, []config.Finding, error) {
				if next := <-r.next; next != nil {
					return next, nil, nil
				}
				return nil, nil, &config.Error{Findings: []config.Finding{{Text: "wrong"}}}
			},
		})
	}()
	t.Cleanup(func() {
		stop()
		hurryUp()
		pool.Close()
	})
	return r
}

func (r *daemonRun) says(message string) {
	r.testing.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !r.log.has(message) {
		select {
		case <-r.log.news:
		case err := <-r.ended:
			r.testing.Fatalf("it has ended (%v) and has not said %q but %q", err, message, r.log.said)
		case <-limit.C:
			r.testing.Fatalf("it has not said %q within %v", message, patience)
		}
	}
}

func (r *daemonRun) ends() error {
	r.testing.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case err := <-r.ended:
		return err
	case <-limit.C:
		r.testing.Fatalf("it has not ended within %v", patience)
		return nil
	}
}

const allKinds = `
http: {address: '127.0.0.1:0', pprof: true, api: {enabled: true, token: 0123456789abcdef}}
queues:
  letters: {http: {url: 'http://127.0.0.1:1/'}}
  pictures: {exec: {command: [/bin/cat]}}
  apples: {worker: ` + ready + `}
`

func TestRunLeavesNothingBehindHoweverItEnds(t *testing.T) {
	for name, end := range map[string]func(*daemonRun){
		"at the first signal": func(r *daemonRun) { r.stop() },
		"at the second":       func(r *daemonRun) { r.stop(); r.hurry() },
		"after a reload": func(r *daemonRun) {
			r.next <- load(t, "log: {level: debug}\n"+allKinds+"  pears: {worker: "+ready+"}\n")
			r.reload <- syscall.SIGHUP
			r.says("configuration applied")
			if r.level.Level() != slog.LevelDebug {
				r.testing.Errorf("level: got %v, want that of the new configuration", r.level.Level())
			}
			r.stop()
		},
		"after one that was wrong": func(r *daemonRun) {
			r.next <- load(t, allKinds+"  pears: {worker: "+ready+"}\n  plums: {exec: {command: [/nowhere/eat]}}\n")
			r.reload <- syscall.SIGHUP
			r.says("configuration not applied, the one before stays")
			r.next <- nil
			r.reload <- syscall.SIGHUP
			r.stop()
		},
		"amid a reload": func(r *daemonRun) {
			r.next <- load(t, "queues: {apples: {worker: "+ready+"}}")
			r.reload <- syscall.SIGHUP
			r.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := migrated.Database(t) // which says what is left in the database
			noGoroutines(t)
			r := begin(t, url, load(t, allKinds))
			r.testing = t
			r.says("started")
			if _, err := r.jobs.Queue("apples").Put(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			end(r)
			if err := r.ends(); err != nil {
				t.Errorf("got %v, want nil", err)
			}
			if !r.log.has("stopped") {
				t.Errorf("got %q, want it to say that it has stopped", r.log.said)
			}
		})
	}
}

// hung is a handler that has to be stopped.
type hung struct{ closed chan struct{} }

func (h *hung) Handle(context.Context, *dispatcher.Job) error { return nil }
func (h *hung) Close(ctx context.Context) error {
	<-ctx.Done()
	h.closed <- struct{}{}
	return ctx.Err()
}

func TestAHandlerThatHangsIsStoppedOnce(t *testing.T) {
	noGoroutines(t)
	log := &records{news: make(chan struct{}, 1)}
	patience, impatient := context.WithCancel(t.Context())
	impatient() // the farewell is over
	h := &hung{make(chan struct{}, 2)}
	d := &daemon{
		Options:  Options{Log: slog.New(log), Hurry: t.Context()},
		health:   admin.NewHealth(nil, nil, discard),
		handlers: handlers{"apples": {closer: h}},
		patience: patience, impatience: time.AfterFunc(never, impatient),
	}
	defer d.impatience.Stop()
	d.config.Store(&config.Config{})
	ended := make(chan error)
	go func() {
		<-h.closed // the dispatcher ends when its last handler has
		ended <- nil
	}()
	if err := d.drain(ended); err != nil {
		t.Error(err)
	}
	d.close()
	const stopped = "a handler was stopped"
	if n := len(slices.DeleteFunc(log.said, func(s string) bool { return s != stopped })); n != 1 {
		t.Errorf("got it said %d times that a handler was stopped, want once", n)
	}
}

func TestRunReturnsWhatCannotBeMendedAndLeavesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		config   string
		watchdog string
		want     error
	}{
		"a database that is not migrated": {allKinds, "", store.ErrNotMigrated},
		"no such program":                 {allKinds + "  pears: {exec: {command: [/nowhere/eat]}}\n", "", dispatcher.ErrConfig},
		"an address that is not here":     {strings.Replace(allKinds, "127.0.0.1:0", "192.0.2.1:1", 1), "", dispatcher.ErrConfig},
		"a watchdog without a time":       {allKinds, "soon", nil},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.Database(t)
			t.Setenv("WATCHDOG_USEC", tt.watchdog)
			noGoroutines(t)
			err := begin(t, url, load(t, tt.config)).ends()
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want an error that matches %v", err, tt.want)
			}
		})
	}
}

func TestOptionsAreThoseOfTheConfiguration(t *testing.T) {
	c := load(t, `
concurrency: 50
grace: 0s
sweep: 5s
queue: {timeout: 1m, max_attempts: 3, retry: {policy: exponential, delay: 2s, jitter: 0}}
queues:
  apples: {timeout: 0s, concurrency: 7, prefetch: -1, exec: {command: [/bin/true]}}
  pears/gob: {max_attempts: 9, worker: {command: [/bin/true], processes: 3}}
  plums: {codec: gob, retry: {policy: fixed, delay: 5s}, http: {url: 'http://localhost/'}}
`)
	d := &daemon{Options: Options{Jobs: store.New(nil, store.Options{}), Log: discard}}
	got := d.options(c)
	if delay, ok := got.Queues["plums"].Retry.Next(9, nil); delay != 5*time.Second || !ok {
		t.Errorf("delay of plums: got %v, %v; want 5s", delay, ok)
	}
	plums := got.Queues["plums"]
	plums.Retry = nil // a function, which cannot be compared
	got.Queues["plums"] = plums
	policy := retry.Exponential{Initial: 2 * time.Second, Max: time.Hour, Factor: 2, Jitter: -1}
	want := dispatcher.Options{
		Concurrency: 50, Grace: time.Nanosecond, Sweep: 5 * time.Second, Logger: discard,
		Queue: dispatcher.QueueOptions{MaxAttempts: 3},
		Queues: map[string]dispatcher.QueueOptions{
			"apples": {Concurrency: 7, MaxAttempts: 3, Prefetch: -1, Retry: policy}, // and no timeout
			"pears":  {Concurrency: 3, MaxAttempts: 9, Timeout: time.Minute, Retry: policy},
			"plums":  {MaxAttempts: 3, Timeout: time.Minute},
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *slog.Logger) bool { return a == b })); diff != "" {
		t.Errorf("got other options (-want +got):\n%s", diff)
	}
}

func TestAHandlerIsKeptUnlessWhatItIsMadeOfHasChanged(t *testing.T) {
	noGoroutines(t)
	config := func(apples, pears string) *config.Config {
		return load(t, fmt.Sprintf("queues:\n  apples: {%s}\n  pears: {%s}\n", apples, pears))
	}
	const cat, post = "exec: {command: [/bin/cat]}", "http: {url: 'http://localhost/', headers: {A: b}}"
	before, err := build(config(cat, post), nil, nil, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer before.discard(nil)
	for _, tt := range []struct {
		name, apples, pears string
		applesKept, kept    bool
	}{
		{"nothing", cat, post, true, true},
		{"what is no matter to handlers", "timeout: 5s, concurrency: 3, " + cat, "retry: {delay: 9s}, " + post, true, true},
		{"attempts, which handlers tell", "max_attempts: 3, " + cat, post, false, true},
		{"a program", "exec: {command: [/bin/cat, -n]}", post, false, true},
		{"a variable", "exec: {command: [/bin/cat], env: {A: b}}", post, false, true},
		{"a header", cat, "http: {url: 'http://localhost/', headers: {A: c}}", true, false},
		{"a secret", cat, "http: {url: 'http://localhost/', headers: {A: b}, secrets: [whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3]}", true, false},
		{"the kind", post, cat, false, false},
	} {
		after, err := build(config(tt.apples, tt.pears), before, nil, discard)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if apples, pears := after["apples"] == before["apples"], after["pears"] == before["pears"]; apples != tt.applesKept || pears != tt.kept {
			t.Errorf("%s: got them kept %v, %v; want %v, %v", tt.name, apples, pears, tt.applesKept, tt.kept)
		}
		after.discard(before)
	}
}

func TestWhatIsUnfinishedIsHandedBackInAHurry(t *testing.T) {
	failed := errors.New("stopped")
	handedBack := func(err error) error { return fmt.Errorf("%w: %w", dispatcher.ErrStopping, err) }
	decision := dispatcher.Discard("eaten already")
	for _, tt := range []struct {
		name         string
		hurry, ended bool // the daemon's hurry, the dispatcher's own end of the run
		err, want    error
	}{
		{"done", true, false, nil, nil},
		{"unfinished", true, false, failed, handedBack(failed)},
		{"wrapped", true, false, fmt.Errorf("handler: %w", failed), handedBack(fmt.Errorf("handler: %w", failed))},
		{"no retry would mend it, or so it said in its hurry", true, false, retry.Permanent(failed), handedBack(retry.Permanent(failed))},
		{"put off", true, false, dispatcher.Snooze(time.Hour), handedBack(dispatcher.Snooze(time.Hour))},
		{"pointless", true, false, decision, handedBack(decision)},
		{"failed in peace", false, false, failed, failed},
		{"ended by the dispatcher before", true, true, failed, failed},
	} {
		hurry, hurryUp := context.WithCancel(t.Context())
		ctx, end := context.WithCancelCause(t.Context())
		h := &hurried{dispatcher.HandlerFunc(func(ctx context.Context, _ *dispatcher.Job) error {
			if tt.ended {
				end(dispatcher.ErrTimeout)
				<-ctx.Done()
			}
			if tt.hurry {
				hurryUp()
				<-ctx.Done()
				if cause := context.Cause(ctx); !tt.ended && cause != dispatcher.ErrStopping {
					t.Errorf("%s: cause: got %v, want %v", tt.name, cause, dispatcher.ErrStopping)
				}
			}
			return tt.err
		}), hurry}
		if got := h.Handle(ctx, nil); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		hurryUp()
		end(nil)
	}
}
