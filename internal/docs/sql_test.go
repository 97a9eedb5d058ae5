package docs

import (
	"context"
	"fmt"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pq-dispatch/pq-dispatch/internal/devpg/pgtest"
	"github.com/pq-dispatch/pq-dispatch/store"
)

var migrated = pgtest.Template{Setup: func(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return store.New(pool, store.Options{}).Migrate(ctx)
}}

var parameter = regexp.MustCompile(`\$[1-9]`)

// run runs a block after its setup in a transaction that it rolls back. A statement with parameters
// is prepared only: it has no values for them.
func run(ctx context.Context, conn *pgx.Conn, b block) error {
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	defer conn.Exec(context.WithoutCancel(ctx), "rollback")
	if _, err := conn.PgConn().Exec(ctx, b.setup).ReadAll(); err != nil {
		return fmt.Errorf("%s:%d: setup: %w", b.file, b.line, err)
	}
	var err error
	if parameter.MatchString(b.text) {
		_, err = conn.Prepare(ctx, "", b.text)
	} else {
		_, err = conn.PgConn().Exec(ctx, b.text).ReadAll()
	}
	if err != nil {
		return fmt.Errorf("%s:%d: %w", b.file, b.line, err)
	}
	return nil
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	url := migrated.Database(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestSQLExamplesRun(t *testing.T) {
	conn := connect(t)
	for _, b := range blocksOf(t, "sql") {
		if err := run(t.Context(), conn, b); err != nil {
			t.Error(err)
		}
	}
}

func TestABrokenSQLExampleFails(t *testing.T) {
	conn := connect(t)
	tests := map[string]struct {
		b  block
		ok bool
	}{
		"runs":                           {block{text: "select pq_dispatch.put('apples', '{\"kind\": \"Cox\"}', schedule_at => now() + '5m');"}, true},
		"runs after its setup":           {block{setup: "create table pears (id int)", text: "select id from pears; select 1;"}, true},
		"begins anew":                    {block{text: "create table pears (id int)"}, true},
		"has parameters":                 {block{text: "select pq_dispatch.put($1, $2)"}, true},
		"has parameters and is wrong":    {block{text: "select pq_dispatch.push($1, $2)"}, false},
		"has no such function":           {block{text: "select pq_dispatch.push('apples', '1')"}, false},
		"has no such column":             {block{text: "select 1; select priority from queue"}, false},
		"is not SQL":                     {block{text: "put apples"}, false},
		"has a setup that does not work": {block{setup: "create tabel x ()", text: "select 1"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), conn, test.b); (err == nil) != test.ok {
				t.Errorf("got error %v, want success: %v", err, test.ok)
			}
		})
	}
}
