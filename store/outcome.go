package store

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Run names one run of a job. Outcomes are accepted only for the attempt that they are about: if
// the claim was lost meanwhile, and someone else finished or failed the job, they change nothing. Nor do they
// concern a job that got the id later, as after a failover to a standby that lagged behind.
type Run struct {
	ID      int64
	Attempt int

	place    pgtype.TID // where the claim has found the row; not valid if there was none
	enqueued time.Time  // when the job was put; zero: not known, or never
	session  *Session   // that has claimed it; nil: none
}

// put is when the job was put, or the end of time. An outcome is not accepted for a job that was put later.
func (r Run) put() pgtype.Timestamptz {
	if r.enqueued.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: r.enqueued, Valid: true}
}

// Return says what becomes of a job whose run did not finish it.
type Return struct {
	Run
	Reason   string        // for last_error; empty leaves it as it is
	Delay    time.Duration // until it is due again
	Counts   bool          // the next run is a new attempt
	SetAside bool          // there is no next run
}

// maxReason is how much of an error is kept with the job.
const maxReason = 8 << 10 // bytes

// Settle writes outcomes: it deletes jobs that are done, and returns others to their queue or sets
// them aside. It returns how many of all it has accepted; the claims of the others were lost. All
// happens in one transaction: on an error, nothing has. An error that matches [ErrRowLocked] means that
// someone has held the row of one of them for a second.
func (s *Store) Settle(ctx context.Context, done []Run, back []Return) (accepted int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	var batch pgx.Batch
	count := func(row pgx.Row) error {
		var n int
		err := row.Scan(&n)
		accepted += n
		return err
	}
	for of, g := range byKind(done) {
		batch.Queue(`select `+s.function("complete")+`($1, $2, $3, $4::int8multirange, $5)`,
			g.ids, of.attempt, g.places, multirange(g.ids), g.newest.put()).QueryRow(count)
	}
	if len(back) > 0 {
		batch.Queue(`select `+s.function("put_back")+`($1, $2, $3, $4, $5, $6, $7)`, columns(back)...).QueryRow(count)
	}
	if batch.Len() == 0 {
		return 0, nil
	}
	if err := s.db.SendBatch(ctx, &batch).Close(); err != nil {
		return 0, fmt.Errorf("store: settle %d jobs: %w", len(done)+len(back), explain(err))
	}
	return accepted, nil
}

// alike are runs that are completed together: all of the first attempt, nearly always, and claimed in one session, so
// that all of them were put before any job of another server was.
type alike struct {
	attempt int
	session *Session
}

// group is the ids of jobs, the places of those whose places are known, and the one that was put last.
type group struct {
	ids    []int64
	places []pgtype.TID
	newest Run
}

func byKind(runs []Run) map[alike]*group {
	groups := map[alike]*group{}
	for _, r := range runs {
		of := alike{r.Attempt, r.session}
		g := groups[of]
		if g == nil {
			g = &group{newest: r}
			groups[of] = g
		}
		g.ids = append(g.ids, r.ID)
		if r.place.Valid {
			g.places = append(g.places, r.place)
		}
		if !g.newest.enqueued.IsZero() && (r.enqueued.IsZero() || r.enqueued.After(g.newest.enqueued)) {
			g.newest = r
		}
	}
	return groups
}

// columns turns returns into one array a column, for unnest.
func columns(back []Return) []any {
	n := len(back)
	ids, attempts, enqueued := make([]int64, n), make([]int32, n), make([]pgtype.Timestamptz, n)
	reasons, delays := make([]*string, n), make([]float64, n)
	counts, aside := make([]bool, n), make([]bool, n)
	for i, r := range back {
		ids[i], attempts[i], enqueued[i], delays[i], counts[i], aside[i] = r.ID, int32(r.Attempt), r.put(), r.Delay.Seconds(), r.Counts, r.SetAside
		if r.Reason != "" {
			reasons[i] = new(storable(r.Reason))
		}
	}
	return []any{ids, attempts, enqueued, reasons, delays, counts, aside}
}

// storable makes any text one that PostgreSQL can hold.
func storable(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	s = strings.ReplaceAll(s, "\x00", "")
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// CompleteTx deletes one job in the caller's transaction, which db is. [ErrGone] if the claim was
// lost: then the transaction should be rolled back.
func (s *Store) CompleteTx(ctx context.Context, db DB, run Run) error {
	accepted, err := s.With(db).Settle(ctx, []Run{run}, nil)
	if err == nil && accepted == 0 {
		err = fmt.Errorf("store: complete job %d: %w: its claim was lost", run.ID, ErrGone)
	}
	return err
}

// Uncompleted tells which of these runs, completed by CompleteTx, still stand in the table: their
// transaction was rolled back. One that is still open counts as completed.
func (s *Store) Uncompleted(ctx context.Context, runs []Run) (ids []int64, err error) {
	if s.err != nil {
		return nil, s.err
	}
	all, attempts, enqueued := make([]int64, len(runs)), make([]int32, len(runs)), make([]pgtype.Timestamptz, len(runs))
	for i, r := range runs {
		all[i], attempts[i], enqueued[i] = r.ID, int32(r.Attempt), r.put()
	}
	err = s.db.QueryRow(ctx, `
		select coalesce(pg_catalog.array_agg(id), '{}')
		from (
		  select q.id
		  from unnest($1::bigint[], $2::integer[], $3::timestamptz[]) done(id, attempt, enqueued)
		  join `+s.Table()+` q on q.id = done.id and q.attempt = done.attempt and q.enqueued_at <= done.enqueued and q.dequeued_at is null
		  for update of q skip locked
		) left_over`, all, attempts, enqueued).Scan(&ids)
	if err != nil {
		return nil, fmt.Errorf("store: check %d jobs: %w", len(runs), explain(err))
	}
	return ids, nil
}

// Wake tells whoever waits for jobs of the queue to look.
func (q *Queue) Wake(ctx context.Context) error {
	if q.err != nil {
		return q.err
	}
	if _, err := q.store.db.Exec(ctx, `select `+q.store.function("notify")+`($1)`, q.name); err != nil {
		return fmt.Errorf("store: wake %s: %w", q.name, explain(err))
	}
	return nil
}

// Bury counts the attempts of the jobs that a dead dispatcher was running, and wakes their queues.
// It does nothing while that dispatcher lives. Jobs without max_attempts of their own are set aside after
// defaultMaxAttempts.
//
// left are jobs of a dead one that are still locked: by another that has claimed them, or because the server is not
// done yet with taking back the dead one's locks. A later call sees to them.
func (s *Store) Bury(ctx context.Context, dispatcher int32, defaultMaxAttempts int) (dead bool, left int, err error) {
	if s.err != nil {
		return false, 0, s.err
	}
	var n *int
	err = s.db.QueryRow(ctx, `select `+s.function("bury")+`($1, $2)`, dispatcher, defaultMaxAttempts).Scan(&n)
	if err != nil {
		return false, 0, fmt.Errorf("store: bury dispatcher %d: %w", dispatcher, explain(err))
	}
	if n == nil {
		return false, 0, nil
	}
	return true, *n, nil
}
