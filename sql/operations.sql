-- Migration 4: what an operator does to queues and jobs: look, retry, cancel, discard, move, pause.
--
-- A job is in one state:
--   waiting    due, and not running
--   running    its lock is held: by a dispatcher, or by a get whose transaction is open
--   scheduled  due later
--   retrying   due later, after a run that failed
--   set_aside  out of the queue, with its reason in last_error
--   taken      out of the queue, dequeued by a consumer of Python's pq
--
-- Nobody changes a job that runs. What may be changed is locked first, as a claim locks it, until the
-- transaction ends: so a claim and an operation never have the same job. cancel asks whoever runs it to stop.
--
-- Each function takes many ids and answers each with an outcome: one that failed does not undo the others.
-- Beside their own word of success these are
--   gone     there is no such job
--   running  it runs; nothing was done
--   changed  it is not, or no longer, in the queue and state that were asked for
--   busy     someone else has locked its row: try again
-- A call holds a lock for each of its jobs, so take no more at once than batch_size() says.
--
-- To look needs usage on this schema and select on its tables and on the queue; whose session runs a job is
-- shown in full to members of pg_read_all_stats. To operate needs update and delete on the queue, and for running jobs
-- insert, update and delete on cancels; to pause, the same on pauses.
{{- define "settings"}}set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off{{end}}
{{- define "state"}}case
      when q.set_aside then 'set_aside'
      when q.dequeued_at is not null then 'taken'
      when q.schedule_at > statement_timestamp() then case when q.attempt > 1 then 'retrying' else 'scheduled' end
      else 'waiting'
    end{{end}}
{{- define "joblock"}}k.locktype = 'advisory' and k.objsubid = 2 and k.mode = 'ExclusiveLock' and k.granted
    and k.database = (select oid from pg_database where datname = current_database())
    and k.classid = {{.Support}}.lock_class()::oid{{end}}

-- state: of a job, as far as its row tells. (It stands inline where it is asked for many rows.)
create function {{.Support}}.state(schedule_at timestamptz, attempt integer, dequeued_at timestamptz, set_aside boolean) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select {{template "state"}}
  from (select state.schedule_at, state.attempt, state.dequeued_at, state.set_aside) q
$$;

-- pause: what is running goes on. False, and nothing is done, if that time has passed.
create function {{.Support}}.pause(queue text, until timestamptz default 'infinity', reason text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if until <= clock_timestamp() then
    return false;
  end if;
  insert into {{.Support}}.pauses as p (q_name, until, reason)
  values (pause.queue, pause.until, pause.reason)
  on conflict (q_name) do update
  set until = excluded.until, reason = excluded.reason, paused_at = excluded.paused_at;
  perform pg_notify({{.Channel}}, 'pause ' || queue);
  return true;
end
$$;

-- resume: false if the queue was not paused.
create function {{.Support}}.resume(queue text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  was boolean;
begin
  delete from {{.Support}}.pauses p where p.q_name = queue returning p.until > clock_timestamp() into was;
  perform {{.Support}}.notify(queue);
  return coalesce(was, false);
end
$$;

-- batch_size: how many jobs an operation may lock at once: a sixteenth of the server's lock table, of which
-- the dispatchers may have half.
create function {{.Support}}.batch_size() returns integer
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select greatest(1, least(1000, {{.Support}}.lock_capacity() / 16))::integer
$$;

-- running: the jobs whose lock is held, and by whom. It starts from the locks: the queue may be long, their
-- number is bounded. A lock tells the low half of an id only, so that each higher half is tried (there is
-- one until the ids have reached 2^32).
create function {{.Support}}.running() returns table (id bigint, q_name text, pid integer)
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select q.id, q.q_name, k.pid
  from pg_locks k
  cross join generate_series(0, (select max(id) >> 32 from {{.Table}})) high
  join {{.Table}} q on q.id = (high << 32) | k.objid::bigint
  where q.dequeued_at is null
    and {{template "joblock" .}}
$$;

-- held_keys: the keys of all jobs' locks, as a set in which a look-up is a binary search.
create function {{.Support}}.held_keys() returns int8multirange
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(range_agg(int8range(k.objid::bigint, k.objid::bigint, '[]')), '{}')
  from pg_locks k
  where {{template "joblock" .}}
$$;

-- next_queue: the first queue by name after that one which has a job in one of the parts: 1 ready,
-- 2 scheduled, 3 out of the queue; an index each. null: there is none.
create function {{.Support}}.next_queue(after text, parts integer[] default '{1,2,3}') returns text
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
  select min(q_name)
  from (
    ( select q_name from {{.Table}}
      where 1 = any (parts) and q_name > after and schedule_at is null and dequeued_at is null
      order by q_name limit 1 )
    union all
    ( select q_name from {{.Table}}
      where 2 = any (parts) and q_name > after and schedule_at is not null and dequeued_at is null
      order by q_name limit 1 )
    union all
    ( select q_name from {{.Table}}
      where 3 = any (parts) and q_name > after and dequeued_at is not null
      order by q_name limit 1 )
  ) first_of_each
$$;

-- list: up to want jobs after a position, by queue, and in each: ready ones as they are claimed, scheduled
-- ones as they become due, those out of the queue by id. It walks the three indexes of the queue from the
-- position on, so that a page costs the same in a table of any size. What they do not know (the task, the
-- age, the attempt) is looked for row by row; after look rows it stops, and one more row without a state
-- says where. Running jobs, asked for alone, are found from their locks, by id.
--
-- before: only jobs that were put before then, or if they are out of the queue, taken out before then.
--
-- A position is the (q_name, part, schedule_at, expected_at, id) of a row. Each arm is a stretch of one
-- index, and they are walked in turn: with nulls in the position, no one comparison of rows is enough.
create function {{.Support}}.list(
  want integer, look integer,
  queue text default null, only_state text default null, only_task text default null, before timestamptz default null,
  after_queue text default null, after_part integer default null, after_schedule timestamptz default null,
  after_expected timestamptz default null, after_id bigint default null
)
returns table (
  id bigint, q_name text, state text, task text, attempt integer, max_attempts integer, enqueued_at timestamptz,
  schedule_at timestamptz, expected_at timestamptz, dequeued_at timestamptz, last_error text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_incremental_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
  base constant text := $sql$
    select q.id, q.q_name, {{template "state"}} as state, q.task, q.attempt, q.max_attempts, q.enqueued_at,
           q.schedule_at, q.expected_at, q.dequeued_at, left(q.last_error, 1000) as last_error
    from {{.Table}} q
    where $sql$;
  arms constant text[] := array[
    -- $1 queue, $2 schedule_at, $3 expected_at, $4 id, $5 the latest schedule_at
    'q.q_name = $1 and q.schedule_at is null and q.dequeued_at is null and (q.expected_at, q.id) > ($3, $4) order by q.expected_at, q.id',
    'q.q_name = $1 and q.schedule_at is null and q.dequeued_at is null and q.expected_at is null and q.id > $4 order by q.expected_at, q.id',
    'q.q_name = $1 and q.schedule_at = $2 and q.schedule_at <= $5 and q.dequeued_at is null and (q.expected_at, q.id) > ($3, $4) order by q.expected_at, q.id',
    'q.q_name = $1 and q.schedule_at = $2 and q.schedule_at <= $5 and q.dequeued_at is null and q.expected_at is null and q.id > $4 order by q.expected_at, q.id',
    'q.q_name = $1 and q.schedule_at > $2 and q.schedule_at <= $5 and q.dequeued_at is null order by q.schedule_at, q.expected_at, q.id',
    -- Not q_name = $1: then the primary key would have the order as well, with all other jobs in between.
    '(q.q_name, q.id) > ($1, $4) and q.q_name <= $1 and q.dequeued_at is not null order by q.q_name, q.id'];
  part_of constant integer[] := '{1,1,2,2,2,3}';
  parts constant integer[] := case
    when only_state = 'waiting' then '{1,2}'
    when only_state in ('scheduled', 'retrying') then '{2}'
    when only_state in ('set_aside', 'taken') then '{3}'
    else '{1,2,3}' end;
  earliest constant timestamptz := case when only_state in ('scheduled', 'retrying') then statement_timestamp() else '-infinity' end;
  latest   constant timestamptz := case when only_state = 'waiting' then statement_timestamp() else 'infinity' end;
  lowest   constant bigint := -9223372036854775808;
  held     constant int8multirange := {{.Support}}.held_keys();
  name     text := coalesce(after_queue, queue, {{.Support}}.next_queue('', parts));
  s        timestamptz := coalesce(after_schedule, earliest);
  e        timestamptz := case when after_part is null then '-infinity' else after_expected end;
  i        bigint := coalesce(after_id, lowest);
  first    integer := case
    when after_part = 1 then case when after_expected is null then 2 else 1 end
    when after_part = 2 then case when after_expected is null then 4 else 3 end
    when after_part = 3 then 6
    else 1 end;
  job      record;
  looked   integer := 0;
  listed   integer := 0;
begin
  if only_state = 'running' then
    return query
      select q.id, q.q_name, 'running', q.task, q.attempt, q.max_attempts, q.enqueued_at,
             q.schedule_at, q.expected_at, q.dequeued_at, left(q.last_error, 1000)
      from {{.Table}} q
      where q.id = any (array(select r.id from {{.Support}}.running() r where r.id > i))
        and (queue is null or q.q_name = queue)
        and (only_task is null or q.task = only_task)
        and (before is null or q.enqueued_at < before)
      order by q.id
      limit want;
    return;
  end if;
  while name is not null loop
    for arm in first .. 6 loop
      if part_of[arm] = any (parts) then
        for job in execute base || arms[arm] using name, s, e, i, latest loop
          looked := looked + 1;
          if job.dequeued_at is null and (job.id & 4294967295) <@ held then
            job.state := 'running';
          end if;
          if coalesce(job.state = only_state, true) and (only_task is null or job.task is not distinct from only_task)
             and (before is null or coalesce(job.dequeued_at, job.enqueued_at) < before)
          then
            listed := listed + 1;
          elsif looked >= look then
            job.state := null;
          else
            continue;
          end if;
          id := job.id; q_name := job.q_name; state := job.state; task := job.task;
          attempt := job.attempt; max_attempts := job.max_attempts; enqueued_at := job.enqueued_at;
          schedule_at := job.schedule_at; expected_at := job.expected_at; dequeued_at := job.dequeued_at;
          last_error := job.last_error;
          return next;
          if listed >= want or state is null then
            return;
          end if;
        end loop;
      end if;
      i := lowest;
      if arm = 2 then
        s := earliest;
        e := '-infinity';
      end if;
    end loop;
    exit when queue is not null;
    name := {{.Support}}.next_queue(name, parts);
    first := 1;
    s := earliest;
    e := '-infinity';
  end loop;
end
$$;

-- overview: each queue that has a job or is paused, or these queues, with its jobs by state. Each count ends at
-- count_to and is then named in at_least: to count millions takes seconds. Ready and scheduled ones are counted in their
-- indexes, without a look at the table. That does not know when a job was put, so oldest, for how many
-- seconds the ready job that waits longest has been due, is of the first thousand of each index. Of those out of the
-- queue it counts the newest: what Python's pq has taken stays there for ever.
create function {{.Support}}.overview(count_to integer, only_queues text[] default null)
returns table (
  queue text, ready bigint, scheduled bigint, running bigint, set_aside bigint, taken bigint,
  oldest double precision, at_least text[], paused_until timestamptz, reason text, paused_at timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_incremental_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
  sample constant integer := 1000;
  held   constant int8multirange := {{.Support}}.held_keys();
  runs   constant jsonb := (
    select jsonb_object_agg(r.q_name, r.jobs)
    from (select q_name, count(distinct id) as jobs from {{.Support}}.running() group by q_name) r);
  looked integer := 0; -- at how many queues
  due    bigint;
  gone   bigint;
  since  timestamptz;
begin
  queue := case when only_queues is null
    then least({{.Support}}.next_queue(''), (select min(q_name) from {{.Support}}.pauses))
    else only_queues[1] end;
  while queue is not null loop
    running := coalesce((runs ->> queue)::bigint, 0);
    select count(*) into ready
    from (
      select
      from {{.Table}} q
      where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at is null
      order by q.expected_at, q.id
      limit count_to + 1 + running
    ) w;
    select count(*) into due
    from (
      select
      from {{.Table}} q
      where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
      order by q.schedule_at, q.expected_at, q.id
      limit count_to + 1 + running
    ) w;
    select count(*) into scheduled
    from (
      select
      from {{.Table}} q
      where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at > statement_timestamp()
      order by q.schedule_at, q.expected_at, q.id
      limit count_to + 1
    ) w;
    select count(*), count(*) filter (where w.set_aside) into gone, set_aside
    from (
      select q.set_aside
      from {{.Table}} q
      where (q.q_name, q.id) > (overview.queue, -9223372036854775808) and q.q_name <= overview.queue and q.dequeued_at is not null
      order by q.q_name desc, q.id desc
      limit count_to + 1
    ) w;
    select min(w.due) into since
    from (
      ( select q.enqueued_at as due
        from {{.Table}} q
        where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at is null and q.expected_at is null
          and not (q.id & 4294967295) <@ held
        order by q.expected_at, q.id limit sample )
      union all
      ( select q.enqueued_at
        from {{.Table}} q
        where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at is null and q.expected_at is not null
          and not (q.id & 4294967295) <@ held
        order by q.expected_at, q.id limit sample )
      union all
      ( select greatest(q.enqueued_at, q.schedule_at)
        from {{.Table}} q
        where q.q_name = overview.queue and q.dequeued_at is null and q.schedule_at <= statement_timestamp()
          and not (q.id & 4294967295) <@ held
        order by q.schedule_at, q.expected_at, q.id limit sample )
    ) w;
    ready := greatest(0, ready + due - running); -- running jobs are due, too
    taken := gone - set_aside;
    at_least := array_remove(array[
      case when ready > count_to then 'ready' end,
      case when ready > sample then 'oldest' end,
      case when scheduled > count_to then 'scheduled' end,
      case when gone > count_to then 'set_aside' end,
      case when gone > count_to then 'taken' end], null);
    ready := least(ready, count_to);
    scheduled := least(scheduled, count_to);
    set_aside := least(set_aside, count_to);
    taken := least(taken, count_to);
    oldest := extract(epoch from statement_timestamp() - since);
    select p.until, p.reason, p.paused_at into paused_until, reason, paused_at
    from {{.Support}}.pauses p
    where p.q_name = overview.queue and p.until > statement_timestamp();
    return next;
    looked := looked + 1;
    queue := case when only_queues is null
      then least({{.Support}}.next_queue(queue), (select min(q_name) from {{.Support}}.pauses where q_name > overview.queue))
      else only_queues[looked + 1] end;
  end loop;
end
$$;

-- hold: locks of these jobs all that may be changed, until the transaction ends, and returns them: those of
-- the queue and in the state that are asked for (null: any) that do not run. The advisory locks come first: a
-- lock on the row alone would not stop a claim, which reads and locks no row. A row that is locked is
-- passed over; who has locked it may be about to end the job.
create function {{.Support}}.hold(ids bigint[], queue text, state text) returns bigint[]
language plpgsql volatile
{{template "settings"}}
as $$
declare
  class constant integer := {{.Support}}.lock_class();
  free  constant bigint[] := array(
    select i from unnest(ids) i where pg_try_advisory_xact_lock(class, {{.Support}}.lock_key(i)));
begin
  return array( -- in a later statement, as in claim
    select q.id
    from {{.Table}} q
    where q.id = any (free)
      and (hold.queue is null or q.q_name = hold.queue)
      and (hold.state is null or hold.state = {{template "state"}})
    for update skip locked);
end
$$;

-- conclude: ends an operation. It tells those who wait for jobs of those of these that are due, also of jobs that nothing
-- was done to: a claim may have met the lock of this transaction, and would not come back. And it returns why
-- the others were not held.
create function {{.Support}}.conclude(ids bigint[], free bigint[], queue text, state text)
returns table (id bigint, outcome text)
language plpgsql volatile
{{template "settings"}}
as $$
#variable_conflict use_column
begin
  perform {{.Support}}.notify(due.q_name)
  from (
    select distinct q.q_name
    from {{.Table}} q
    where q.id = any (ids) and q.dequeued_at is null and (q.schedule_at is null or q.schedule_at <= statement_timestamp())
  ) due;
  return query
    select i, case
        when q.id is null then 'gone'
        when not pg_try_advisory_xact_lock({{.Support}}.lock_class(), {{.Support}}.lock_key(i)) then 'running'
        when conclude.queue <> q.q_name or conclude.state <> {{template "state"}} then 'changed'
        else 'busy'
      end
    from unnest(ids) i
    left join {{.Table}} q on q.id = i
    where i <> all (free);
end
$$;

-- cancel: sets jobs aside, or asks whoever runs them to stop, who may not listen just now: it is written down as well. What
-- is over of that is deleted, unless its claim may not have committed yet.
--   cancelled, asked, not_waiting (it is out of the queue already)
create function {{.Support}}.cancel(ids bigint[], queue text default null, state text default null)
returns table (id bigint, outcome text)
language plpgsql volatile
{{template "settings"}}
as $$
#variable_conflict use_column
declare
  free  constant bigint[] := {{.Support}}.hold(ids, queue, state);
  asked bigint[] := '{}';
begin
  return query
    with cancelled as (
      update {{.Table}} q
      set set_aside = true, dequeued_at = clock_timestamp(), last_error = 'cancelled'
      where q.id = any (free) and q.dequeued_at is null
      returning q.id
    )
    select f.id, case when c.id is null then 'not_waiting' else 'cancelled' end
    from unnest(free) f(id)
    left join cancelled c on c.id = f.id;
  for id, outcome in
    select * from {{.Support}}.conclude(ids, free, queue, state)
  loop
    if outcome = 'running' and coalesce(state = 'running', true) then
      outcome := 'asked';
      asked := asked || cancel.id;
      perform pg_notify({{.Channel}}, 'cancel ' || cancel.id);
    end if;
    return next;
  end loop;
  if asked <> '{}' then
    delete from {{.Support}}.cancels
    where ctid = any (array(
      select c.ctid
      from {{.Support}}.cancels c
      where c.asked_at < clock_timestamp() - interval '1 minute'
        and not exists (select from {{.Support}}.ledger l where l.claimed_at <= c.asked_at and c.id = any (l.ids))
      for update skip locked)); -- a row is let alone that another cancel is deleting
    insert into {{.Support}}.cancels (id, asked_at)
    select i, clock_timestamp() from unnest(asked) i
    on conflict do nothing; -- named twice
  end if;
end
$$;

-- discard: deletes jobs.
--   discarded
create function {{.Support}}.discard(ids bigint[], queue text default null, state text default null)
returns table (id bigint, outcome text)
language plpgsql volatile
{{template "settings"}}
as $$
#variable_conflict use_column
declare
  free constant bigint[] := {{.Support}}.hold(ids, queue, state);
begin
  return query
    delete from {{.Table}} q where q.id = any (free) returning q.id, 'discarded';
  return query
    select * from {{.Support}}.conclude(ids, free, queue, state);
end
$$;

-- retry: brings jobs that were set aside back into their queue, their attempts counted from 1 again, unless those are to
-- be kept: then they run once more. Makes scheduled and retrying jobs due now.
--   retried, waiting (it is due already), taken
create function {{.Support}}.retry(ids bigint[], queue text default null, state text default null, keep_attempts boolean default false)
returns table (id bigint, outcome text)
language plpgsql volatile
{{template "settings"}}
as $$
#variable_conflict use_column
declare
  free constant bigint[] := {{.Support}}.hold(ids, queue, state);
begin
  return query
    with retried as (
      update {{.Table}} q
      set attempt     = case when q.set_aside and not keep_attempts then 1 else q.attempt end,
          deaths      = case when q.set_aside and not keep_attempts then 0 else q.deaths end,
          schedule_at = null,
          dequeued_at = null,
          set_aside   = false
      where q.id = any (free) and (q.set_aside or q.dequeued_at is null and q.schedule_at > statement_timestamp())
      returning q.id
    )
    select q.id, case when r.id is not null then 'retried' when q.dequeued_at is not null then 'taken' else 'waiting' end
    from {{.Table}} q -- as it was before
    left join retried r on r.id = q.id
    where q.id = any (free);
  delete from {{.Support}}.cancels c where c.id = any (free); -- or its next run may be taken for the one that was cancelled
  return query
    select * from {{.Support}}.conclude(ids, free, queue, state);
end
$$;

-- move: puts jobs into another queue, as they are.
--   moved
create function {{.Support}}.move(ids bigint[], target text, queue text default null, state text default null)
returns table (id bigint, outcome text)
language plpgsql volatile
{{template "settings"}}
as $$
#variable_conflict use_column
declare
  free constant bigint[] := {{.Support}}.hold(ids, queue, state);
begin
  update {{.Table}} q set q_name = target where q.id = any (free) and q.q_name <> target;
  return query
    select f.id, 'moved' from unnest(free) f(id);
  return query
    select * from {{.Support}}.conclude(ids, free, queue, state);
end
$$;

-- migrate:down

drop function {{.Support}}.move(bigint[], text, text, text);
drop function {{.Support}}.retry(bigint[], text, text, boolean);
drop function {{.Support}}.discard(bigint[], text, text);
drop function {{.Support}}.cancel(bigint[], text, text);
drop function {{.Support}}.conclude(bigint[], bigint[], text, text);
drop function {{.Support}}.hold(bigint[], text, text);
drop function {{.Support}}.overview(integer, text[]);
drop function {{.Support}}.list(integer, integer, text, text, text, timestamptz, text, integer, timestamptz, timestamptz, bigint);
drop function {{.Support}}.next_queue(text, integer[]);
drop function {{.Support}}.held_keys();
drop function {{.Support}}.running();
drop function {{.Support}}.batch_size();
drop function {{.Support}}.resume(text);
drop function {{.Support}}.pause(text, timestamptz, text);
drop function {{.Support}}.state(timestamptz, integer, timestamptz, boolean);
