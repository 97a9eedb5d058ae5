// The mutants. Each has a scenario under which the mistake shows soon; what it shows, the judge has to find.

package mutant

// Scenarios, all in the short form.
var (
	calm   = []string{"-fault", "none", "-injections", "3"}                   // work at its pace
	rushed = []string{"-fault", "none", "-injections", "1", "-jobs", "20000"} // and then as fast as it goes
)

// noSweep keeps the sweep from finding what was missed, late as that would be.
var noSweep = Edit{"dispatcher/dispatcher.go", `	defaultSweep       = 10 * time.Second
`, `	defaultSweep       = time.Hour
`}

// All are in the order in which a job travels: put, wake, claim, run, outcome, death.
var All = []Mutant{
	{
		Name:  "put-outside",
		About: "puts on the pool what was to be put in the caller's transaction",
		Edits: []Edit{{"store/store.go", `	bound.db = db
`, `	if _, nested := db.(interface{ Conn() *pgx.Conn }); !nested {
		bound.db = db
	}
`}},
		Scenario: calm,
		Shows:    []string{"phantom"},
	},
	{
		Name:  "modulo",
		About: "takes the seconds of a delay modulo one minute, as pq did with date_part('second', ...)",
		Why:   "a second stands for the minute: no scenario has jobs that are due in more than one",
		Edits: []Edit{
			{"store/when.go", `return new(now.Add(*m.in))`, `return new(now.Add(*m.in % time.Second))`},
			{"sql/functions.sql", `make_interval(secs => b.delay)`, `make_interval(secs => mod(b.delay::numeric, 1)::float8)`},
		},
		Scenario: calm,
		Shows:    []string{"early"},
	},
	{
		Name:  "early",
		About: "fires its timer one tick before the time, and believes it",
		Why: "the wheel may be early as it likes: the claim asks the database's clock, finds nothing, and says how long it still is. " +
			"So the claim's rule has to go with it, and the tick is 50 ms: from a claim to the start it takes longer than 1 ms",
		Edits: []Edit{
			{"dispatcher/wake.go", `if at := time.Since(l.epoch) + delay; at < q.armed {`, `if at := time.Since(l.epoch) + delay - 50*time.Millisecond; at < q.armed {`},
			{"sql/functions.sql", `          where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
            and (q.deaths = 0 or q.deaths = 1 and witnesses and not {{.Support}}.unburied(q.id, dispatcher))
`, `          where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp() + interval '50 ms'
            and (q.deaths = 0 or q.deaths = 1 and witnesses and not {{.Support}}.unburied(q.id, dispatcher))
`},
			{"sql/functions.sql", `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not q.id <@ held
`, `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp() + interval '50 ms'
          and not q.id <@ held
`},
			{"sql/functions.sql", `    where q.ctid = any (places) and q.q_name = queue and q.dequeued_at is null
      and (q.schedule_at is null or q.schedule_at <= statement_timestamp());
`, `    where q.ctid = any (places) and q.q_name = queue and q.dequeued_at is null
      and (q.schedule_at is null or q.schedule_at <= statement_timestamp() + interval '50 ms');
`},
		},
		Scenario: calm,
		Shows:    []string{"early"},
	},
	{
		Name:     "no-barrier",
		About:    "falls asleep while a put is under way that will not notify",
		Edits:    []Edit{{"store/session.go", `return p == Parked || p == Peer }`, `return p != "" }`}},
		Scale:    []Edit{noSweep},
		Scenario: []string{"-fault", "slow-commit", "-injections", "2"},
		Shows:    []string{"stuck"},
	},
	{
		Name:  "no-heartbeat",
		About: "listens on a dead connection for ever",
		Scale: []Edit{noSweep, {"dispatcher/loop.go", `	heartbeat = 30 * time.Second
`, `	heartbeat = time.Second
`}},
		Edits: []Edit{{"notify/session.go", `			err = l.beat(ctx, conn)
`, `			err = nil
`}},
		Scenario: []string{"-fault", "deaf", "-injections", "1"},
		Shows:    []string{"stuck"},
	},
	{
		Name:  "gives-up",
		About: "stops reconnecting when the default MaxElapsedTime of backoff is over",
		Why: "after a second, by default it is 15 minutes; and since a dispatcher sets its timer to whatever the backoff says, " +
			"and that is negative then, it would not stop but go on without a pause: so it is told to stop, as backoff.Retry does",
		Edits: []Edit{
			{"retry/retry.go", `backoff.WithMaxElapsedTime(0),`, `backoff.WithMaxElapsedTime(time.Second),`},
			{"dispatcher/session.go", `		timer.Reset(delays.NextBackOff())
`, `		wait := delays.NextBackOff()
		if wait < 0 {
			<-ctx.Done()
			return nil, opening{}, ctx.Err()
		}
		timer.Reset(wait)
`},
		},
		Scenario: []string{"-fault", "server-down", "-injections", "1"},
		Shows:    []string{"stuck"},
	},
	{
		Name:  "one-reading",
		About: "does not read a job again after it has locked it",
		Edits: []Edit{
			{"sql/functions.sql", `  waits     smallint; -- a suspect, after so many deaths
begin
`, `  waits     smallint;
  kept      {{.Table}}[] := '{}';
  kept_at   tid[] := '{}';
begin
`},
			{"sql/functions.sql", `select q.id, q.attempt, q.deaths, q.ctid as place, pg_column_size(q.data) as size, q.expected_at
`, `select q.id, q.attempt, q.deaths, q.ctid as place, pg_column_size(q.data) as size, q.expected_at, q as whole
`},
			{"sql/functions.sql", `select q.id, q.attempt, q.deaths, q.ctid, pg_column_size(q.data), q.expected_at
`, `select q.id, q.attempt, q.deaths, q.ctid, pg_column_size(q.data), q.expected_at, q
`},
			{"sql/functions.sql", `        places := places || part.place;
`, `        kept := kept || part.whole;
        kept_at := kept_at || part.place;
`},
			{"sql/functions.sql", `      and (q.schedule_at is null or q.schedule_at <= statement_timestamp());
  get diagnostics found = row_count;
`, `      and (q.schedule_at is null or q.schedule_at <= statement_timestamp())
    union all
    select k.id, k.data, k.enqueued_at, k.schedule_at, k.expected_at, k.task, k.attempt, k.max_attempts, k.metadata, k.deaths, kept_at[i]
    from generate_subscripts(kept, 1) i
    cross join lateral (select (kept[i]).*) k;
  get diagnostics found = row_count;
`},
		},
		Scenario: rushed,
		Shows:    []string{"rerun"},
	},
	{
		Name:  "lock-in-filter",
		About: "tries the locks in the filter of the query that finds the jobs, which PostgreSQL reads ahead of what is taken",
		Why:   "from a position a claim has its limit within, and the plan is pinned: there such a filter would do no harm, so it is in the look from the head",
		Edits: []Edit{
			{"sql/functions.sql", `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
          and not q.id <@ held
        order by q.expected_at, q.id
`, `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
          and not q.id <@ held and pg_try_advisory_lock(class, {{.Support}}.lock_key(q.id))
        order by q.expected_at, q.id
`},
			{"sql/functions.sql", `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not q.id <@ held
        order by q.expected_at, q.id
`, `        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not q.id <@ held and pg_try_advisory_lock(class, {{.Support}}.lock_key(q.id))
        order by q.expected_at, q.id
`},
			{"sql/functions.sql", `      if pg_try_advisory_lock(class, {{.Support}}.lock_key(part.id)) then
`, `      if true then
`},
		},
		Scenario: rushed,
		Shows:    []string{"leak"},
	},
	{
		Name:  "held-forgotten",
		About: "does not say what it has claimed already, and gets its own locks again",
		Why:   "without the check of what comes back, too, which would give it back",
		Edits: []Edit{
			{"dispatcher/claims.go", `		request.claim.Held = q.hand.after(request.claim.After - request.claim.Back)
`, ``},
			{"dispatcher/claims.go", `		if q.hand.claims[job.ID] != nil {
`, `		if false {
`},
		},
		Scenario: calm,
		Shows:    []string{"overlap", "rerun"},
	},
	{
		Name:  "last-first",
		About: "claims from its position what was put last, and leaves the rest behind",
		Edits: []Edit{{"sql/functions.sql", `            and not q.id <@ held
          order by q.id
          limit least(step`, `            and not q.id <@ held
          order by q.id desc
          limit least(step`}},
		Scenario: []string{"-fault", "backlog", "-injections", "1"},
		Shows:    []string{"order"},
	},
	{
		Name:  "contexts-live-on",
		About: "lets handlers work on, when the lock session has broken and their jobs may be another's",
		Edits: []Edit{{"dispatcher/claims.go", `	l.cancelHandlers(ErrSessionLost)
`, ``}},
		Scenario: []string{"-fault", "claims-lost", "-injections", "1"},
		Shows:    []string{"cancel"},
	},
	{
		Name:  "unfinished-is-done",
		About: "completes the jobs that it could not finish",
		Edits: []Edit{
			{"dispatcher/settle.go", `		case done, discarded:
`, `		case done, discarded, handedBack, claimLost:
`},
			{"dispatcher/settle.go", `		case handedBack, claimLost:
`, ``},
		},
		Scenario: []string{"-fault", "claims-lost", "-injections", "1"},
		Shows:    []string{"lost"},
	},
	{
		Name:  "unlock-first",
		About: "gives a job's lock back before its outcome is committed",
		Edits: []Edit{
			{"dispatcher/work.go", `		l.report(c)
`, `		l.report(c)
		if c.session == l.session {
			l.release = append(l.release, c.job.ID)
		}
`},
			{"dispatcher/work.go", `	case done, discarded:
		l.over = append(l.over, c.job.ID)
	default:
		l.release = append(l.release, c.job.ID)
	}
`, `	case "": // it was not run
		l.release = append(l.release, c.job.ID)
	}
`},
		},
		Scenario: rushed,
		Shows:    []string{"rerun"},
	},
	{
		Name:  "completion-unchecked",
		About: "commits an effect though the job has been completed by another",
		Edits: []Edit{{"store/outcome.go", `	if err == nil && accepted == 0 {
`, `	if err == nil && accepted < 0 {
`}},
		Scenario: []string{"-fault", "claims-unnoticed", "-injections", "2"},
		Shows:    []string{"accepted twice"},
	},
	{
		Name:  "completion-by-place",
		About: "deletes what stands where a job once stood, whatever it is",
		Edits: []Edit{{"sql/functions.sql", `where q.ctid = any (places) and q.id <@ whole and q.attempt = complete.attempt and q.dequeued_at is null
    and q.enqueued_at <= newest;`, `where q.ctid = any (places) and q.attempt = complete.attempt and q.dequeued_at is null;`}},
		Scenario: []string{"-fault", "claims-unnoticed", "-injections", "2"},
		Shows:    []string{"lost"},
	},
	{
		Name:  "retry-unfenced",
		About: "puts a job back whatever its attempt has become",
		Edits: []Edit{{"sql/functions.sql", `  where q.id = b.id and q.attempt = b.attempt and q.enqueued_at <= b.enqueued and q.dequeued_at is null;
`, `  where q.id = b.id and q.enqueued_at <= b.enqueued and q.dequeued_at is null;
`}},
		Scenario: []string{"-fault", "cut-put-back"},
		Shows:    []string{"attempt"},
	},
	{
		Name:  "any-of-the-id",
		About: "takes the outcome of a job that was lost in a failover for that of the one which has got its id",
		Edits: []Edit{
			{"sql/functions.sql", `  where q.ctid = any (places) and q.id <@ whole and q.attempt = complete.attempt and q.dequeued_at is null
    and q.enqueued_at <= newest;
`, `  where q.ctid = any (places) and q.id <@ whole and q.attempt = complete.attempt and q.dequeued_at is null;
`},
			{"sql/functions.sql", `    where q.id = any (ids) and q.attempt = complete.attempt and q.dequeued_at is null
      and q.enqueued_at <= newest;
`, `    where q.id = any (ids) and q.attempt = complete.attempt and q.dequeued_at is null;
`},
			{"sql/functions.sql", `and q.attempt = b.attempt and q.enqueued_at <= b.enqueued and`, `and q.attempt = b.attempt and`},
		},
		Scenario: []string{"-fault", "failover-lagging", "-injections", "1"},
		Shows:    []string{"lost"},
	},
	{
		Name:  "ledger-unread",
		About: "never reads what a dead dispatcher had in hand",
		Edits: []Edit{{"dispatcher/ring.go", `		buried, left, err := d.jobs.Bury(ctx, dead, int(d.maxAttempts.Load()))
`, `		buried, left, err := true, 0, ctx.Err()
`}},
		Scenario: []string{"-fault", "kill9", "-injections", "2"},
		Shows:    []string{"leak"},
	},
	{
		Name:  "all-to-blame",
		About: "counts a death against all that ran beside the job that caused it",
		Edits: []Edit{{"sql/functions.sql", `e.attempt is not null and q.deaths = max(q.deaths) filter (where e.attempt is not null) over () as blamed,
           q.deaths < 2 or q.attempt = e.attempt and q.deaths < q.attempt as counts`, `e.attempt is not null as blamed, true as counts`},
			{"dispatcher/claims.go", `request.claim.Witnesses, request.claim.Suspects = l.admits(q, request.asked)`, `request.claim.Witnesses, request.claim.Suspects = true, true`},
			{"sql/functions.sql", `        witnesses := witnesses and part.deaths <= 1;
        suspects := suspects and part.deaths = 0;
`, ``},
		},
		Scenario: []string{"-fault", "poison-exit", "-injections", "1"},
		Shows:    []string{"set aside"},
	},
}
