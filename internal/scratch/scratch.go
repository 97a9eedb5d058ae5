// Package scratch makes a place to work in that leaves nothing behind: a schema of its own, of a server that is
// started for it or of a given database.
package scratch

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg"
	"github.com/pq-dispatch/pq-dispatch/internal/devpg/download"
	"github.com/pq-dispatch/pq-dispatch/store"
)

// goodbye bounds the removal of the schemas: the context of what worked in them may have ended.
const goodbye = 30 * time.Second

// Table is the name of the queue table.
const Table = "queue"

// Options of [Open].
type Options struct {
	For         string            // is part of the schema's name: among those of a database it says where it comes from
	DatabaseURL string            // empty: a server is started
	Settings    map[string]string // of that server
	Log         io.Writer         // hears that server's log, and that one is downloaded
}

// Scratch is a place to work in. One goroutine opens, migrates and closes it.
type Scratch struct {
	Server *devpg.Server // that was started; nil: the database was given
	URL    string        // of the database
	Schema string        // of the queue table; there is room for others. Migrate makes it

	support string // the schema beside it, once there may be something to drop
}

// Open starts a server, unless a database is given: then it does nothing yet.
func Open(ctx context.Context, o Options) (*Scratch, error) {
	s := &Scratch{URL: o.DatabaseURL, Schema: "pq_dispatch_" + o.For + "_" + strings.ToLower(rand.Text()[:12])}
	if s.URL == "" {
		var err error
		s.Server, err = devpg.Start(ctx, devpg.Options{Own: true, Settings: o.Settings, Log: o.Log, Download: download.PostgreSQL})
		if err != nil {
			return nil, err
		}
		s.URL = s.Server.URL("")
	}
	return s, nil
}

// Store is the store in the schema, for a process that works there.
func Store(pool *pgxpool.Pool, schema string) *store.Store {
	return store.New(pool, store.Options{Schema: schema, Table: Table})
}

// Pool opens the pool of a process that works in the schema, named after it: of at most so many connections, or as many as
// the address says or pgxpool does, if that is 0.
func Pool(ctx context.Context, url, schema, name string, connections int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["application_name"] = schema + " " + name
	config.ShouldPing = store.ShouldPing
	if connections > 0 {
		config.MaxConns = connections
		config.MinConns = min(config.MinConns, connections)
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// Migrate makes the schemas.
func (s *Scratch) Migrate(ctx context.Context, jobs *store.Store) error {
	s.support = jobs.Channel()
	if err := jobs.Migrate(ctx); err != nil {
		return fmt.Errorf("make a schema (the role needs CREATE on the database): %w", err)
	}
	return nil
}

// Close drops the schemas if they may have been made, or stops the server. Nothing else may be connected to that any
// more. It may take 30 s; its error says what is left to do by hand.
func (s *Scratch) Close() error {
	switch {
	case s.Server != nil:
		return s.Server.Close()
	case s.support == "":
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	conn, err := Connect(ctx, s.URL)
	if err == nil {
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, fmt.Sprintf(`drop schema if exists %s, %s cascade`,
			pgx.Identifier{s.Schema}.Sanitize(), pgx.Identifier{s.support}.Sanitize()))
	}
	if err != nil {
		return fmt.Errorf("drop the schemas %s and %s (please do it by hand): %w", s.Schema, s.support, err)
	}
	return nil
}

// Connect opens a single connection. The address may have parameters of a pool, which the server would not know.
func Connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, config.ConnConfig)
}

// Announcements is a log for devpg that lets through what it says itself, such as that it downloads a server, and not the
// server's log.
type Announcements struct{ io.Writer }

func (a Announcements) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("devpg:")) {
		return a.Writer.Write(p)
	}
	return len(p), nil
}
