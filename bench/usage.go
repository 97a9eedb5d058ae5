// What work costs: the server's processor time and WAL.

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/internal/proc"
)

// usage is what the server has used so far. What cannot be read is NaN, and so is what is made of it.
type usage struct {
	wal float64 // bytes
	cpu float64 // seconds, of all of its processes
}

func (h *harness) usage(ctx context.Context) (u usage, err error) {
	var pid int
	var local bool
	err = h.pool.QueryRow(ctx, `
		select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_backend_pid(),
		       coalesce(inet_server_addr() = inet_client_addr(), true)`).Scan(&u.wal, &pid, &local)
	if err != nil {
		return u, fmt.Errorf("read what the server has used: %w", err)
	}
	u.cpu = math.NaN()
	if local {
		u.cpu = proc.ServerCPU(pid)
	}
	return u, nil
}

// since is the difference.
func (u usage) since(before usage) usage { return usage{u.wal - before.wal, u.cpu - before.cpu} }

// unlessDenied is nil for an error about a right that the role does not have.
func unlessDenied(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" { // insufficient_privilege
		return nil
	}
	return err
}
