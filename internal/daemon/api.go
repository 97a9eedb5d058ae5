// The HTTP API, whose limits a reload may change.

package daemon

import (
	"net/http"
	"sync/atomic"

	"github.com/pq-dispatch/pq-dispatch/internal/api"
	"github.com/pq-dispatch/pq-dispatch/internal/config"
)

// limited is the API with the limits of the configuration that is applied. The token is asked for each time.
type limited struct{ now atomic.Pointer[http.Handler] }

// ServeHTTP answers by the limits of now.
func (l *limited) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*l.now.Load()).ServeHTTP(w, r) }

// limitAPI makes the API anew if its limits have changed. Else it stays, and with it what callers have used of them.
func (d *daemon) limitAPI(before, c *config.Config) {
	is := c.HTTP.API
	if before != nil && before.HTTP.API.MaxBody == is.MaxBody && before.HTTP.API.RequestsPerSecond == is.RequestsPerSecond {
		return
	}
	d.api.now.Store(new(api.New(api.Options{
		Jobs:              d.Jobs,
		Token:             func() string { return d.config.Load().HTTP.API.Token.Reveal() },
		MaxBody:           int64(is.MaxBody),
		RequestsPerSecond: float64(is.RequestsPerSecond),
		Log:               d.Log,
	})))
}
