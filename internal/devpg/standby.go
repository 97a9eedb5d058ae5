// A failover: commits that wait for the standby, the standby that takes over, and the address by which
// clients find whichever of the two takes writes.

package devpg

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Synchronous makes every commit on s wait until a standby has it too, so that nothing that a client was
// told of is lost with s. It returns once a standby is there to answer; while there is none, commits wait.
// Call it after Standby: a copy made later would wait for a standby of its own. Errors: ErrNotOurs, and
// that of ctx.
func (s *Server) Synchronous(ctx context.Context) error {
	if err := s.awaitStandby(ctx); err != nil {
		return fmt.Errorf("devpg: synchronous: %w", err)
	}
	return nil
}

func (s *Server) awaitStandby(ctx context.Context) error {
	if s.own == nil {
		return ErrNotOurs
	}
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range []string{`alter system set synchronous_standby_names = '*'`, `select pg_reload_conf()`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var answers bool
		if err := conn.QueryRow(ctx, `select exists (select from pg_stat_replication where sync_state = 'sync')`).Scan(&answers); err != nil || answers {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no standby answers: %w", ctx.Err())
		}
	}
}

// Promote makes a primary of a standby, and returns when it takes writes. Stop the old primary first:
// nothing else keeps the two apart. One that is a primary already is an error.
func (s *Server) Promote(ctx context.Context) error {
	if err := s.promote(ctx); err != nil {
		return fmt.Errorf("devpg: promote: %w", err)
	}
	return nil
}

func (s *Server) promote(ctx context.Context) error {
	if s.own == nil {
		return ErrNotOurs
	}
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var promoted bool
	err = conn.QueryRow(ctx, `select pg_promote(true, $1)`, int(readyTimeout.Seconds())).Scan(&promoted)
	if err == nil && !promoted {
		err = errors.New("still in recovery after " + readyTimeout.String())
	}
	return err
}

// FailoverURL is the address of a database on whichever of the servers takes writes; they are a primary
// and its standbys, which share role and password. It is for pgx and for psql alike.
func FailoverURL(database string, servers ...*Server) string {
	var either *url.URL
	var hosts []string
	for _, s := range servers {
		u, err := url.Parse(s.URL(database))
		if err != nil {
			panic(err) // it was made from a URL
		}
		hosts = append(hosts, u.Host)
		either = u
	}
	either.Host = strings.Join(hosts, ",")
	query := either.Query()
	query.Set("target_session_attrs", "read-write")
	either.RawQuery = query.Encode()
	return either.String()
}
