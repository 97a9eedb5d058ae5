// Package store is the queue as a Go value: put, get, and every SQL statement the project runs.
//
// A [Store] stands over a pool, a connection or a transaction of pgx; [Store.Queue] names one of
// its queues. What is put through a transaction is put if and only if it commits.
//
//	jobs := store.New(pool, store.Options{})
//	id, err := jobs.Queue("apples").Put(ctx, Apple{"Cox"}, store.ScheduleAt("5m"))
package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// DB is what a [Store] runs its statements on: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Begin(ctx context.Context) (pgx.Tx, error)
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// Options of a [Store]. The zero value is the table public.queue with the built-in codecs.
type Options struct {
	// Schema and Table name the queue table: letters, digits and underscores, at most 48 bytes
	// each. Empty means public and queue.
	Schema, Table string

	// LockClass is the first key of the two-int advisory locks on jobs, fixed when the table is
	// migrated. Zero means the table's oid, which only an application that uses that very class
	// for locks of its own has a reason to change.
	LockClass int32

	// MaxSize is the largest data of a job, in bytes of JSON. Zero means 1 MiB.
	MaxSize int

	// Codecs are codecs by suffix of the queue name, beside the built-in json and gob.
	Codecs map[string]Codec

	// Connect opens a connection of the store's own, for a session that has to last: one that
	// listens or holds locks. It must reach the server directly, not through a pooler in
	// transaction mode. Nil means the database's own settings.
	Connect func(context.Context) (*pgx.Conn, error)
}

// Store is a queue table and the way to reach it. It is safe for concurrent use if its DB is.
type Store struct {
	db      DB
	names   sql.Names
	options Options
	codecs  map[string]Codec
	connect func(context.Context) (*pgx.Conn, error)
	waiters *waiters
	err     error // what New found wrong, returned by every call
}

// New returns the store of the table that the options name. It does not touch the database, and
// has no error to return: what is wrong with the options, the first call says.
func New(db DB, o Options) *Store {
	s := &Store{
		db:      db,
		names:   sql.Names{Schema: o.Schema, Table: o.Table, LockClass: o.LockClass},
		options: o,
		codecs:  withBuiltins(o.Codecs),
		connect: o.Connect,
	}
	config, connect := origin(db)
	if s.connect == nil {
		s.connect = connect
	}
	if o.MaxSize == 0 {
		s.options.MaxSize = 1 << 20
	}
	s.waiters = newWaiters(s)

	switch err := s.names.Validate(); {
	case err != nil:
		s.err = fmt.Errorf("store: %w", err)
	case o.MaxSize < 0:
		s.err = fmt.Errorf("store: MaxSize is %d bytes; it must not be negative", o.MaxSize)
	case config != nil && config.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol:
		s.err = fmt.Errorf("store: %w: behind a pooler use default_query_exec_mode=exec (or cache_describe)", ErrProtocol)
	}
	return s
}

// origin finds out how a db connects, so that the store can open a connection of its own.
func origin(db DB) (*pgx.ConnConfig, func(context.Context) (*pgx.Conn, error)) {
	var config *pgx.ConnConfig
	beforeConnect := func(context.Context, *pgx.ConnConfig) error { return nil }
	switch db := db.(type) {
	case *pgxpool.Pool:
		config = db.Config().ConnConfig
		if hook := db.Config().BeforeConnect; hook != nil {
			beforeConnect = hook
		}
	case *pgx.Conn:
		config = db.Config()
	case pgx.Tx:
		config = db.Conn().Config()
	default:
		return nil, func(context.Context) (*pgx.Conn, error) {
			return nil, fmt.Errorf("cannot open a connection of my own like that of a %T: set store.Options.Connect", db)
		}
	}
	return config, func(ctx context.Context) (*pgx.Conn, error) {
		c := config.Copy()
		c.OnNotification = nil // the application's would take the notifications that our listener waits for
		if err := beforeConnect(ctx, c); err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, c)
	}
}

// With is the same store, bound to the caller's transaction (or connection, or pool).
func (s *Store) With(db DB) *Store {
	bound := *s
	bound.db = db
	return &bound
}

// Queue returns the queue of that name. A suffix chooses how data is encoded: "apples/gob" is the
// queue apples with its data in gob; "apples" and "apples/json" are plain JSON.
//
// A name is any UTF-8 text without NUL, of 1 to 200 bytes. What is wrong with it, the first call
// of the queue says.
func (s *Store) Queue(name string) *Queue {
	q := &Queue{store: s}
	q.name, q.codec, q.err = s.parseName(name)
	return q
}

// Table is the queue table's name, qualified and quoted.
func (s *Store) Table() string { return s.names.Queue() }

// Channel is the channel on which the table's trigger notifies.
func (s *Store) Channel() string { return s.names.Support() }

// function is the qualified name of one of the functions of sql/functions.sql.
func (s *Store) function(name string) string { return s.names.Qualify(name) }

// Concurrent tells whether the store may be used by several goroutines at once: it is over a pool,
// not over one connection or transaction.
func (s *Store) Concurrent() bool {
	switch s.db.(type) {
	case *pgx.Conn, pgx.Tx:
		return false
	}
	return true
}

// Connect opens a connection for a session that has to last, as [Options.Connect] says.
func (s *Store) Connect(ctx context.Context) (*pgx.Conn, error) { return s.connect(ctx) }
