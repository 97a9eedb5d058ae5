-- Migration 3: the triggers.
--
-- One per statement, over its transition table: a COPY of a thousand rows sends one notification a
-- queue, not a thousand. It fires for every writer, whatever its language, COPY included.
--
-- PREPARE TRANSACTION is refused after a NOTIFY. A session that needs it says
--   set pq_dispatch.notify = off
-- and its jobs are found by the sweep instead.

create function {{.Support}}.on_put() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(current_setting('pq_dispatch.notify', true), '') <> 'off' then
    perform {{.Support}}.notify(put.q_name, put.due)
    from (
      select q_name, nullif(min(coalesce(schedule_at, '-infinity')), '-infinity') as due
      from jobs_put
      where dequeued_at is null
      group by q_name
    ) put;
  end if;
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
