package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// migrateClass is the first key of the advisory lock that one migration at a time holds ("pqmi").
// The second is 0 for all tables of a database: two of them may have the same schema to make.
const migrateClass = 0x70716d69

// Migrate brings the queue table to the version of this build. It does nothing when that is done
// already, and may be called by any number of processes at once.
func (s *Store) Migrate(ctx context.Context) error { return s.MigrateTo(ctx, sql.Version) }

// MigrateTo brings the queue table up, or down, to a version. All steps happen in one transaction.
// Version 0 removes the table and all its jobs.
func (s *Store) MigrateTo(ctx context.Context, version int) error {
	migrations, err := s.Migrations()
	if err != nil {
		return err
	}
	if version < 0 || version > len(migrations) {
		return fmt.Errorf("store: migrate: there is no version %d; this build knows 0 to %d", version, len(migrations))
	}
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		// Under repeatable read, what is read after the lock could be older than the lock.
		if _, err := tx.Exec(ctx, `set transaction isolation level read committed`); err != nil {
			return err
		}
		// Waiting for the lock holds back vacuum, so it has an end.
		if _, err := tx.Exec(ctx, `set local lock_timeout = '5min'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1, 0)`, int32(migrateClass)); err != nil {
			return err
		}
		current, err := s.schemaVersion(ctx, tx)
		if err != nil {
			return err
		}
		if current > len(migrations) {
			return newerSchema(current)
		}
		for ; current < version; current++ {
			if err := runScript(ctx, tx, migrations[current].Up); err != nil {
				return fmt.Errorf("version %d (%s): %w", current+1, migrations[current].Name, err)
			}
		}
		for ; current > version; current-- {
			if err := runScript(ctx, tx, migrations[current-1].Down); err != nil {
				return fmt.Errorf("version %d (%s), down: %w", current, migrations[current-1].Name, err)
			}
		}
		return nil
	})
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42P07" { // duplicate_table
		err = fmt.Errorf("%w: %s exists and was not made by this library; rename it, or choose another name (store.Options.Table)", err, s.Table())
	}
	if err != nil {
		return fmt.Errorf("store: migrate: %w", explain(err))
	}
	return nil
}

// runScript sends several statements at once, which no prepared statement can hold.
func runScript(ctx context.Context, tx pgx.Tx, script string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, script).ReadAll()
	return err
}

// Migrations returns the steps as plain SQL, for another migration tool to run.
func (s *Store) Migrations() ([]sql.Migration, error) {
	if s.err != nil {
		return nil, s.err
	}
	migrations, err := sql.Migrations(s.names)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return migrations, nil
}

// AppliedMigration says when a version came into the database.
type AppliedMigration struct {
	Version   int
	Name      string
	AppliedAt time.Time
}

// MigrationStatus lists the versions in the database, oldest first.
func (s *Store) MigrationStatus(ctx context.Context) ([]AppliedMigration, error) {
	if s.err != nil {
		return nil, s.err
	}
	if version, err := s.schemaVersion(ctx, s.db); err != nil || version == 0 {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `
		select version, name, applied_at from `+s.names.Qualify("schema_version")+` order by version`)
	if err != nil {
		return nil, fmt.Errorf("store: migration status: %w", explain(err))
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[AppliedMigration])
}

// CheckSchema returns an error that matches [ErrNotMigrated] or [ErrNewerSchema] if the table is
// not of the version that this build works with.
func (s *Store) CheckSchema(ctx context.Context) error {
	if s.err != nil {
		return s.err
	}
	return s.checkSchema(ctx, s.db)
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (s *Store) checkSchema(ctx context.Context, db querier) error {
	switch version, err := s.schemaVersion(ctx, db); {
	case err != nil:
		return fmt.Errorf("store: %w", err)
	case version > sql.Version:
		return fmt.Errorf("store: %w", newerSchema(version))
	case version < sql.Version:
		return fmt.Errorf("store: %w: %s is at version %d, this build needs %d: %s",
			ErrNotMigrated, s.Table(), version, sql.Version, migrateRemedy)
	}
	return nil
}

func newerSchema(version int) error {
	return fmt.Errorf("%w: the database is at version %d, this build knows %d: update this program", ErrNewerSchema, version, sql.Version)
}

// schemaVersion is 0 where nothing is migrated. The support schema of another table whose names
// lead to the same one is an error.
func (s *Store) schemaVersion(ctx context.Context, db querier) (version int, err error) {
	table := s.names.Qualify("schema_version")
	var exists bool
	if err := db.QueryRow(ctx, `select to_regclass($1) is not null`, table).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	var queue string
	err = db.QueryRow(ctx, `select coalesce(max(version), 0), coalesce(min(queue), '') from `+table).Scan(&version, &queue)
	if err != nil {
		return 0, err
	}
	if version > 0 && queue != s.Table() {
		return 0, fmt.Errorf("%w: schema %s belongs to the queue %s, not to %s: choose another table name",
			ErrName, s.names.Support(), queue, s.Table())
	}
	return version, nil
}
