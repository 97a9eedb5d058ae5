package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ShouldPing is for [pgxpool.Config.ShouldPing]. Like a pool's default it has connections pinged that were idle for more than a
// second, but not for a sweep: that tells by itself whether the server is there, and is tried again on another connection.
// So it halves the number of queries by which an idle dispatcher looks at its queues. (A sweep on a connection that neither answers
// nor breaks ends after 15 s, whatever the pool's PingTimeout.)
func ShouldPing(ctx context.Context, p pgxpool.ShouldPingParams) bool {
	return p.IdleDuration > time.Second && ctx.Value(unpinged{}) == nil
}

// unpinged is in the context of what needs no ping first.
type unpinged struct{}
