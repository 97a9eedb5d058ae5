package store

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// Errors that a caller may want to tell apart, with errors.Is.
var (
	ErrName        = sql.ErrName                          // a schema or table name that cannot be used
	ErrQueueName   = errors.New("invalid queue name")     // empty, over 200 bytes, NUL, not UTF-8
	ErrCodec       = errors.New("unknown codec")          // a queue name's suffix that is not registered
	ErrData        = errors.New("invalid job data")       // what a jsonb column cannot hold
	ErrDecode      = errors.New("cannot decode job data") // not of the type, or not of the codec
	ErrTooLarge    = errors.New("job data too large")     // over Options.MaxSize
	ErrTime        = errors.New("invalid time")           // out of the database's range
	ErrGone        = errors.New("job is gone")            // finished, taken or changed by someone else
	ErrNotMigrated = errors.New("queue not migrated")     // no schema, or an older one
	ErrNewerSchema = errors.New("queue schema is newer")  // migrated by a newer version of this library
	ErrPooled      = errors.New("connection goes through a pooler")
	ErrStandby     = errors.New("server is a standby")
	ErrProtocol    = errors.New("simple protocol not supported")
	ErrRowLocked   = errors.New("a job's row is locked by someone else")
	ErrLockTable   = errors.New("lock table of the server is full")
)

// SQLSTATEs that stand for something the user can mend.
var remedies = map[string]struct {
	is     error
	remedy string
}{
	"42P01":        {ErrNotMigrated, migrateRemedy},                                          // undefined_table
	"42883":        {ErrNotMigrated, migrateRemedy},                                          // undefined_function
	"3F000":        {ErrNotMigrated, migrateRemedy},                                          // invalid_schema_name
	"25006":        {ErrStandby, "connect to the primary (target_session_attrs=read-write)"}, // read_only_sql_transaction
	"55P03":        {ErrRowLocked, "end the transaction that holds it"},                      // lock_not_available
	lockTableFull:  {ErrLockTable, "raise max_locks_per_transaction or lower the concurrency"},
	claimGivenBack: {ErrLockTable, "raise max_locks_per_transaction or lower the concurrency"},
	"22P05":        {ErrData, "PostgreSQL cannot store it as jsonb"}, // untranslatable_character
	"22P02":        {ErrData, "PostgreSQL cannot store it as jsonb"}, // invalid_text_representation
}

const (
	lockTableFull  = "53200" // out_of_memory
	claimGivenBack = "PQ532" // the same, raised by claim() after it has given back what it had locked
)

const migrateRemedy = "call Store.Migrate or run `pq-dispatch migrate up`"

// explain adds to an error of PostgreSQL what it means here and what can be done about it.
func explain(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	if r, ok := remedies[pgErr.Code]; ok {
		return fmt.Errorf("%w: %s: %w", r.is, r.remedy, err)
	}
	return err
}
