// Package sql holds the project's DDL: tables, functions and triggers as numbered migrations for a
// queue table of any name. It renders text and runs none of it; package store does.
package sql

import (
	_ "embed"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

// A released file is never edited again: a change comes as the next number.
var (
	//go:embed schema.sql
	schema string
	//go:embed functions.sql
	functions string
	//go:embed triggers.sql
	triggers string
	//go:embed operations.sql
	operations string

	files = []struct{ name, text string }{
		{"schema", schema},
		{"functions", functions},
		{"triggers", triggers},
		{"operations", operations},
	}
)

// Version is the schema version of this build: the number of its last migration.
var Version = len(files)

// BeaconClass is the first key of the advisory locks by which dispatchers show that they live
// ("pqbe" in ASCII). One class for all queue tables of a server, so that dispatchers can count one
// another: they share the server's lock table.
const BeaconClass = 0x70716265

// ErrName is matched by every error about a schema or table name.
var ErrName = errors.New("invalid name")

// Names says where a queue lives.
type Names struct {
	Schema, Table string // "" means public and queue
	LockClass     int32  // first key of the advisory locks on jobs; 0 means the table's oid
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

const (
	maxIdentifier = 63 // bytes; PostgreSQL cuts what is longer, silently
	maxName       = 48 // leaves room for the suffixes of index names
)

// Validate returns an error that matches ErrName for anything but short plain identifiers.
func (n Names) Validate() error {
	for _, name := range []string{n.schema(), n.table()} {
		if !identifier.MatchString(name) {
			return fmt.Errorf("%w %.40q: use letters, digits and underscores, starting with a letter or underscore", ErrName, name)
		}
		if len(name) > maxName {
			return fmt.Errorf("%w %q: it has %d bytes; use at most %d", ErrName, name, len(name), maxName)
		}
	}
	return nil
}

func (n Names) schema() string { return or(n.Schema, "public") }
func (n Names) table() string  { return or(n.Table, "queue") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// Identifier is the table's name in its parts.
func (n Names) Identifier() pgx.Identifier { return pgx.Identifier{n.schema(), n.table()} }

// Queue is the table's name, qualified and quoted.
func (n Names) Queue() string { return n.Identifier().Sanitize() }

// Support is the unquoted name of the schema beside the table, which holds its functions, its
// ledger and its version: pq_dispatch for public.queue, pq_dispatch_<table> for another table of
// public, else pq_dispatch_<schema>_<table>. It is also the name of the notification channel.
func (n Names) Support() string {
	return fit(n.prefix())
}

func (n Names) prefix() string {
	name := "pq_dispatch"
	if n.schema() != "public" {
		name += "_" + n.schema()
	}
	if n.schema() != "public" || n.table() != "queue" {
		name += "_" + n.table()
	}
	return name
}

// fit shortens a name to what an identifier can hold, so that different ones stay different.
func fit(name string) string {
	if len(name) > maxIdentifier {
		sum := crc32.ChecksumIEEE([]byte(name))
		name = fmt.Sprintf("%s_%08x", name[:maxIdentifier-9], sum)
	}
	return name
}

// Qualify quotes a name in the support schema.
func (n Names) Qualify(name string) string { return pgx.Identifier{n.Support(), name}.Sanitize() }

// Migration is one step of the schema, as plain SQL. Up records itself in the version table and
// Down takes the record back, so both may be run by any tool.
type Migration struct {
	Version  int
	Name     string
	Up, Down string
}

// Migrations returns all steps in order.
func Migrations(n Names) ([]Migration, error) {
	if err := n.Validate(); err != nil {
		return nil, err
	}
	migrations := make([]Migration, len(files))
	for i, file := range files {
		up, down, _ := strings.Cut(render(file.text, n), "-- migrate:down\n")
		version := i + 1
		record := fmt.Sprintf("insert into %s (version, name, queue) values (%d, %s, %s);\n",
			n.Qualify("schema_version"), version, literal(file.name), literal(n.Queue()))
		forget := fmt.Sprintf("delete from %s where version = %d;\n", n.Qualify("schema_version"), version)
		migrations[i] = Migration{
			Version: version,
			Name:    file.name,
			Up:      strings.TrimSpace(up) + "\n\n" + record,
			Down:    forget + "\n" + strings.TrimSpace(down) + "\n",
		}
	}
	return migrations, nil
}

// view is what the files' placeholders can say.
type view struct {
	Table, Schema, Support, Channel string
	LockClass, WakeClass, RingClass string // expressions
	BeaconClass                     int
	OwnSchema                       bool
	names                           Names
}

// Index is the quoted name of one of the table's indexes.
func (v view) Index(suffix string) string {
	return pgx.Identifier{v.names.table() + "_" + suffix}.Sanitize()
}

func render(text string, n Names) string {
	v := view{
		Table:       n.Queue(),
		Schema:      pgx.Identifier{n.schema()}.Sanitize(),
		Support:     pgx.Identifier{n.Support()}.Sanitize(),
		Channel:     literal(n.Support()),
		LockClass:   oidOf(n.Queue()),
		WakeClass:   oidOf(n.Qualify("ledger")),
		RingClass:   oidOf(n.Qualify("schema_version")),
		BeaconClass: BeaconClass,
		OwnSchema:   n.schema() != "public",
		names:       n,
	}
	if n.LockClass != 0 {
		v.LockClass = strconv.Itoa(int(n.LockClass))
	}
	var out strings.Builder
	if err := template.Must(template.New("").Parse(text)).Execute(&out, v); err != nil {
		panic("sql: " + err.Error()) // the files are part of this package
	}
	return out.String()
}

// oidOf is the expression for a table's oid as the class of a two-int advisory lock. The oids of our
// own tables are classes that no one else has a reason to use.
func oidOf(table string) string {
	return literal(table) + "::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int4"
}

// literal quotes a string whose characters Validate has let through.
func literal(s string) string { return "'" + s + "'" }
