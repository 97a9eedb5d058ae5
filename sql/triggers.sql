-- Migration 3: the triggers.
--
-- One per statement, over its transition table: a COPY of a thousand rows sends one notification a
-- queue, not a thousand. It fires for every writer, whatever its language, COPY included.
--
-- It notifies only if someone sleeps. A transaction that notifies holds a lock of the whole cluster from
-- just before its commit until after it, so that notifying commits run one after another: inserts by 16
-- clients went from 16 000/s to 3 500/s. So the inserter tries the queue's wake lock, shared, for the rest
-- of its transaction: it gets it unless a session is parked (see park), and then stays silent.
--
-- PREPARE TRANSACTION is refused after a NOTIFY. A session that needs it says
--   set pq_dispatch.notify = off
-- and its jobs are found by the sweep instead. (always is the other setting, for comparison.)

create function {{.Support}}.on_put() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  setting constant text := coalesce(current_setting('pq_dispatch.notify', true), '');
begin
  if setting = 'off' then
    return null;
  end if;
  perform {{.Support}}.notify(put.q_name, put.due)
  from (
    select q_name, nullif(min(coalesce(schedule_at, '-infinity')), '-infinity') as due
    from jobs_put
    where dequeued_at is null
    group by q_name
  ) put
  where setting = 'always'
    or not pg_try_advisory_xact_lock_shared({{.WakeClass}}, {{.Support}}.bucket(put.q_name));
  return null;
end
$$;

create trigger pq_dispatch_put
after insert on {{.Table}}
referencing new table as jobs_put
for each statement execute function {{.Support}}.on_put();

-- migrate:down

drop trigger pq_dispatch_put on {{.Table}};
drop function {{.Support}}.on_put();
