// Package daemon is the dispatcher as people run it: it makes handlers of a configuration, has a dispatcher call
// them, shows what it does, takes over another configuration while it works, and ends in order.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/admin"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
	"github.com/pq-dispatch/pq-dispatch/internal/group"
	"github.com/pq-dispatch/pq-dispatch/internal/observe"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// Options of a daemon. Those of the second part may be left out.
type Options struct {
	Config *config.Config
	Pool   *pgxpool.Pool
	Jobs   *store.Store // over Pool
	Log    *slog.Logger
	Level  *slog.LevelVar // of Log
	Build  observe.Build

	// Groups has the processes of handlers, for whoever ends this program without waiting for Run.
	Groups *group.Set

	// Hurry ends after Run's context, when there is no more grace: handlers' contexts end with it.
	Hurry context.Context

	// Reload has the configuration loaded again by Load.
	Reload <-chan os.Signal
	Load   func() (*config.Config, []config.Finding, error)
}

const (
	// farewell is how long handlers have when their contexts have ended, until their processes are killed: a
	// little longer than a program that is told to stop then, a little shorter than the dispatcher waits.
	farewell = 4500 * time.Millisecond

	// startInterval is how often a daemon that starts looks whether it is ready.
	startInterval = 20 * time.Millisecond

	never = time.Duration(1<<63 - 1)
)

// daemon is a running one. What is not said to be for others belongs to the goroutine of Run.
type daemon struct {
	Options
	config     atomic.Pointer[config.Config] // that is applied; for all
	started    *config.Config                // with which it has begun
	dispatcher *dispatcher.Dispatcher
	handlers   handlers
	retired    sync.WaitGroup // handlers of the past, each with a goroutine that closes it
	api        limited

	telemetry *observe.Telemetry
	health    *admin.Health
	systemd   admin.Systemd
	holding   bool // it has been ready

	patience   context.Context // of whoever closes handlers
	impatience *time.Timer     // ends it
	background sync.WaitGroup  // listener and watchdog
	failed     chan error      // one of them cannot go on
}

// Run works until ctx ends and returns when all that it has started has ended: nil after a stop in order.
//
// When ctx ends it is no longer ready, claims no more, and lets running handlers go on for the configuration's
// grace, or until Hurry ends. Then their contexts end, what is unfinished is handed back, and 5 s later no process of
// a handler is left. What else has to end, listener and telemetry, takes 10 s at most.
//
// It returns at once with an error that matches [dispatcher.ErrConfig], or one of package store, when the
// configuration or the database cannot be worked with. A database that cannot be reached it waits for.
func Run(ctx context.Context, o Options) (err error) {
	d := &daemon{Options: o, started: o.Config, systemd: admin.Systemd{Log: o.Log}, failed: make(chan error, 2)}
	if d.Hurry == nil {
		d.Hurry = context.Background()
	}
	defer func() {
		if err == nil {
			d.Log.Info("stopped") // else whoever has called says it
		}
	}()
	d.apply(o.Config)
	var impatient context.CancelFunc
	d.patience, impatient = context.WithCancel(context.WithoutCancel(ctx))
	defer impatient()
	d.impatience = time.AfterFunc(never, impatient)
	defer d.impatience.Stop()

	if d.telemetry, err = observe.Start(ctx, o.Build, o.Log); err != nil {
		return wrong(err)
	}
	defer d.shutDown(ctx)
	d.dispatcher = dispatcher.New(o.Jobs, d.options(o.Config))
	if err := d.observe(); err != nil {
		return err
	}

	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer d.background.Wait()
	defer stop()
	if err := d.listen(serving); err != nil {
		return wrong(err)
	}
	if d.handlers, err = build(o.Config, nil, o.Groups, o.Log); err != nil {
		return wrong(err)
	}
	defer d.close()
	d.handlers.register(d.Hurry, d.dispatcher, o.Config)
	d.background.Go(func() {
		if err := d.systemd.Watchdog(serving, d.health.Alive); err != nil {
			d.failed <- err
		}
	})
	return d.work(ctx)
}

// wrong is an error that the same configuration and environment would bring again.
func wrong(err error) error { return fmt.Errorf("daemon: %w: %w", dispatcher.ErrConfig, err) }

// apply takes over what takes effect by itself.
func (d *daemon) apply(c *config.Config) {
	var level slog.Level
	if level.UnmarshalText([]byte(c.Log.Level)) == nil { // which config has seen to
		d.Level.Set(level)
	}
	before := d.config.Swap(c)
	d.limitAPI(before, c)
}

// observe adds to the metrics what only this dispatcher knows.
func (d *daemon) observe() error {
	d.health = admin.NewHealth(d.dispatcher, d.Jobs, d.Log)
	return errors.Join(
		d.telemetry.ObserveDispatcher(d.dispatcher.State),
		d.telemetry.ObserveQueues(d.Pool, d.Jobs, func() []string { return names(d.config.Load()) }))
}

// listen serves probes, metrics and the API, if there is an address, until serving ends.
func (d *daemon) listen(serving context.Context) error {
	c := d.started.HTTP
	if c.Address == "" {
		return nil
	}
	routes := admin.Routes{Health: d.health, Metrics: d.telemetry.Handler(), PProf: c.Pprof}
	if c.API.Enabled {
		routes.API = &d.api
	}
	listener, err := admin.Listen(serving, c.Address, routes.Handler(), d.Log)
	if err != nil {
		return err
	}
	d.Log.Info("listening", "address", listener.Addr().String())
	d.background.Go(func() {
		if err := listener.Run(serving); err != nil {
			d.failed <- err
		}
	})
	return nil
}

// work runs the dispatcher. It returns when that has ended.
func (d *daemon) work(ctx context.Context) error {
	working, release := context.WithCancel(ctx)
	defer release()
	ended := make(chan error, 1)
	go func() { ended <- d.dispatcher.Run(working) }()
	starting := time.NewTicker(startInterval)
	defer starting.Stop()
	for {
		select {
		case <-starting.C:
			if state, err := d.dispatcher.State(working); err == nil && state.Holding {
				starting.Stop()
				d.holding = true
				d.Log.Info("started", "pid", os.Getpid(), "queues", len(d.handlers))
				d.systemd.Ready(d.status())
			}
		case <-d.Reload:
			d.reload(working)
		case err := <-d.failed: // without it nobody could see what happens here
			d.Log.Error("stopping", "error", err)
			release()
			return errors.Join(err, d.drain(ended))
		case <-working.Done():
			return d.drain(ended)
		case err := <-ended: // by itself
			d.impatience.Reset(farewell)
			return err
		}
	}
}

func (d *daemon) status() string { return fmt.Sprintf("working on %d queues", len(d.handlers)) }

// drain waits for the end of a dispatcher that stops.
func (d *daemon) drain(ended <-chan error) error {
	d.health.Drain()
	grace := d.config.Load().Grace
	d.Log.Info("stopping; running jobs may go on", "grace", grace)
	d.systemd.Stopping(fmt.Sprintf("running jobs may go on for %v", grace))
	d.impatience.Reset(grace + farewell)
	hurry, impatient := d.Hurry.Done(), d.patience.Done()
	for {
		select {
		case err := <-ended:
			return err
		case <-hurry:
			hurry = nil
			d.Log.Warn("stopping at once; running jobs are handed back")
			d.impatience.Reset(farewell)
		case <-impatient: // such as for a program that has long to end once its job has taken too long
			impatient = nil
			d.retireAll()
		}
	}
}

// close ends the handlers, which the dispatcher does not call any more.
func (d *daemon) close() {
	d.retireAll()
	d.retired.Wait()
}

// retireAll retires those that have not been.
func (d *daemon) retireAll() {
	for name, h := range d.handlers {
		d.retire(name, h)
	}
	d.handlers = nil
}

// retire closes a handler once its last job has ended.
func (d *daemon) retire(name string, h *served) {
	d.retired.Go(func() {
		if err := h.Close(d.patience); err != nil {
			d.Log.Warn("a handler was stopped", "queue", name, "error", err)
		}
	})
}

// shutDown sends the last of the telemetry.
func (d *daemon) shutDown(ctx context.Context) {
	if err := d.telemetry.Shutdown(context.WithoutCancel(ctx)); err != nil {
		d.Log.Warn("the last metrics and traces may be lost", "error", err)
	}
}
