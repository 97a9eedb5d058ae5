package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pq-dispatch/pq-dispatch/sql"
)

// Session is the lock session of a dispatcher: a connection whose session-level advisory locks are
// its claims, and its beacon, which shows that it lives. When the connection ends, however it
// ends, all of them are free. It is not safe for concurrent use.
type Session struct {
	store   *Store
	conn    *pgx.Conn
	id      int32
	batches int64 // that have been claimed
}

// sessionSettings hold for the lock session whatever the role's or the database's defaults are.
// A claim reads each row again after it has locked it, which under repeatable read would show the
// row as it was before. A statement of ours that is cut off costs all claims. And a host that
// vanishes without a word keeps its locks until the server notices: here within 20 seconds.
// What a claim commits is unlogged, and would be waited for all the same, until it is on disk, where reading has
// pruned a page of the table.
const sessionSettings = `
	set default_transaction_isolation = 'read committed';
	set default_transaction_read_only = off;
	set synchronous_commit = off;
	set statement_timeout = 0;
	set lock_timeout = 0;
	set idle_session_timeout = 0;
	set tcp_keepalives_idle = 5;
	set tcp_keepalives_interval = 5;
	set tcp_keepalives_count = 3;
	set tcp_user_timeout = 20000`

// OpenSession connects, makes sure that the connection can hold locks, and lights a new beacon.
//
// Errors match [ErrPooled], [ErrStandby], [ErrNotMigrated] or [ErrNewerSchema] where a
// retry would not help.
func (s *Store) OpenSession(ctx context.Context) (*Session, error) {
	if s.err != nil {
		return nil, s.err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: open the lock session: %w", err)
	}
	x := &Session{store: s, conn: conn}
	if err := x.prepare(ctx); err != nil {
		x.Close(ctx)
		return nil, fmt.Errorf("store: open the lock session: %w", err)
	}
	return x, nil
}

func (x *Session) prepare(ctx context.Context) error {
	var pid uint32
	var standby bool
	if err := x.conn.QueryRow(ctx, `select pg_backend_pid(), pg_is_in_recovery()`).Scan(&pid, &standby); err != nil {
		return err
	}
	switch {
	case pid != x.conn.PgConn().PID():
		// A pooler makes up the process id of its answer. It would take the lock on one server
		// connection and release it on another.
		return fmt.Errorf("%w: a dispatcher's locks and LISTEN need a connection of their own: give a direct one in store.Options.Connect (pq-dispatch: --direct-url); producers may go on using the pooler", ErrPooled)
	case standby:
		return fmt.Errorf("%w: %s", ErrStandby, remedies["25006"].remedy)
	}
	if err := x.store.checkSchema(ctx, x.conn); err != nil {
		return err
	}
	if _, err := x.conn.PgConn().Exec(ctx, sessionSettings).ReadAll(); err != nil {
		return err
	}
	var isolation string
	if err := x.conn.QueryRow(ctx, `show transaction_isolation`).Scan(&isolation); err != nil {
		return err
	}
	if isolation != "read committed" {
		return fmt.Errorf("the session's transactions are %s, and claims need read committed", isolation)
	}
	return x.lightBeacon(ctx)
}

// lightBeacon draws ids until one is free.
func (x *Session) lightBeacon(ctx context.Context) error {
	for {
		x.id = rand.Int32()
		var lit bool
		err := x.conn.QueryRow(ctx, `select `+x.store.function("light")+`($1)`, x.id).Scan(&lit)
		if err != nil || lit {
			return err
		}
	}
}

// ID is the dispatcher's number: the second key of its beacon, and its name in the ledger.
func (x *Session) ID() int32 { return x.id }

// Wait returns when the connection breaks or ctx ends, whichever is first. The session stays
// usable if it was ctx.
func (x *Session) Wait(ctx context.Context) error {
	for {
		if _, err := x.conn.WaitForNotification(ctx); err != nil {
			if ctx.Err() != nil && !x.conn.IsClosed() {
				return ctx.Err()
			}
			return fmt.Errorf("store: lock session: %w", err)
		}
	}
}

// ClaimRequest is one round trip on the lock session: what has ended, and what is wanted next.
type ClaimRequest struct {
	Release []int64 // claims to give up first; their outcome has committed, and this request may claim their jobs again
	Over    []int64 // claims to give up last, of jobs that are gone: by then the server has sent what it has claimed, and one reads while the other unlocks
	Ended   []int64 // batches in the ledger of which no job is left
	Unpark  []int32 // wake locks to give up, by bucket; those who sleep by them are told
	Park    bool    // before the claim, take the queue's wake lock
	Queue   *Queue
	Want    int     // how many jobs at most; 0: none
	Held    []int64 // what the session has claimed already, of what this claim may come upon
	Bytes   int64   // of data, as the table holds it: at most, or one job; 0: 32 MiB
	After   int64   // only ready jobs without expected_at and with a higher id; 0: all, from the head
	Back    int64   // but it begins so many ids before After
	Upto    int64   // and none with a higher id than this, and none that is urgent; 0: no bound

	// What runs beside a suspect must not be what ran beside it when a process died. So a session that has claimed a
	// suspect asks for neither of these, and one that has claimed a witness not for suspects. If both are asked for,
	// it is given witnesses or one suspect, whichever come first.
	Witnesses bool // jobs in whose runs one process has died
	Suspects  bool // one job in whose runs several have; only if After is 0
}

// Claims is the answer.
type Claims struct {
	Jobs    []*Job        // the first in the order of the queue, among themselves in none
	More    bool          // Bytes was reached, so that there may be more
	Suspect bool          // one could have been claimed that is not among them, as none, or no more, was asked for
	Gone    []int64       // locked, but finished or changed by then: to be released
	Parking Parking       // if Park was asked for
	Batch   int64         // of all of them, in the ledger
	Now     time.Time     // by the database's clock; zero if nothing was wanted
	NextDue time.Duration // until the next scheduled job; negative: there is none
}

// Parking is what came of the attempt to take a queue's wake lock.
type Parking string

// Safe are the first two.
const (
	Parked Parking = "parked" // every later put will notify
	Peer   Parking = "peer"   // another session is parked, so every put notifies as long as it is
	Busy   Parking = "busy"   // a put that does not notify is under way: try again soon
)

// Safe tells whether the caller may sleep, after one more look that found nothing.
func (p Parking) Safe() bool { return p == Parked || p == Peer }

// Buckets are the queues' wake locks, of which there are 64 for all queues.
func (x *Session) Buckets(ctx context.Context, queues []*Queue) ([]int32, error) {
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.name
	}
	rows, err := x.conn.Query(ctx, `select `+x.store.function("bucket")+`(name) from pg_catalog.unnest($1::text[]) with ordinality q(name, n) order by n`, names)
	if err == nil {
		var buckets []int32
		if buckets, err = pgx.CollectRows(rows, pgx.RowTo[int32]); err == nil {
			return buckets, nil
		}
	}
	return nil, fmt.Errorf("store: wake locks of %d queues: %w", len(queues), explain(err))
}

// Claim carries out a request. If the server's lock table is full, the error matches [ErrLockTable]:
// then Release has happened, Over, Ended and Unpark have not, no job is claimed, and the wake lock may be held if
// Park was asked for. After any other error the session may hold locks that it does not know of, and
// must be closed.
func (x *Session) Claim(ctx context.Context, r ClaimRequest) (Claims, error) {
	claims := Claims{NextDue: -1}
	var batch pgx.Batch
	x.release(&batch, r.Release)
	if len(r.Over) == 0 {
		x.strike(&batch, r.Ended)
	}
	for _, bucket := range r.Unpark {
		batch.Queue(`select `+x.store.function("unpark")+`($1)`, bucket)
	}
	if r.Park {
		batch.Queue(`select b.bucket, `+x.store.function("park")+`(b.bucket) from `+x.store.function("bucket")+`($1) b(bucket)`, r.Queue.name).
			QueryRow(func(row pgx.Row) error { return row.Scan(nil, &claims.Parking) })
	}
	if r.Want > 0 {
		// The next due time first: asked for after the claim, a job that became due in between would
		// be in neither.
		var seconds *float64
		var asked time.Time
		batch.Queue(`select extract(epoch from `+x.store.function("next_due")+`($1))::float8, clock_timestamp()`, r.Queue.name).
			QueryRow(func(row pgx.Row) error { return row.Scan(&seconds, &asked) })
		x.batches++
		claims.Batch = x.batches
		batch.Queue(`
			select `+jobColumns+`, deaths, place
			from `+x.store.function("claim")+`($1, $2, $3::int8multirange, $4, $5, $6, $7, $8, nullif($9::bigint, 0), nullif($10::bigint, 0), $11)`,
			r.Queue.name, r.Want, multirange(r.Held), x.id, claims.Batch, r.Witnesses, r.Suspects, cmp.Or(r.Bytes, defaultBytes), r.After, r.Upto, r.Back,
		).Query(func(rows pgx.Rows) error { return claims.read(rows, r.Queue, x) })
		batch.Queue(`select clock_timestamp()`).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&claims.Now)
			if seconds != nil {
				claims.NextDue = max(0, delay(seconds, farAway)-claims.Now.Sub(asked))
			}
			return err
		})
	}
	if len(r.Over) > 0 {
		x.release(&batch, r.Over)
		x.strike(&batch, r.Ended) // not before the claim: where that fails, it unlocks what the ledger does not know
	}
	if batch.Len() == 0 {
		return claims, nil
	}
	if err := x.conn.SendBatch(ctx, &batch).Close(); err != nil {
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == lockTableFull && r.Want > 0 {
			// Not from claim(), which gives back what it has locked: nobody knows what is locked now.
			return Claims{NextDue: -1}, fmt.Errorf("store: claim: %w", err)
		}
		return Claims{NextDue: -1}, fmt.Errorf("store: claim: %w", explain(err))
	}
	return claims, nil
}

// release adds to a batch that claims are given up.
func (x *Session) release(batch *pgx.Batch, ids []int64) {
	if len(ids) == 0 {
		return
	}
	batch.Queue(`select `+x.store.function("release")+`($1)`, ids).QueryRow(func(row pgx.Row) error {
		var released int
		if err := row.Scan(&released); err != nil {
			return err
		}
		if released != len(ids) {
			return fmt.Errorf("%d of %d locks to be released were not held", len(ids)-released, len(ids))
		}
		return nil
	})
}

// strike adds that batches are struck from the ledger.
func (x *Session) strike(batch *pgx.Batch, ended []int64) {
	if len(ended) > 0 {
		batch.Queue(`delete from `+x.store.names.Qualify("ledger")+` where dispatcher = $1 and batch = any ($2)`, x.id, ended)
	}
}

const defaultBytes = 32 << 20

// farAway bounds what is told of a future job: far beyond any timer, far below overflow.
const farAway = 365 * 24 * time.Hour

func (c *Claims) read(rows pgx.Rows, q *Queue, by *Session) error {
	var line row
	var deaths pgtype.Int2
	var place pgtype.TID
	targets := append(line.targets(), &deaths, &place)
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		if !place.Valid {
			switch {
			case line.attempt.Valid:
				c.More = true
			case deaths.Valid:
				c.Suspect = true
			default:
				c.Gone = append(c.Gone, line.id)
			}
			continue
		}
		job := q.job(&line)
		job.Deaths, job.place, job.session = int(deaths.Int16), place, by
		c.Jobs = append(c.Jobs, job)
	}
	if len(c.Gone) > 0 { // all that was locked
		given := make(map[int64]bool, len(c.Jobs))
		for _, job := range c.Jobs {
			given[job.ID] = true
		}
		c.Gone = slices.DeleteFunc(c.Gone, func(id int64) bool { return given[id] })
	}
	return rows.Err()
}

// multirange writes a set of ids as PostgreSQL reads it: {[1,4),[7,8)}. Those of jobs that were put
// together follow one another, so that thousands are a few ranges. It sorts ids. (To PostgreSQL a range ends
// before the number that follows its last, which the last number of all does not have.)
func multirange(ids []int64) string {
	slices.Sort(ids)
	b := []byte{'{'}
	for i := 0; i < len(ids); {
		first := ids[i]
		for i++; i < len(ids) && ids[i]-1 <= ids[i-1]; i++ {
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		if last := ids[i-1]; last == math.MaxInt64 {
			b = fmt.Appendf(b, "[%d,]", first)
		} else {
			b = fmt.Appendf(b, "[%d,%d]", first, last)
		}
	}
	return string(append(b, '}'))
}

// Forget removes what an earlier session of the same process, which broke, has left in the ledger:
// its process has not died, and its jobs' attempts are not to be counted. What it was asked to cancel is cancelled.
func (x *Session) Forget(ctx context.Context, earlier int32) error {
	_, err := x.conn.Exec(ctx, `select pg_catalog.set_config('synchronous_commit', 'on', true), `+x.store.function("cancel")+`(`+x.store.function("asked")+`($1))`, earlier)
	if err == nil {
		_, err = x.conn.Exec(ctx, `delete from `+x.store.names.Qualify("ledger")+` where dispatcher = $1`, earlier)
	}
	if err != nil {
		return fmt.Errorf("store: forget session %d: %w", earlier, explain(err))
	}
	return nil
}

// Outlook is what a sweep found in one queue.
type Outlook struct {
	Due     bool          // a job is due; it may be a running one
	NextDue time.Duration // until the next scheduled job; negative: there is none
}

// Survey is what a sweep found.
type Survey struct {
	Outlooks []Outlook // of the queues, in their order
	Dead     []int32   // dispatchers that have died and left claims in the ledger, for [Store.Bury]
	Budget   int       // how many locks a dispatcher may hold now
	Lit      bool      // the asking dispatcher's beacon is lit: its lock session lives

	Cancelled []int64 // jobs of the dispatcher that it was asked to cancel, whether it heard or not
}

// Sweep looks at all the queues in one statement, and for what dispatchers other than this one have left.
func (s *Store) Sweep(ctx context.Context, dispatcher int32, queues []*Queue) (Survey, error) {
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.name
	}
	found, err := s.sweep(context.WithValue(ctx, unpinged{}, true), dispatcher, names)
	if err != nil && ctx.Err() == nil && s.Concurrent() && !answered(err) { // its connection has been broken for a while
		found, err = s.sweep(ctx, dispatcher, names)
	}
	if err != nil {
		return Survey{}, fmt.Errorf("store: sweep: %w", explain(err))
	}
	return found, nil
}

// answered tells whether an error is the server's about a statement, after which the connection lives.
func answered(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.SeverityUnlocalized == "ERROR"
}

func (s *Store) sweep(ctx context.Context, dispatcher int32, names []string) (found Survey, err error) {
	var due []bool
	var next []*float64 // in seconds
	err = s.db.QueryRow(ctx, `select due, next_due, dead, budget, lit, cancelled from `+s.function("sweep")+`($1, $2)`, names, dispatcher).
		Scan(&due, &next, &found.Dead, &found.Budget, &found.Lit, &found.Cancelled)
	if err != nil {
		return found, err
	}
	for i := range names {
		o := Outlook{Due: due[i], NextDue: -1}
		if next[i] != nil {
			o.NextDue = delay(next[i], farAway)
		}
		found.Outlooks = append(found.Outlooks, o)
	}
	return found, nil
}

// LockBudget is how many locks each dispatcher of the server may hold so that all together leave
// half of the lock table to others.
func (x *Session) LockBudget(ctx context.Context) (budget int, err error) {
	if err = x.conn.QueryRow(ctx, `select `+x.store.function("lock_budget")+`()`).Scan(&budget); err != nil {
		return 0, fmt.Errorf("store: lock budget: %w", explain(err))
	}
	return budget, nil
}

// Lit tells whether the beacon of a dispatcher is lit, so whether its lock session lives as far as the server knows.
func (s *Store) Lit(ctx context.Context, dispatcher int32) (lit bool, err error) {
	// A look into pg_locks would cost the more, the more locks there are.
	err = s.db.QueryRow(ctx, `select not pg_try_advisory_xact_lock_shared($1::int, $2::int)`, int32(sql.BeaconClass), dispatcher).Scan(&lit)
	if err != nil {
		return false, fmt.Errorf("store: beacon %d: %w", dispatcher, explain(err))
	}
	return lit, nil
}

// Renew has the pool replace its connections, those in use once they are back: to be called when one has not answered, as
// the others may be as dead. Where the store is over no pool, it does nothing.
func (s *Store) Renew() {
	if pool, ok := s.db.(interface{ Reset() }); ok {
		pool.Reset()
	}
}

// Break breaks the connection under whatever goes on with it, which fails then. Any goroutine may call it.
func (x *Session) Break() { _ = x.conn.PgConn().Conn().Close() }

// closeTimeout bounds the farewell to a server that may be gone.
const closeTimeout = time.Second

// Close ends the session: all its claims and its beacon are free then.
func (x *Session) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = x.conn.Close(ctx) // the server notices either way
}

// Permanent tells whether opening a session failed for a reason that time alone does not mend.
func Permanent(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && len(pgErr.Code) == 5 {
		// invalid authorization, invalid catalog name, insufficient privilege
		if pgErr.Code[:2] == "28" || pgErr.Code == "3D000" || pgErr.Code == "42501" {
			return true
		}
	}
	return slices.ContainsFunc(
		[]error{ErrName, ErrQueueName, ErrCodec, ErrNotMigrated, ErrNewerSchema, ErrPooled, ErrStandby, ErrProtocol},
		func(target error) bool { return errors.Is(err, target) })
}
