package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// watchTimeout bounds one wait for a peer's death. A lock that is waited for holds back vacuum, so it
// is given up and asked for again.
const watchTimeout = 25 * time.Second

// ErrAlone is returned by [Watch.Next] when no other dispatcher of the table lives.
var ErrAlone = errors.New("no other dispatcher lives")

// Watch waits for the death of a dispatcher's neighbour in the ring of those that live. It is a
// connection of its own, since a session that waits can do nothing else. It is not safe for
// concurrent use.
type Watch struct {
	store *Store
	conn  *pgx.Conn
}

// OpenWatch connects.
func (s *Store) OpenWatch(ctx context.Context) (*Watch, error) {
	if s.err != nil {
		return nil, s.err
	}
	conn, err := s.connect(ctx)
	if err == nil {
		_, err = conn.Exec(ctx, fmt.Sprintf(`set lock_timeout = %d`, watchTimeout.Milliseconds()))
		if err != nil {
			_ = conn.Close(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("store: watch: %w", err)
	}
	return &Watch{store: s, conn: conn}, nil
}

// Next waits until the neighbour of this dispatcher is dead, and returns its id. [ErrAlone] if there
// is none. When ctx ends the connection is of no more use.
//
// It calls arrived when it knows the neighbour, before it waits: whoever stood between may have died while nobody
// watched, so it is time to look for the dead. Of a new neighbour it does not learn: whoever comes says so to all.
func (w *Watch) Next(ctx context.Context, dispatcher int32, arrived func()) (dead int32, err error) {
	var next *int32
	err = w.conn.QueryRow(ctx, `select `+w.store.function("neighbour")+`($1)`, dispatcher).Scan(&next)
	switch {
	case err != nil:
		return 0, fmt.Errorf("store: watch: %w", explain(err))
	case next == nil:
		return 0, ErrAlone
	}
	arrived()
	for {
		_, err := w.conn.Exec(ctx, `select `+w.store.function("watch")+`($1)`, *next)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" { // lock_not_available
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("store: watch: %w", explain(err))
		}
		return *next, nil
	}
}

// Close ends the watch.
func (w *Watch) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = w.conn.Close(ctx)
}

// WakeAll tells every dispatcher, and everyone who waits, to look at everything.
func (s *Store) WakeAll(ctx context.Context) error {
	if _, err := s.db.Exec(ctx, `select pg_notify($1, '*')`, s.Channel()); err != nil {
		return fmt.Errorf("store: wake all: %w", explain(err))
	}
	return nil
}
