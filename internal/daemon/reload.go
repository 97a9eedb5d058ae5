// Another configuration for a daemon that works.

package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pq-dispatch/pq-dispatch/dispatcher"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

// adoptTime is how long a dispatcher's loop may take to take over what is new.
const adoptTime = 10 * time.Second

// reload loads the configuration again and applies it, all of it or nothing. What has happened is in the log.
func (d *daemon) reload(ctx context.Context) {
	if d.holding { // else it would be said that it is ready
		d.systemd.Reloading()
		defer func() { d.systemd.Ready(d.status()) }()
	}
	next, warnings, err := d.Load()
	for _, w := range warnings {
		d.Log.Warn("in the configuration", "finding", w.String())
	}
	if err != nil {
		d.reject(err)
		return
	}
	live, _ := config.Diff(d.config.Load(), next)
	if _, later := config.Diff(d.started, next); len(later) > 0 {
		d.Log.Warn("these take effect with the next start", "keys", strings.Join(later, " "))
	}
	if len(live) == 0 {
		d.Log.Info("nothing in the configuration has changed that takes effect now")
		return
	}
	if err := d.adopt(ctx, next); err != nil {
		d.reject(err)
		return
	}
	d.Log.Info("configuration applied", "changed", strings.Join(live, " "))
}

// reject says why the configuration of before stays.
func (d *daemon) reject(err error) {
	reasons := []string{err.Error()}
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		reasons = nil
		for _, finding := range wrong.Findings {
			reasons = append(reasons, finding.String())
		}
	}
	for _, reason := range reasons {
		d.Log.Error("configuration not applied, the one before stays", "error", reason)
	}
}

// adopt applies a configuration. On an error nothing has changed.
func (d *daemon) adopt(ctx context.Context, next *config.Config) error {
	made, err := build(next, d.handlers, d.Groups, d.Log)
	if err != nil {
		return err
	}
	heir := dispatcher.New(d.Jobs, d.options(next))
	made.register(d.Hurry, heir, next)
	asking, cancel := context.WithTimeoutCause(ctx, adoptTime, fmt.Errorf("no answer within %v", adoptTime))
	defer cancel()
	if err := d.dispatcher.Adopt(asking, heir); err != nil {
		made.discard(d.handlers)
		return err
	}
	before := d.handlers
	d.handlers = made
	for name, h := range before {
		if made[name] != h {
			d.retire(name, h)
		}
	}
	d.apply(next)
	return nil
}
