-- Migration 2: the functions. put() is for users; the others are the dispatcher's side of the
-- protocol that ARCHITECTURE.md describes.
--
-- All run with the caller's rights (security invoker) and name everything with its schema. Those that run
-- often are plpgsql, which plans its statements once a session; an SQL function is parsed at each call,
-- unless it is so simple that it is inlined.

-- put: one job, in the caller's transaction. Returns its id.
--
--   select pq_dispatch.put('apples', '{"kind": "Cox"}', schedule_at => now() + '5m');
create function {{.Support}}.put(
  queue        text,
  data         jsonb,
  schedule_at  timestamptz default null,
  expected_at  timestamptz default null,
  task         text default null,
  max_attempts integer default null,
  metadata     jsonb default null
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  id bigint;
begin
  insert into {{.Table}} as q (q_name, data, schedule_at, expected_at, task, max_attempts, metadata)
  values (put.queue, put.data, put.schedule_at, put.expected_at, put.task, put.max_attempts, put.metadata)
  returning q.id into id;
  return id;
end
$$;

-- lock_class: the first key of the two-int advisory locks on jobs. By default the table's oid, so
-- that two queue tables, or the application's own locks, do not meet.
create function {{.Support}}.lock_class() returns integer
language sql stable
as $$ select {{.LockClass}} $$;

-- lock_key: the second key, the low half of the id. Two jobs 2^32 apart share one: another session
-- has to wait for both, no more.
create function {{.Support}}.lock_key(id bigint) returns integer
language sql immutable
as $$
  select (((id operator(pg_catalog.&) 4294967295) operator(pg_catalog.#) 2147483648)
          operator(pg_catalog.-) 2147483648)::pg_catalog.int4
$$;

-- paused: whether the queue gives out no jobs, until it is resumed.
create function {{.Support}}.paused(queue text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from {{.Support}}.pauses p where p.q_name = queue and p.until > statement_timestamp());
end
$$;

-- unburied: whether another dispatcher has entered the job in the ledger, which may have died without its death being
-- counted yet. Or it lives, and has handed the job back: then this is so until the last job of that batch has ended.
create function {{.Support}}.unburied(job bigint, dispatcher integer) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (select from {{.Support}}.ledger l where l.dispatcher <> unburied.dispatcher and job = any (l.ids))
$$;

-- claim: up to want due jobs of a queue, in order: earliest expected_at first, those without one
-- last, then id. Takes a session advisory lock on each and enters them in the ledger, as a batch that the
-- caller numbers.
--
-- A claim writes no row of the queue. What makes that safe:
--   - Every row that a lock is tried for is looked at. In a filter over the table, the planner may call
--     pg_try_advisory_lock for rows that a limit then drops: 40 locks taken for 1 row.
--   - The rows are read again in a later statement, whose snapshot is younger than the locks: in
--     the first one's, a job that was finished in between still stands, and would run twice. They are
--     found by their place in the table, which the first reading knows: no vacuum can give it to another
--     row before this statement of the caller's has ended.
--   - A session gets its own lock again: held says what the caller has already. As a multirange,
--     since a lookup in it is a binary search; "<> all (array)" compared every id with every other.
-- If a job was finished or changed by the second reading, the ids of all that was locked follow, each in a
-- row of its own without a place: the caller unlocks what it was not given, and looks again.
--
-- after says where an earlier claim has come to: then, of the ready jobs without expected_at, only those with a
-- higher id are looked at. From the head of a busy queue a claim steps over all that is in hand, and over
-- what is done but not vacuumed. What has an expected_at, or was scheduled and is due, comes first all the
-- same. Where others have claimed, such a claim leaps, further each time, and may leave jobs behind. The
-- caller has to look from the head (null) whenever it was not given all it wanted, and now and then: for what
-- was left, committed late or handed back. Where that takes long, it looks at ids up to upto, piece by piece.
-- back is how many ids before after it begins all the same, without leaping over any that is higher.
--
-- A claim stops at so many bytes of data, as the table holds it, or one job: a row without a place but with an
-- attempt tells that there are more.
--
-- A job in whose run a process has died is a witness, and after the second death suspect (see bury). A process runs one
-- suspect at a time, and beside it no witness, so that the next death tells whether it was this job: a caller asks for
-- neither while it holds a suspect, and for no suspects while it holds a witness. If it asks for both it is given one suspect or
-- witnesses, whichever come first; suspects only from the head. Neither is claimed before the death is counted. If a
-- suspect could have been claimed and was not, since none was asked for or another came first, a row without a place has its deaths.
--
-- The plan is pinned: without statistics (a table just loaded) the planner would sort the whole
-- queue for each claim. Only scheduled jobs that are due are sorted, as no index can know which are.
create function {{.Support}}.claim(
  queue text, want integer, held int8multirange, dispatcher integer, batch bigint, witnesses boolean, suspects boolean,
  bytes bigint, after bigint default null, upto bigint default null, back bigint default 0
)
returns table (
  id bigint, data jsonb, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
  task text, attempt integer, max_attempts integer, metadata jsonb, deaths smallint, place tid
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  class     constant integer := {{.Support}}.lock_class();
  part      record;
  fresh     constant bigint := after;
  behind    boolean; -- a step has begun before that
  step      integer := 64; -- how many rows are tried at once, until a lock is had
  ids       bigint[] := '{}';
  attempts  integer[] := '{}';
  places    tid[] := '{}';
  found     integer;
  fit       integer;
  waits     smallint; -- a suspect, after so many deaths
begin
  if want <= 0 or {{.Support}}.paused(queue) then
    return;
  end if;
  if after is not null and upto is null then
    select array_agg(t.id) filter (where t.ours) as ids, array_agg(t.attempt) filter (where t.ours) as attempts,
           array_agg(t.place) filter (where t.ours) as places, sum(t.size) filter (where t.ours) as size
    into part
    from (
      select c.*, pg_try_advisory_lock(class, {{.Support}}.lock_key(c.id)) as ours
      from (
        ( -- each arm in order, as below
          select q.id, q.attempt, q.ctid as place, pg_column_size(q.data) as size, q.expected_at
          from {{.Table}} q
          where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
            and q.expected_at <= 'infinity' and (q.deaths = 0 or q.deaths = 1 and witnesses and not {{.Support}}.unburied(q.id, dispatcher))
            and not q.id <@ held
          order by q.expected_at, q.id
        ) union all (
          select q.id, q.attempt, q.ctid, pg_column_size(q.data), q.expected_at
          from {{.Table}} q
          where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
            and (q.deaths = 0 or q.deaths = 1 and witnesses and not {{.Support}}.unburied(q.id, dispatcher))
            and not q.id <@ held
          order by q.expected_at, q.id
        )
        order by expected_at, id
        limit least(want, 64)
      ) c
    ) t;
    if part.ids is not null then
      ids := part.ids;
      attempts := part.attempts;
      places := part.places;
      bytes := bytes - part.size;
    end if;
  end if;
  if after is not null then
    upto := coalesce(upto, 9223372036854775807);
    after := after - back;
    while cardinality(ids) < want and bytes > 0 loop
      select array_agg(t.id) filter (where t.ours) as ids, array_agg(t.attempt) filter (where t.ours) as attempts,
             array_agg(t.place) filter (where t.ours) as places, sum(t.size) filter (where t.ours) as size,
             count(*) as tried, max(t.id) as last
      into part
      from (
        select c.*, pg_try_advisory_lock(class, {{.Support}}.lock_key(c.id)) as ours
        from (
          select q.id, q.attempt, q.ctid as place, pg_column_size(q.data) as size
          from {{.Table}} q
          where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
            and q.expected_at is null and q.id > after and q.id <= upto
            and (q.deaths = 0 or q.deaths = 1 and witnesses and not {{.Support}}.unburied(q.id, dispatcher))
            and not q.id <@ held
          order by q.id
          limit least(step, want - cardinality(ids))
        ) c
      ) t;
      exit when part.tried = 0;
      behind := after < fresh;
      after := part.last;
      if part.ids is null then
        if not behind then
          after := least(after, 9223372036854775807 - step) + step;
          step := least(2 * step, 4096);
        elsif after < fresh then
          after := after + least(step, fresh - after);
        end if;
        continue;
      end if;
      if part.size > bytes then
        select count(*) into fit
        from (
          select sum(pg_column_size(q.data)) over (order by q.id) as size
          from {{.Table}} q
          where q.ctid = any (part.places)
        ) t
        where t.size <= bytes;
        fit := greatest(fit, (ids = '{}')::integer);
        perform {{.Support}}.release(part.ids[fit + 1:]);
        part.ids := part.ids[:fit];
        part.attempts := part.attempts[:fit];
        part.places := part.places[:fit];
      end if;
      ids := ids || part.ids;
      attempts := attempts || part.attempts;
      places := places || part.places;
      bytes := bytes - part.size;
      step := case when behind then 64 else 1024 end;
    end loop;
  else
    for part in
      ( -- each arm in order, so that they are merged: else both are read to their ends, and sorted
        select q.id, q.attempt, q.deaths, q.ctid as place, pg_column_size(q.data) as size, q.expected_at
        from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
          and not q.id <@ held
        order by q.expected_at, q.id
      ) union all (
        select q.id, q.attempt, q.deaths, q.ctid, pg_column_size(q.data), q.expected_at
        from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not q.id <@ held
        order by q.expected_at, q.id
      )
      order by expected_at, id
    loop
      continue when part.deaths = 1 and not witnesses or part.deaths > 1 and waits > 0
        or part.deaths > 0 and {{.Support}}.unburied(part.id, dispatcher);
      if pg_try_advisory_lock(class, {{.Support}}.lock_key(part.id)) then
        if part.deaths > 1 and not suspects then
          perform pg_advisory_unlock(class, {{.Support}}.lock_key(part.id));
          waits := part.deaths;
          continue;
        end if;
        ids := ids || part.id;
        attempts := attempts || part.attempt;
        places := places || part.place;
        witnesses := witnesses and part.deaths <= 1;
        suspects := suspects and part.deaths = 0;
        bytes := bytes - part.size;
        exit when cardinality(ids) >= want or bytes <= 0;
      end if;
    end loop;
  end if;
  if waits > 0 then
    id := 0;
    deaths := waits;
    return next;
    deaths := null;
  end if;
  if ids = '{}' then
    return;
  end if;

  -- claimed_at is when this began to look, not when it has found: a cancel of a job that is locked by now is asked of
  -- us (see asked). Nor is it the transaction's start: bury compares it with when a job was put off.
  insert into {{.Support}}.ledger (dispatcher, batch, ids, attempts, claimed_at)
  values (claim.dispatcher, claim.batch, ids, attempts, statement_timestamp());

  return query
    select q.id, q.data, q.enqueued_at, q.schedule_at, q.expected_at, q.task, q.attempt,
           q.max_attempts, q.metadata, q.deaths, q.ctid
    from {{.Table}} q
    where q.ctid = any (places) and q.q_name = queue and q.dequeued_at is null
      and (q.schedule_at is null or q.schedule_at <= statement_timestamp());
  get diagnostics found = row_count;
  if found < cardinality(ids) then
    foreach id in array ids loop
      return next;
    end loop;
  end if;
  if bytes <= 0 then
    id := 0;
    attempt := 0;
    return next;
  end if;
exception when out_of_memory then
  -- The server's lock table is full, for everyone. Give back what this call took: a session lock
  -- outlives the failed statement. That one was about to tell which it had got, so what the session has and
  -- the ledger does not know is of it.
  perform {{.Support}}.release(ids);
  perform {{.Support}}.release(array(
    select k.objid::bigint
    from pg_lock_status() k
    where k.pid = pg_backend_pid() and k.locktype = 'advisory' and k.classid = class::oid and k.objsubid = 2
      and {{.Support}}.lock_key(k.objid::bigint) not in (
        select {{.Support}}.lock_key(known.id)
        from {{.Support}}.ledger l
        cross join unnest(l.ids) known(id)
        where l.dispatcher = claim.dispatcher)));
  raise exception using errcode = 'PQ532', message = sqlerrm;
end
$$;

-- release: unlocks claimed jobs, after their outcome has committed. Returns how many were held. Who was asked to cancel one
-- may have heard it when its run was over: what of these waits again is cancelled now. Before the unlock, as whoever retries
-- one after it means another run; and for who found it locked until then, once more. (Of a cancel that commits in between and
-- a retry that is under way at the second look, the cancel wins.)
create function {{.Support}}.release(ids bigint[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  class    constant integer := {{.Support}}.lock_class();
  released bigint;
begin
  perform {{.Support}}.catch_up(ids);
  released := (
    select count(*) filter (where pg_advisory_unlock(class, {{.Support}}.lock_key(id)))
    from unnest(ids) id);
  perform {{.Support}}.catch_up(ids);
  return released;
end
$$;

-- catch_up: cancels what of these jobs was asked to be cancelled, if the lock table has room for that: the unlocks
-- must not fail, nor the claim that follows.
create function {{.Support}}.catch_up(ids bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  asked bigint[];
begin
  if exists (select from {{.Support}}.cancels) then
    asked := array(select c.id from {{.Support}}.cancels c where c.id = any (ids));
    if asked <> '{}' then
      perform set_config('synchronous_commit', 'on', true); -- off for all else that the lock session does
      perform {{.Support}}.cancel(asked);
    end if;
  end if;
exception when out_of_memory then
  null;
end
$$;

-- get: the next due job, taken out of the queue in the caller's transaction. The lock lasts as
-- long as the transaction does, and so keeps dispatchers off the job until it is known whether it
-- stays out (commit) or comes back (rollback). A row that someone else has locked, such as a
-- consumer of Python's pq, is passed over: waiting for it would know no timeout.
create function {{.Support}}.get(queue text)
returns table (
  id bigint, data jsonb, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
  task text, attempt integer, max_attempts integer, metadata jsonb
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  class     constant integer := {{.Support}}.lock_class();
  candidate record;
begin
  if {{.Support}}.paused(queue) then
    return;
  end if;
  for candidate in
    ( -- each arm in order, as in claim
      select q.id, q.expected_at
      from {{.Table}} q
      where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
      order by q.expected_at, q.id
    ) union all (
      select q.id, q.expected_at
      from {{.Table}} q
      where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
      order by q.expected_at, q.id
    )
    order by expected_at, id
  loop
    continue when not pg_try_advisory_xact_lock(class, {{.Support}}.lock_key(candidate.id));
    return query
      delete from {{.Table}} q
      where q.id = (
        select free.id
        from {{.Table}} free
        where free.id = candidate.id and free.dequeued_at is null
          and (free.schedule_at is null or free.schedule_at <= statement_timestamp())
        for update skip locked
      )
      returning q.id, q.data, q.enqueued_at, q.schedule_at, q.expected_at, q.task, q.attempt,
                q.max_attempts, q.metadata;
    exit when found;
  end loop;
end
$$;

-- next_due: how long until the next scheduled job of the queue is due, or, if it is paused, until that
-- ends; null without either. A job may be scheduled for 'infinity', from which nothing can be subtracted
-- before PostgreSQL 17.
create function {{.Support}}.next_due(queue text) returns interval
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select due.at - clock_timestamp()
    from (
      ( -- each arm has a row at most, and the first one is the answer
        select p.until as at
        from {{.Support}}.pauses p
        where p.q_name = queue and p.until > statement_timestamp()
      ) union all (
        select q.schedule_at
        from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at > statement_timestamp()
        order by q.schedule_at
        limit 1
      )
      limit 1
    ) due
    where due.at < 'infinity');
end
$$;

-- bucket: which wake lock a queue belongs to. Queues share 64 of them, so that a transaction that puts
-- into ten thousand queues holds 64 locks at most; a collision costs a needless notification, no more.
create function {{.Support}}.bucket(queue text) returns integer
language sql immutable
as $$ select pg_catalog.hashtext(queue) operator(pg_catalog.&) 63 $$;

-- park: before it sleeps, a session makes sure that every later put will notify. Inserters hold the
-- wake lock shared while they are silent, so:
--   parked  it is ours alone: all silent inserters have ended, and all later ones will notify
--   peer    another session is parked, so inserters notify, and all who listen hear it
--   busy    a silent inserter is in flight: try again soon
-- After parked and peer the caller looks once more, in a later statement, and then may sleep. It
-- never waits: a waiting lock request would hold back vacuum, and stop inserters from being silent.
-- That no wake-up is lost is checked by the model in docs/model.
create function {{.Support}}.park(bucket integer) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if pg_try_advisory_lock({{.WakeClass}}, bucket) then
    return 'parked';
  elsif pg_try_advisory_lock_shared({{.WakeClass}}, bucket) then
    perform pg_advisory_unlock_shared({{.WakeClass}}, bucket);
    return 'busy';
  else
    return 'peer';
  end if;
end
$$;

-- unpark: the opposite. Whoever sleeps because this session was parked is told, to take the post.
create function {{.Support}}.unpark(bucket integer) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_advisory_unlock({{.WakeClass}}, bucket);
  perform pg_notify({{.Channel}}, 'bucket ' || bucket);
end
$$;

-- dispatchers: those that live, by their places in the ring, and the server process of each.
create function {{.Support}}.dispatchers() returns table (id integer, pid integer)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select k.objid::integer, k.pid
  from pg_locks k
  where k.locktype = 'advisory' and k.objsubid = 2 and k.mode = 'ExclusiveLock' and k.granted
    and k.database = (select oid from pg_database where datname = current_database())
    and k.classid = {{.RingClass}}::oid
$$;

-- neighbour: the next dispatcher in the ring of those that live; null if there is no other.
create function {{.Support}}.neighbour(dispatcher integer) returns integer
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select d.id
  from {{.Support}}.dispatchers() d
  where d.id <> dispatcher
  order by d.id < dispatcher, d.id
  limit 1
$$;

-- watch: waits for the death of a dispatcher. The wait is bounded by the session's lock_timeout, since it
-- holds back vacuum.
create function {{.Support}}.watch(dispatcher integer) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_advisory_xact_lock_shared({{.RingClass}}, dispatcher)
$$;

-- light: takes the two locks by which a dispatcher shows that it lives: its beacon, which all
-- dispatchers of the server count, and its place in the ring of those of this table. False if the id
-- is in use.
create function {{.Support}}.light(dispatcher integer) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select case when pg_try_advisory_lock({{.BeaconClass}}, dispatcher)
         then pg_try_advisory_lock({{.RingClass}}, dispatcher) else false end
$$;

-- notify: wakes whoever waits for jobs of the queue. The payload is a hint: when the earliest of
-- the new jobs is due, in microseconds since 1970 (0: now), a space, the queue's name. What is due
-- beyond 9e12 seconds, in the year 287 000, is told as that: the number has to fit its type.
create function {{.Support}}.notify(queue text, due timestamptz default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify({{.Channel}},
    case when due > statement_timestamp() then (least(extract(epoch from due), 9e12) * 1000000)::bigint else 0 end
    || ' ' || queue);
end
$$;

-- complete: deletes jobs that are done, all on the same attempt. Returns how many it deleted: the
-- others have been finished, or failed and so have another attempt's number, since their claim was
-- lost. (To return which, by "returning id", takes half as long again.)
--
-- places says where in the table the claim has found them, which is a third faster than to look each up by
-- its id; whole has the same ids, since a place may have gone to another job meanwhile. What is not
-- there any more, because someone has updated it, is looked up.
--
-- newest is when the last of them was put. After a failover to a standby that lagged behind, the sequence gives the
-- ids of what was lost with the old server to other jobs, which a late outcome must not take for its own.
create function {{.Support}}.complete(
  ids bigint[], attempt integer, places tid[], whole int8multirange, newest timestamptz
) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
set lock_timeout = '1s' -- whoever has locked one row must not stop the outcomes of all
as $$
declare
  deleted integer;
  moved   integer;
begin
  delete from {{.Table}} q
  where q.ctid = any (places) and q.id <@ whole and q.attempt = complete.attempt and q.dequeued_at is null
    and q.enqueued_at <= newest;
  get diagnostics deleted = row_count;
  if deleted < cardinality(ids) then
    delete from {{.Table}} q
    where q.id = any (ids) and q.attempt = complete.attempt and q.dequeued_at is null
      and q.enqueued_at <= newest;
    get diagnostics moved = row_count;
    deleted := deleted + moved;
  end if;
  return deleted;
end
$$;

-- put_back: the jobs' runs did not finish them. Each waits for its delay in seconds and runs again,
-- as its next attempt if this one counts; or is set aside. Returns how many, as complete does. enqueued is when each
-- was put, for the reason told there.
create function {{.Support}}.put_back(
  ids bigint[], attempts integer[], enqueued timestamptz[], errors text[], delays double precision[], counts boolean[], aside boolean[]
) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
set lock_timeout = '1s' -- whoever has locked one row must not stop the outcomes of all
as $$
declare
  changed integer;
begin
  update {{.Table}} q
  set attempt     = q.attempt + (b.counts and not b.aside)::integer,
      last_error  = coalesce(b.error, q.last_error),
      schedule_at = case when b.aside then q.schedule_at else clock_timestamp() + make_interval(secs => b.delay) end,
      dequeued_at = case when b.aside then clock_timestamp() end,
      set_aside   = b.aside,
      deaths      = 0 -- its process lived to tell
  from unnest(ids, attempts, enqueued, errors, delays, counts, aside) b(id, attempt, enqueued, error, delay, counts, aside)
  where q.id = b.id and q.attempt = b.attempt and q.enqueued_at <= b.enqueued and q.dequeued_at is null;
  get diagnostics changed = row_count;
  return changed;
end
$$;

-- lock_capacity: how many locks the server's table of them has room for.
create function {{.Support}}.lock_capacity() returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select current_setting('max_locks_per_transaction')::bigint
       * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
$$;

-- lock_budget: how many locks a dispatcher may hold. All that live on the server share half of its
-- lock table.
create function {{.Support}}.lock_budget() returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select ({{.Support}}.lock_capacity() / 2 / greatest(1, (
    select count(*) from pg_locks
    where locktype = 'advisory' and classid = {{.BeaconClass}} and objsubid = 2)))::integer
$$;

-- asked: the jobs that a dispatcher was asked to cancel since it has claimed them.
create function {{.Support}}.asked(dispatcher integer) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from {{.Support}}.cancels) then
    return '{}';
  end if;
  return array(
    select e.id
    from {{.Support}}.ledger l
    cross join unnest(l.ids) e(id)
    join {{.Support}}.cancels c on c.id = e.id
    where l.dispatcher = asked.dispatcher
    group by e.id
    having max(l.claimed_at) <= max(c.asked_at)); -- else it is claimed anew: the batch of before stands for others of it
end
$$;

-- sweep: one look at many queues, and at what has to be looked at now and then. For each queue: is a job
-- due, and in how many seconds is the next one. And whose entries stand in the ledger though their
-- beacon is out, the lock budget, whether the dispatcher's own beacon is lit, and which of its jobs it was asked to
-- cancel, and may not have heard.
create function {{.Support}}.sweep(
  queues text[], dispatcher integer,
  out due boolean[], out next_due double precision[], out dead integer[], out budget integer, out lit boolean,
  out cancelled bigint[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  queue text;
begin
  due := '{}';
  next_due := '{}';
  dead := '{}';
  budget := {{.Support}}.lock_budget();
  cancelled := {{.Support}}.asked(dispatcher);
  lit := exists (
    select from pg_locks k
    where k.locktype = 'advisory' and k.classid = {{.BeaconClass}} and k.objid::integer = dispatcher and k.objsubid = 2);
  if exists (select from {{.Support}}.ledger l where l.dispatcher <> sweep.dispatcher) then
    dead := array(
      select distinct l.dispatcher
      from {{.Support}}.ledger l
      where l.dispatcher <> sweep.dispatcher
      except
      select k.objid::integer
      from pg_locks k
      where k.locktype = 'advisory' and k.classid = {{.BeaconClass}} and k.objsubid = 2);
  end if;
  foreach queue in array queues loop
    due := array_append(due, not {{.Support}}.paused(queue) and (exists (
        select from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
      ) or exists (
        select from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
      )));
    next_due := array_append(next_due, extract(epoch from {{.Support}}.next_due(queue))::double precision);
  end loop;
end
$$;

-- bury: the post-mortem of a dispatcher that died, or whose lock session broke. Null while it lives, which
-- its beacon shows: the lock can be had only after its session has ended. Else how many of its jobs are still
-- locked: the server takes back the locks of an ended session one after another, so that the caller may be here
-- before it is done.
--
-- One of the jobs that it had claimed may have killed it. Those in whose runs the most processes have died
-- before are blamed: their attempt is counted, and one whose last it was is set aside. The others run again as the
-- same attempt, but are witnesses: one of them may be the reason, beside a suspect that is innocent. So a job that
-- kills its process cannot do so for ever, and does not take with it what happens to run beside it: after its second death
-- it is run as the only suspect of its process, and not beside what was there at an earlier death (see claim).
--
-- A death that was not counted as an attempt is made up for with the next one, as each was a run. A claim does not wait
-- until a first death is counted: several processes may have died of a job before the first is buried. Then
--   - of one that is locked, by another dispatcher that has claimed it since, the death is counted at once, and the attempt
--     with the next one. Else it would have fewer than those that ran beside it, and they would be blamed for it;
--   - one whose later attempt the dead one does not know of, and which has died of others only, is blamed as well;
--   - but all this only until it is suspect: what ran beside it each time is not to be set aside before they are told
--     apart.
-- What is locked stays in the ledger for a later call, with its attempt if that is still to be counted: the server may
-- not be done with taking back the dead one's locks.
--
-- The locks are the transaction's: released before the count is committed, they would let a claim in that
-- reads the old count.
create function {{.Support}}.bury(dispatcher integer, default_max_attempts integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  job      record;
  queues   text[] := '{}';
  ids      bigint[] := '{}'; -- to blame
  attempts integer[] := '{}';
  counts   integer[] := '{}'; -- 0: only its attempts are made up for
  others   bigint[] := '{}'; -- whose deaths are counted, and no attempt
  locked   bigint[] := '{}';
  later    integer[] := '{}';
  unheard  bigint[];
begin
  if not pg_try_advisory_xact_lock({{.BeaconClass}}, bury.dispatcher) then
    return null;
  end if;
  for job in
    select q.id, q.q_name, q.attempt, e.attempt as known, q.deaths,
           e.attempt is not null and q.deaths = max(q.deaths) filter (where e.attempt is not null) over () as blamed,
           q.deaths < 2 or q.attempt = e.attempt and q.deaths < q.attempt as counts
    from {{.Support}}.ledger l
    cross join unnest(l.ids, l.attempts) e(id, attempt)
    join {{.Table}} q on q.id = e.id and q.dequeued_at is null
      and (e.attempt is null or q.attempt = e.attempt or q.attempt > e.attempt and q.deaths > 0)
      and (e.attempt is null or l.batch > 0 or q.deaths > 1)
      -- What was put off since it was claimed had been given back, as the same attempt, and killed nobody: its batch
      -- stands in the ledger for the others of it.
      and (q.schedule_at is null or q.schedule_at <= l.claimed_at)
    where l.dispatcher = bury.dispatcher
  loop
    if not pg_try_advisory_xact_lock({{.Support}}.lock_class(), {{.Support}}.lock_key(job.id)) then
      locked := array_append(locked, job.id);
      later := array_append(later, case when job.blamed and job.deaths > 1 then job.known end);
      if job.known is not null and job.deaths < 2 then
        others := others || job.id;
      end if;
      continue;
    end if;
    if job.blamed and (job.counts or job.deaths >= job.attempt) then
      ids := ids || job.id;
      attempts := attempts || job.attempt;
      counts := counts || job.counts::integer;
    elsif job.known is not null and job.deaths < 2 then
      others := others || job.id;
    end if;
    if job.q_name <> all (queues) then
      queues := queues || job.q_name;
    end if;
  end loop;
  unheard := {{.Support}}.asked(dispatcher);
  delete from {{.Support}}.ledger l where l.dispatcher = bury.dispatcher;
  if locked <> '{}' then
    insert into {{.Support}}.ledger (dispatcher, batch, ids, attempts) values (bury.dispatcher, 0, locked, later);
  end if;
  update {{.Table}} q
  set attempt     = case when now.last then q.attempt else now.runs + 1 end,
      last_error  = 'the process that ran it died, or lost its lock session',
      deaths      = now.deaths,
      set_aside   = now.last,
      dequeued_at = case when now.last then clock_timestamp() end
  from unnest(ids, attempts, counts) b(id, attempt, counts)
  join {{.Table}} j using (id)
  cross join lateral (
    select d.deaths, greatest(j.attempt, d.deaths) as runs,
           greatest(j.attempt, d.deaths) >= coalesce(j.max_attempts, default_max_attempts) as last
    from (select least(j.deaths + b.counts, 1000) as deaths) d
  ) now
  where q.id = b.id and q.attempt = b.attempt and j.attempt = b.attempt and q.dequeued_at is null;
  update {{.Table}} q
  set deaths = least(q.deaths + 1, 1000)
  where q.id in (
    select j.id
    from {{.Table}} j
    where j.id = any (others) and j.dequeued_at is null
    for no key update skip locked -- as its outcome is being written, which clears it
  );
  if unheard <> '{}' then -- it has died before it could do so
    perform {{.Support}}.cancel(unheard);
  end if;
  perform {{.Support}}.notify(q) from unnest(queues) freed(q);
  return cardinality(locked);
end
$$;

-- migrate:down

drop function {{.Support}}.bury(integer, integer);
drop function {{.Support}}.sweep(text[], integer);
drop function {{.Support}}.asked(integer);
drop function {{.Support}}.lock_budget();
drop function {{.Support}}.lock_capacity();
drop function {{.Support}}.put_back(bigint[], integer[], timestamptz[], text[], double precision[], boolean[], boolean[]);
drop function {{.Support}}.complete(bigint[], integer, tid[], int8multirange, timestamptz);
drop function {{.Support}}.light(integer);
drop function {{.Support}}.watch(integer);
drop function {{.Support}}.neighbour(integer);
drop function {{.Support}}.dispatchers();
drop function {{.Support}}.unpark(integer);
drop function {{.Support}}.park(integer);
drop function {{.Support}}.bucket(text);
drop function {{.Support}}.notify(text, timestamptz);
drop function {{.Support}}.next_due(text);
drop function {{.Support}}.get(text);
drop function {{.Support}}.catch_up(bigint[]);
drop function {{.Support}}.release(bigint[]);
drop function {{.Support}}.claim(text, integer, int8multirange, integer, bigint, boolean, boolean, bigint, bigint, bigint, bigint);
drop function {{.Support}}.unburied(bigint, integer);
drop function {{.Support}}.paused(text);
drop function {{.Support}}.lock_key(bigint);
drop function {{.Support}}.lock_class();
drop function {{.Support}}.put(text, jsonb, timestamptz, timestamptz, text, integer, jsonb);
