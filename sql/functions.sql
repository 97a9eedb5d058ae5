-- Migration 2: the functions. put() is for users; the others are the dispatcher's side of the
-- protocol that ARCHITECTURE.md describes.
--
-- All run with the caller's rights (security invoker) and name everything with its schema.

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
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  insert into {{.Table}} (q_name, data, schedule_at, expected_at, task, max_attempts, metadata)
  values (put.queue, put.data, put.schedule_at, put.expected_at, put.task, put.max_attempts, put.metadata)
  returning id
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
as $$ select id::bit(32)::integer $$;

-- claim: up to want due jobs of a queue, in order: earliest expected_at first, those without one
-- last, then id. Takes a session advisory lock on each and enters them in the ledger.
--
-- A claim writes no row of the queue. What makes that safe:
--   - The locks are tried one by one in a loop. In a filter over the table, the planner may call
--     pg_try_advisory_lock for rows that a limit then drops: 40 locks taken for 1 row.
--   - The rows are read again in a later statement, whose snapshot is younger than the locks: in
--     the first one's, a job that was finished in between still stands, and would run twice.
--   - A session gets its own lock again: held says what the caller has already. As a multirange,
--     since a lookup in it is a binary search; "<> all (array)" compared every id with every other.
-- If a job was gone by the second reading, one more row follows, with all that was locked: the
-- caller unlocks what it was not given.
--
-- after says where an earlier claim has come to: then only ready jobs without expected_at and with a
-- higher id are looked at. From the head of a busy queue a claim steps over all that is in hand, and over
-- what is done but not vacuumed. The caller has to look from the head (null) now and then: for what is
-- urgent, scheduled, committed late or handed back.
--
-- The plan is pinned: without statistics (a table just loaded) the planner would sort the whole
-- queue for each claim. Only scheduled jobs that are due are sorted, as no index can know which are.
create function {{.Support}}.claim(
  queue text, want integer, held int8multirange, dispatcher integer, after bigint default null
)
returns table (
  id bigint, data jsonb, enqueued_at timestamptz, schedule_at timestamptz, expected_at timestamptz,
  task text, attempt integer, max_attempts integer, metadata jsonb, batch bigint, locked bigint[]
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
  candidate record;
  ids       bigint[] := '{}';
  attempts  integer[] := '{}';
  entry     bigint;
  found     integer;
begin
  if want <= 0 then
    return;
  end if;
  if after is not null then
    for candidate in
      select q.id, q.attempt
      from {{.Table}} q
      where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
        and q.expected_at is null and q.id > after
        and not q.id <@ held
      order by q.id
    loop
      if pg_try_advisory_lock(class, {{.Support}}.lock_key(candidate.id)) then
        ids := ids || candidate.id;
        attempts := attempts || candidate.attempt;
        exit when cardinality(ids) >= want;
      end if;
    end loop;
  else
    for candidate in
      ( -- each arm in order, so that they are merged: else both are read to their ends, and sorted
        select q.id, q.attempt, q.expected_at
        from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
          and not q.id <@ held
        order by q.expected_at, q.id
      ) union all (
        select q.id, q.attempt, q.expected_at
        from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not q.id <@ held
        order by q.expected_at, q.id
      )
      order by expected_at, id
    loop
      if pg_try_advisory_lock(class, {{.Support}}.lock_key(candidate.id)) then
        ids := ids || candidate.id;
        attempts := attempts || candidate.attempt;
        exit when cardinality(ids) >= want;
      end if;
    end loop;
  end if;
  if ids = '{}' then
    return;
  end if;

  insert into {{.Support}}.ledger (dispatcher, ids, attempts)
  values (claim.dispatcher, ids, attempts)
  returning ledger.batch into entry;

  return query
    select q.id, q.data, q.enqueued_at, q.schedule_at, q.expected_at, q.task, q.attempt,
           q.max_attempts, q.metadata, entry, null::bigint[]
    from {{.Table}} q
    where q.id = any (ids) and q.q_name = queue and q.dequeued_at is null
      and (q.schedule_at is null or q.schedule_at <= statement_timestamp());
  get diagnostics found = row_count;
  if found < cardinality(ids) then
    batch := entry;
    locked := ids;
    return next;
  end if;
exception when out_of_memory then
  -- The server's lock table is full, for everyone. Give back what this call took: a session lock
  -- outlives the failed statement.
  perform {{.Support}}.release(ids);
  raise exception using errcode = 'PQ532', message = sqlerrm;
end
$$;

-- release: unlocks claimed jobs, after their outcome has committed. Returns how many were held.
create function {{.Support}}.release(ids bigint[]) returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select count(*) filter (where pg_advisory_unlock({{.Support}}.lock_class(), {{.Support}}.lock_key(id)))
  from unnest(ids) id
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

-- next_due: how long until the next scheduled job of the queue is due; null without one. A job may
-- be scheduled for 'infinity', from which nothing can be subtracted before PostgreSQL 17.
create function {{.Support}}.next_due(queue text) returns interval
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
  select q.schedule_at - clock_timestamp()
  from {{.Table}} q
  where q.q_name = queue and q.dequeued_at is null and q.schedule_at > statement_timestamp()
    and q.schedule_at < 'infinity'
  order by q.schedule_at
  limit 1
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
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_advisory_unlock({{.WakeClass}}, bucket);
  select pg_notify({{.Channel}}, 'bucket ' || bucket);
$$;

-- watch: waits for the death of the next dispatcher in the ring of those that live, and returns its
-- id; null if there is no other. The wait is bounded by the session's lock_timeout, since it holds back
-- vacuum.
create function {{.Support}}.watch(dispatcher integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  neighbour integer;
begin
  select k.id into neighbour
  from (
    select objid::integer as id from pg_locks
    where locktype = 'advisory' and classid = {{.RingClass}}::oid and objsubid = 2
      and mode = 'ExclusiveLock' and granted
      and database = (select oid from pg_database where datname = current_database())
  ) k
  where k.id <> dispatcher
  order by k.id < dispatcher, k.id
  limit 1;
  if neighbour is not null then
    perform pg_advisory_xact_lock_shared({{.RingClass}}, neighbour);
  end if;
  return neighbour;
end
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
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
  select pg_notify({{.Channel}},
    case when due > statement_timestamp() then (least(extract(epoch from due), 9e12) * 1000000)::bigint else 0 end
    || ' ' || queue)
$$;

-- complete: deletes jobs that are done, all on the same attempt. Returns how many it deleted: the
-- others have been finished, or failed and so have another attempt's number, since their claim was
-- lost. (To return which, by "returning id", takes half as long again.)
create function {{.Support}}.complete(ids bigint[], attempt integer) returns integer
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
begin
  delete from {{.Table}} q
  where q.id = any (ids) and q.attempt = complete.attempt and q.dequeued_at is null;
  get diagnostics deleted = row_count;
  return deleted;
end
$$;

-- put_back: the jobs' runs did not finish them. Each waits for its delay in seconds and runs again,
-- as its next attempt if this one counts; or is set aside. Returns how many, as complete does.
create function {{.Support}}.put_back(
  ids bigint[], attempts integer[], errors text[], delays double precision[], counts boolean[], aside boolean[]
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
      set_aside   = b.aside
  from unnest(ids, attempts, errors, delays, counts, aside) b(id, attempt, error, delay, counts, aside)
  where q.id = b.id and q.attempt = b.attempt and q.dequeued_at is null;
  get diagnostics changed = row_count;
  return changed;
end
$$;

-- lock_budget: how many locks a dispatcher may hold. All that live on the server share half of its
-- lock table.
create function {{.Support}}.lock_budget() returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select (current_setting('max_locks_per_transaction')::bigint
       * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
       / 2 / greatest(1, (
           select count(*) from pg_locks
           where locktype = 'advisory' and classid = {{.BeaconClass}} and objsubid = 2)))::integer
$$;

-- sweep: one look at many queues, for a dispatcher that has nothing else to do. For each: is a job
-- due, and in how many seconds is the next one. And whose entries stand in the ledger though their
-- beacon is out, and the lock budget.
create function {{.Support}}.sweep(queues text[], dispatcher integer)
returns table (due boolean, next_due double precision, dead integer[], budget integer)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  queue  text;
  dead   integer[] := '{}';
  budget constant integer := {{.Support}}.lock_budget();
begin
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
    return query select
      exists (
        select from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at is null
      ) or exists (
        select from {{.Table}} q
        where q.q_name = queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
      ),
      extract(epoch from {{.Support}}.next_due(queue))::double precision,
      dead,
      budget;
  end loop;
end
$$;

-- bury: the post-mortem of a dispatcher that died, or whose lock session broke. Each job that it was running has its attempt
-- counted, and is set aside when that was its last. False while the dispatcher lives, which its
-- beacon shows: the lock can be had only after its session has ended.
--
-- A job that another dispatcher has claimed since is left to it, its entry kept for a later call.
-- The locks are the transaction's: released before the count is committed, they would let a claim
-- in that reads the old count.
create function {{.Support}}.bury(dispatcher integer, default_max_attempts integer) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  entry   record;
  job     record;
  skipped integer;
  queues  text[] := '{}';
begin
  if not pg_try_advisory_xact_lock({{.BeaconClass}}, bury.dispatcher) then
    return false;
  end if;
  for entry in
    select l.batch, l.ids, l.attempts from {{.Support}}.ledger l where l.dispatcher = bury.dispatcher
  loop
    skipped := 0;
    for job in
      select e.id, e.attempt, q.q_name
      from unnest(entry.ids, entry.attempts) e(id, attempt)
      join {{.Table}} q on q.id = e.id and q.attempt = e.attempt and q.dequeued_at is null
    loop
      if not pg_try_advisory_xact_lock({{.Support}}.lock_class(), {{.Support}}.lock_key(job.id)) then
        skipped := skipped + 1;
        continue;
      end if;
      update {{.Table}} q
      set attempt     = case when job.attempt >= coalesce(q.max_attempts, default_max_attempts) then q.attempt else q.attempt + 1 end,
          last_error  = 'the process that ran it died, or lost its lock session',
          set_aside   = job.attempt >= coalesce(q.max_attempts, default_max_attempts),
          dequeued_at = case when job.attempt >= coalesce(q.max_attempts, default_max_attempts) then clock_timestamp() end
      where q.id = job.id and q.attempt = job.attempt and q.dequeued_at is null;
      queues := queues || job.q_name;
    end loop;
    if skipped = 0 then
      delete from {{.Support}}.ledger l where l.batch = entry.batch;
    end if;
  end loop;
  perform {{.Support}}.notify(q) from (select distinct unnest(queues)) freed(q);
  return true;
end
$$;

-- migrate:down

drop function {{.Support}}.bury(integer, integer);
drop function {{.Support}}.sweep(text[], integer);
drop function {{.Support}}.lock_budget();
drop function {{.Support}}.put_back(bigint[], integer[], text[], double precision[], boolean[], boolean[]);
drop function {{.Support}}.complete(bigint[], integer);
drop function {{.Support}}.light(integer);
drop function {{.Support}}.watch(integer);
drop function {{.Support}}.unpark(integer);
drop function {{.Support}}.park(integer);
drop function {{.Support}}.bucket(text);
drop function {{.Support}}.notify(text, timestamptz);
drop function {{.Support}}.next_due(text);
drop function {{.Support}}.get(text);
drop function {{.Support}}.release(bigint[]);
drop function {{.Support}}.claim(text, integer, int8multirange, integer, bigint);
drop function {{.Support}}.lock_key(bigint);
drop function {{.Support}}.lock_class();
drop function {{.Support}}.put(text, jsonb, timestamptz, timestamptz, text, integer, jsonb);
