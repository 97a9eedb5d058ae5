-- The roles: optional, and not a numbered migration, since roles belong to the server and not to a database.
-- It may be run again, and has to be after each migration, for what that has made. A role that exists
-- stays as it is; of its rights on the queue's tables and functions it has those below afterwards, and no others.
--
-- Nobody logs in as one of them: they are granted to those who do. All are for a whole table; who may put
-- into one queue may put into each.
--
--   enqueue  puts jobs, and sees nothing of them but their ids. It cannot set what a run leaves behind: attempts, errors.
--   worker   runs jobs, and operates them and their queues: get, claim, retry, cancel, discard, pause. It can neither put a
--            job nor move one into another queue, nor change its task: so it cannot have another handler run it.
--   reader   looks: at jobs, their data included, at queues and dispatchers.
--   owner    owns it all, and so migrates, moves, truncates and drops.
--
-- What nobody can be kept from, since PostgreSQL has no rights for it: LISTEN, NOTIFY, and advisory locks. See
-- SECURITY.md for what follows.

do $$
declare
  role text;
begin
  foreach role in array array[{{.Literal "enqueue"}}, {{.Literal "worker"}}, {{.Literal "reader"}}, {{.Literal "owner"}}] loop
    if not exists (select from pg_catalog.pg_roles r where r.rolname = role::pg_catalog.name) then
      begin
        execute pg_catalog.format('create role %I nologin', role);
      exception when duplicate_object or unique_violation then
        null; -- made meanwhile, for another database
      end;
    end if;
  end loop;
end
$$;

-- Ownership. Who had it before becomes a member, and so has the rights of an owner as before. Nothing is
-- changed, and no table locked, where that is done already.
do $$
declare
  owner constant pg_catalog.oid := (select r.oid from pg_catalog.pg_roles r where r.rolname = {{.Literal "owner"}}::pg_catalog.name);
  what  text;
begin
  if not pg_catalog.pg_has_role(owner, 'usage') then
    begin
      execute pg_catalog.format('grant {{.Role "owner"}} to %I', current_user);
    exception when unique_violation then
      null; -- granted meanwhile, for another database
    end;
  end if;
  if not pg_catalog.has_schema_privilege(owner, '{{.Schema}}'::pg_catalog.regnamespace::pg_catalog.oid, 'create') then -- for its indexes
    grant usage, create on schema {{.Schema}} to {{.Role "owner"}};
  end if;
  alter schema {{.Support}} owner to {{.Role "owner"}}; -- first: who is to own what is in it has to have rights on it
  for what in
    select pg_catalog.format('table %s', c.oid::pg_catalog.regclass)
    from pg_catalog.pg_class c
    where c.relowner <> owner
      and (c.oid = '{{.Table}}'::pg_catalog.regclass::pg_catalog.oid
        or c.relkind = 'r' and c.relnamespace = '{{.Support}}'::pg_catalog.regnamespace::pg_catalog.oid)
    union all
    select pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure)
    from pg_catalog.pg_proc p
    where p.proowner <> owner and p.pronamespace = '{{.Support}}'::pg_catalog.regnamespace::pg_catalog.oid
  loop
    execute pg_catalog.format('alter %s owner to {{.Role "owner"}}', what);
  end loop;
end
$$;

revoke all on schema {{.Support}} from public;
revoke all on {{.Table}} from public, {{.Role "enqueue"}}, {{.Role "worker"}}, {{.Role "reader"}};
revoke all on all tables in schema {{.Support}} from public, {{.Role "enqueue"}}, {{.Role "worker"}}, {{.Role "reader"}};
revoke all on all functions in schema {{.Support}} from public, {{.Role "enqueue"}}, {{.Role "worker"}}, {{.Role "reader"}};

grant usage on schema {{.Schema}}, {{.Support}} to {{.Role "enqueue"}}, {{.Role "worker"}}, {{.Role "reader"}};
grant select on {{.Support}}.schema_version to {{.Role "enqueue"}}, {{.Role "worker"}}, {{.Role "reader"}};

-- The id is there for COPY, which draws it first.
grant insert (id, q_name, data, schedule_at, expected_at, task, max_attempts, metadata), select (id)
  on {{.Table}} to {{.Role "enqueue"}};
do $$
begin
  execute pg_catalog.format('grant usage on sequence %s to {{.Role "enqueue"}}', pg_catalog.pg_get_serial_sequence('{{.Table}}', 'id'));
end
$$;
grant execute on function
  {{.Support}}.put(text, jsonb, timestamptz, timestamptz, text, integer, jsonb),
  {{.Support}}.notify(text, timestamptz),
  {{.Support}}.bucket(text)
  to {{.Role "enqueue"}};

grant select on {{.Table}}, {{.Support}}.ledger, {{.Support}}.pauses, {{.Support}}.cancels to {{.Role "reader"}}, {{.Role "worker"}};
grant execute on function
  {{.Support}}.lock_class(),
  {{.Support}}.lock_key(bigint),
  {{.Support}}.lock_capacity(),
  {{.Support}}.lock_budget(),
  {{.Support}}.paused(text),
  {{.Support}}.next_due(text),
  {{.Support}}.state(timestamptz, integer, timestamptz, boolean),
  {{.Support}}.batch_size(),
  {{.Support}}.running(),
  {{.Support}}.held_keys(),
  {{.Support}}.dispatchers(),
  {{.Support}}.next_queue(text, integer[]),
  {{.Support}}.list(integer, integer, text, text, text, timestamptz, text, integer, timestamptz, timestamptz, bigint),
  {{.Support}}.overview(integer, text[])
  to {{.Role "reader"}}, {{.Role "worker"}};

grant delete, update (data, attempt, last_error, schedule_at, dequeued_at, set_aside, deaths) on {{.Table}} to {{.Role "worker"}};
grant insert, delete on {{.Support}}.ledger to {{.Role "worker"}};
grant insert, update, delete on {{.Support}}.pauses, {{.Support}}.cancels to {{.Role "worker"}};
grant execute on function
  {{.Support}}.claim(text, integer, int8multirange, integer, bigint, boolean, boolean, bigint, bigint, bigint, bigint),
  {{.Support}}.unburied(bigint, integer),
  {{.Support}}.release(bigint[]),
  {{.Support}}.catch_up(bigint[]),
  {{.Support}}.get(text),
  {{.Support}}.bucket(text),
  {{.Support}}.park(integer),
  {{.Support}}.unpark(integer),
  {{.Support}}.neighbour(integer),
  {{.Support}}.watch(integer),
  {{.Support}}.light(integer),
  {{.Support}}.notify(text, timestamptz),
  {{.Support}}.complete(bigint[], integer, tid[], int8multirange, timestamptz),
  {{.Support}}.put_back(bigint[], integer[], timestamptz[], text[], double precision[], boolean[], boolean[]),
  {{.Support}}.asked(integer),
  {{.Support}}.sweep(text[], integer),
  {{.Support}}.bury(integer, integer),
  {{.Support}}.pause(text, timestamptz, text),
  {{.Support}}.resume(text),
  {{.Support}}.hold(bigint[], text, text),
  {{.Support}}.conclude(bigint[], bigint[], text, text),
  {{.Support}}.cancel(bigint[], text, text),
  {{.Support}}.discard(bigint[], text, text),
  {{.Support}}.retry(bigint[], text, text, boolean)
  to {{.Role "worker"}};
