package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// Roles are the names of the table's group roles: pq_dispatch_enqueue, _worker, _reader and _owner, or with the
// name of another table in the place of pq_dispatch. sql/roles.sql says what each may do.
func (s *Store) Roles() sql.Roles { return s.names.Roles() }

// MigrateRoles makes the [Store.Roles] that do not exist, and gives each its rights on the table, which has to be
// of the version of this build. It may be called again, and has to be after each migration. Grant the
// roles to those who log in; nobody logs in as one of them.
//
// Afterwards the table belongs to the owner's role, of which the present one becomes a member, and the public has no
// rights; what was granted to others by hand they keep. The first time that locks the table for a moment.
//
// It needs a role that may create roles and to whom the table belongs. Roles belong to the whole server: a
// second database with a table of that name has the same.
func (s *Store) MigrateRoles(ctx context.Context) error {
	if err := s.CheckSchema(ctx); err != nil {
		return err
	}
	script, err := sql.CreateRoles(s.names)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		// Under repeatable read, a role that was made meanwhile for another database is not seen.
		if _, err := tx.Exec(ctx, `set transaction isolation level read committed`); err != nil {
			return err
		}
		// Whoever waits for the table's lock stops all others, so it is not for long.
		if _, err := tx.Exec(ctx, `set local lock_timeout = '10s'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1, 0)`, int32(migrateClass)); err != nil {
			return err
		}
		return runScript(ctx, tx, script)
	})
	if err == nil {
		return nil
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "42501": // insufficient_privilege
			err = fmt.Errorf("a superuser can do it, or the table's owner who may also create roles, grant %s, and grant rights on the schema %s: %w",
				s.Roles().Owner, s.names.Identifier()[0], err)
		case "55P03": // lock_not_available
			err = fmt.Errorf("the table is locked by others for long; try again when less is going on: %w", err)
		}
	}
	return fmt.Errorf("store: migrate the roles: %w", err)
}
