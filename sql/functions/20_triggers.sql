-- Noticing changes of a source table. A trigger only appends to the inbox: it never raises an error, never waits, and
-- reads no table of ours, so a user's statement behaves as if the trigger did not exist.

-- What the triggers have recorded and no sidecar has folded yet.
CREATE OR REPLACE VIEW pgmeaning._unfolded AS
SELECT * FROM pgmeaning.inbox UNION ALL SELECT * FROM pgmeaning.bulk_inbox;

-- Settings on which a key's jsonb depends. Pinned only where a key's type depends on one, since each slows every write.
CREATE OR REPLACE FUNCTION pgmeaning._settings(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN bool_and(to_regtype(t)::oid = ANY (
                         '{16,18,19,20,21,23,25,1042,1043,1082,1114,1700,2950}'::oid[])) THEN ''
                ELSE 'SET TimeZone = ''UTC'' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' '
                     'SET lc_monetary = ''C'' SET bytea_output = ''hex'' SET extra_float_digits = ''1''' END
    FROM unnest(c.key_types) AS t
$$;

-- From so many rows on, a statement or transaction makes a bulk of changes, which single ones overtake.
CREATE OR REPLACE FUNCTION pgmeaning._bulk_rows() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 128 $$;

-- The statement by which a trigger records an event in one of the inboxes: so many changes in the one, the rest in the
-- other; of an UPDATE all, since nothing says that a join gives its rows in the same order twice.
CREATE OR REPLACE FUNCTION pgmeaning._recording(c pgmeaning.collection, event text, inbox text) RETURNS text
LANGUAGE plpgsql STABLE
AS $make$
DECLARE
    content  text := (SELECT format('ROW(%s)', string_agg(quote_ident(col), ', ' ORDER BY i))
                      FROM unnest(pgmeaning._embedded_columns(c)) WITH ORDINALITY AS u (col, i));
    computed bool := EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.source AND NOT a.attisdropped
                             AND a.attgenerated = 'v'
                             AND a.attname = ANY (pgmeaning._embedded_columns(c)));
BEGIN
    RETURN format(CASE event WHEN 'insert' THEN $insert$
            INSERT INTO pgmeaning.%7$s (collection_id, key)
            SELECT %1$s, n.key FROM (SELECT %2$s) AS gone
            CROSS JOIN LATERAL (SELECT %4$s AS key FROM new_rows) AS n%8$s;
$insert$ WHEN 'delete' THEN $delete$
            INSERT INTO pgmeaning.%7$s (collection_id, key)
            SELECT %1$s, o.key FROM (SELECT %2$s) AS gone
            CROSS JOIN LATERAL (SELECT %4$s AS key FROM old_rows) AS o%8$s;
$delete$ WHEN 'update' THEN $update$
            INSERT INTO pgmeaning.%7$s (collection_id, key)
            WITH before AS NOT MATERIALIZED (
                SELECT true AS present, o.key, o.content
                FROM (SELECT %3$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key, %5$s AS content FROM old_rows) AS o
            ), after AS NOT MATERIALIZED (
                SELECT true AS present, n.key, n.content
                FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key, %6$s AS content FROM new_rows) AS n
            )
            SELECT %1$s, n.key FROM after AS n LEFT JOIN before AS o ON o.key = n.key
            WHERE o.present IS NULL OR o.content *<> n.content
            UNION ALL
            SELECT %1$s, o.key FROM before AS o LEFT JOIN after AS n ON n.key = o.key WHERE n.present IS NULL%8$s;
$update$ END,
        c.id,
        pgmeaning._stand_ins(c, 'NULL::int'),
        pgmeaning._stand_ins(c, '0'),
        pgmeaning._row_key(c),
        CASE WHEN computed THEN 'ROW(0)' ELSE content END,
        CASE WHEN computed THEN 'ROW(1)' ELSE content END,
        inbox,
        CASE WHEN inbox = 'inbox' THEN ' LIMIT ' || pgmeaning._bulk_rows()
             WHEN event <> 'update' THEN ' OFFSET ' || pgmeaning._bulk_rows() END);
END
$make$;

-- What the trigger function does for a single row, which only writes by replication make it do: there are no transition
-- tables, and whether the contents differ is left to the sidecar.
CREATE OR REPLACE FUNCTION pgmeaning._row_trigger_body(c pgmeaning.collection) RETURNS text
LANGUAGE plpgsql STABLE
AS $make$
BEGIN
    RETURN format($function$IF TG_LEVEL = 'ROW' THEN
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO pgmeaning.inbox (collection_id, key)
            SELECT %1$s, n.key
            FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %3$s AS key FROM (SELECT NEW.*) AS written) AS n;
        END IF;
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO pgmeaning.inbox (collection_id, key)
            SELECT %1$s, o.key
            FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %3$s AS key FROM (SELECT OLD.*) AS written) AS o;
        END IF;
    ELS$function$, c.id, pgmeaning._stand_ins(c, 'NULL::int'), pgmeaning._row_key(c));
END
$make$;

-- The key of a row as jsonb, of columns that are in scope; null where one is gone or has another type: making jsonb of
-- a type that users make could run its cast, with the rights of the trigger's owner.
CREATE OR REPLACE FUNCTION pgmeaning._row_key(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('CASE WHEN %s THEN pg_catalog.jsonb_build_object(%s) END',
        string_agg(format('pg_catalog.pg_typeof(%I) OPERATOR(pg_catalog.=) %s::oid', u.k, a.atttypid::int8), ' AND '
                   ORDER BY u.i),
        string_agg(format('%L, %s', u.k, pgmeaning._key_value(quote_ident(u.k), a.atttypid)), ', ' ORDER BY u.i))
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (k, i)
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.k AND NOT a.attisdropped
$$;

-- The trigger function of a collection: static SQL, so that its plans are cached. It is in the schema pgmeaning, and so
-- DROP SCHEMA pgmeaning CASCADE drops the triggers as well: if they stayed, every write would fail.
-- It must not fail, whatever became of the columns, and a subtransaction that catches errors would cost every write. So
--   a column that was dropped or renamed falls through to the next scope, `gone`, which has all names: the key is null,
--   for which the fold starts a scan, or the contents differ, so that each updated row is recorded;
--   *<> compares the bytes of records: it exists for all types, and no collation hides a change;
--   a virtual generated column cannot be read from a transition table: where one is embedded, each updated row is
--   recorded.
-- The changes of a statement over many rows go to an inbox of their own but for the first, so that single changes can
-- overtake them: to count them beforehand would cost every write.
-- SECURITY DEFINER: whoever may write to the source table appends to the inbox without a right to it. Nobody else may
-- create a trigger with it (firing one takes no right): on a table of their own they could write any key.
CREATE OR REPLACE FUNCTION pgmeaning._trigger_body(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $make$
    SELECT format($function$
-- enable_nestloop: the plan is cached at the first statement, and one row's plan would be quadratic for a million rows.
#variable_conflict use_column
DECLARE
    recorded bigint;
BEGIN
    %10$sIF TG_OP = 'INSERT' THEN %2$s
        GET DIAGNOSTICS recorded = ROW_COUNT;
        IF recorded = %1$s THEN %3$s
        END IF;
    ELSIF TG_OP = 'DELETE' THEN %4$s
        GET DIAGNOSTICS recorded = ROW_COUNT;
        IF recorded = %1$s THEN %5$s
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN %6$s
        GET DIAGNOSTICS recorded = ROW_COUNT;
        IF recorded = %1$s THEN %7$s
        END IF;
    ELSE
        INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (%8$s, 'truncate');
    END IF;
    -- A NOTIFY, with the lock that it takes at commit, pays only when no sidecar is awake and one is asleep: see
    -- _show_state. One is enough for a nap: should this transaction roll back, or last, the nap ends by itself. None
    -- where transactions may be prepared, since NOTIFY makes PREPARE TRANSACTION fail.
    IF (FOUND OR recorded > 0) AND pg_catalog.current_setting('max_prepared_transactions') = '0' THEN
        IF pg_catalog.pg_sequence_last_value('pgmeaning.asleep') > 0 THEN
            IF pg_catalog.pg_sequence_last_value('pgmeaning.asleep') > %9$s THEN
                NOTIFY pgmeaning;
            END IF;
            PERFORM pg_catalog.setval('pgmeaning.asleep', 0);
        END IF;
    END IF;
    RETURN NULL;
END
$function$,
        pgmeaning._bulk_rows(),
        pgmeaning._recording(c, 'insert', 'inbox'), pgmeaning._recording(c, 'insert', 'bulk_inbox'),
        pgmeaning._recording(c, 'delete', 'inbox'), pgmeaning._recording(c, 'delete', 'bulk_inbox'),
        pgmeaning._recording(c, 'update', 'inbox'), pgmeaning._recording(c, 'update', 'bulk_inbox'),
        c.id,
        -- Now, as _state_value() has it.
        'pg_catalog.date_part(''epoch'', pg_catalog.clock_timestamp()) * 1048576000',
        CASE WHEN c.always THEN pgmeaning._row_trigger_body(c) ELSE '' END)
$make$;

CREATE OR REPLACE FUNCTION pgmeaning._make_trigger_function(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    trigger_name text := format('pgmeaning.%I', 'on_change_' || c.id);
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'SET search_path = pg_catalog, pg_temp SET enable_nestloop = off %s AS %L',
        trigger_name, pgmeaning._settings(c), pgmeaning._trigger_body(c));
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s() FROM PUBLIC', trigger_name);
END
$$;

-- Columns of the names that a trigger reads: its keys of a type that no key has, the embedded ones as told.
CREATE OR REPLACE FUNCTION pgmeaning._stand_ins(c pgmeaning.collection, value text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT string_agg(format('%s AS %I', CASE WHEN name = ANY (c.key_columns) THEN 'NULL::cid' ELSE value END, name),
                      ', ')
    FROM (SELECT DISTINCT unnest(c.key_columns || pgmeaning._embedded_columns(c))) AS u (name)
$$;

-- The source and all its partitions (also children by inheritance).
CREATE OR REPLACE FUNCTION pgmeaning._family(source regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
AS $$
    WITH RECURSIVE family AS (
        SELECT source::oid AS relation
        UNION
        SELECT i.inhrelid FROM pg_inherits AS i JOIN family AS f ON i.inhparent = f.relation
    )
    SELECT f.relation::regclass FROM family AS f JOIN pg_class AS c ON c.oid = f.relation AND c.relkind IN ('r', 'p')
$$;

CREATE OR REPLACE FUNCTION pgmeaning._triggers(collection_id int) RETURNS TABLE (relation regclass, trigger name)
LANGUAGE sql STABLE
AS $$
    SELECT t.tgrelid::regclass, t.tgname
    FROM pg_proc AS p JOIN pg_trigger AS t ON t.tgfoid = p.oid
    WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.proname = 'on_change_' || collection_id
$$;

-- A statement fires the triggers of the table that it names alone. So a partition is also written to through the tables
-- that it is part of, and a child by inheritance through its parents, as far as those have the key.
CREATE OR REPLACE FUNCTION pgmeaning._ancestors(c pgmeaning.collection) RETURNS SETOF regclass
LANGUAGE sql STABLE
AS $$
    WITH RECURSIVE above AS (
        SELECT i.inhparent AS relation FROM pg_inherits AS i WHERE i.inhrelid = c.source
        UNION
        SELECT i.inhparent FROM pg_inherits AS i JOIN above AS a ON i.inhrelid = a.relation
    )
    SELECT a.relation::regclass FROM above AS a WHERE c.key_columns <@ pgmeaning._column_names(a.relation)
$$;

-- Whether a trigger that looks at the rows would make writes to it fail.
CREATE OR REPLACE FUNCTION pgmeaning._has_foreign_part(relation regclass) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pgmeaning._family(relation) AS f JOIN pg_inherits AS i ON i.inhparent = f
                   JOIN pg_class AS c ON c.oid = i.inhrelid WHERE c.relkind = 'f')
$$;

-- All tables whose triggers are needed to see every write to the source.
CREATE OR REPLACE FUNCTION pgmeaning._watched(c pgmeaning.collection) RETURNS SETOF regclass
LANGUAGE sql STABLE
AS $$
    SELECT pgmeaning._family(c.source)
    UNION
    SELECT a FROM pgmeaning._ancestors(c) AS a WHERE NOT pgmeaning._has_foreign_part(a)
$$;

-- The triggers that a collection needs, and which states of theirs will do. The worker that applies a subscription's
-- changes fires no trigger of a statement, but those of rows that are enabled for replicas, on the table itself: hence
-- these, which no other session fires.
CREATE OR REPLACE FUNCTION pgmeaning._wanted_triggers(c pgmeaning.collection)
RETURNS TABLE (relation regclass, trigger name, event text, level text, states "char"[])
LANGUAGE sql STABLE
AS $$
    SELECT w, format('pgmeaning_%s_%s', c.id, e), e, 'STATEMENT',
           CASE WHEN c.always THEN '{A}' ELSE '{O,A}' END::"char"[]
    FROM pgmeaning._watched(c) AS w CROSS JOIN unnest('{insert,update,delete,truncate}'::text[]) AS e
    UNION ALL
    SELECT f, format('pgmeaning_%s_row_%s', c.id, e), e, 'ROW', '{R}'
    FROM pgmeaning._family(c.source) AS f JOIN pg_class AS r ON r.oid = f AND r.relkind = 'r'
    CROSS JOIN unnest('{insert,update,delete}'::text[]) AS e
    WHERE c.always
$$;

-- Those that are missing (also under another name), or fire for fewer writes than agreed: rows may change unseen.
CREATE OR REPLACE FUNCTION pgmeaning._missing_triggers(c pgmeaning.collection)
RETURNS TABLE (relation regclass, trigger name, event text, level text)
LANGUAGE sql STABLE
AS $$
    SELECT w.relation, w.trigger, w.event, w.level FROM pgmeaning._wanted_triggers(c) AS w
    WHERE NOT EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                      WHERE t.tgrelid = w.relation AND t.tgname = w.trigger AND p.proname = 'on_change_' || c.id
                        AND p.pronamespace = 'pgmeaning'::regnamespace AND t.tgenabled = ANY (w.states))
    ORDER BY w.relation
$$;

-- Creates one of them, or makes a disabled one anew.
CREATE OR REPLACE FUNCTION pgmeaning._add_trigger(c pgmeaning.collection, relation regclass, trigger name, event text,
                                                  level text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    source text := pgmeaning._relation_name(relation);
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s FOR EACH %s EXECUTE FUNCTION pgmeaning.%I()',
        trigger, event, source,
        CASE WHEN level = 'ROW' OR event = 'truncate' THEN ''
             ELSE 'REFERENCING' || CASE WHEN event <> 'insert' THEN ' OLD TABLE AS old_rows' ELSE '' END
                                || CASE WHEN event <> 'delete' THEN ' NEW TABLE AS new_rows' ELSE '' END END,
        level, 'on_change_' || c.id);
    IF c.always THEN
        EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', source,
                       CASE level WHEN 'ROW' THEN 'REPLICA' ELSE 'ALWAYS' END, trigger);
    END IF;
END
$$;

-- Why rows may be written that no trigger sees, nor any other means but a reconcile, or null.
CREATE OR REPLACE FUNCTION pgmeaning._unseen_writes(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('%s, whose rows only a reconcile finds: detach(), and attach(..., always => true) as the owner of %s',
                  u.cause, pgmeaning._relation_name(c.source))
    FROM (SELECT format('a subscription writes to %s', pgmeaning._relation_name(f)) AS cause
          FROM pgmeaning._family(c.source) AS f
          WHERE EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = f)
          UNION ALL
          SELECT 'sessions of this database or a role write as replicas (session_replication_role)'
          WHERE EXISTS (SELECT FROM pg_db_role_setting AS s
                        WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                          AND 'session_replication_role=replica' = ANY (s.setconfig))) AS u
    WHERE NOT c.always LIMIT 1
$$;

-- Why rows may change unseen at this moment, or null.
CREATE OR REPLACE FUNCTION pgmeaning._watch_problem(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format('trigger %I on %s is missing or disabled', m.trigger, pgmeaning._relation_name(m.relation))
      FROM pgmeaning._missing_triggers(c) AS m ORDER BY m.relation, m.trigger LIMIT 1 $$;

-- Triggers on tables that are no longer watched, and renamed ones, as far as we may drop them.
CREATE OR REPLACE FUNCTION pgmeaning._stray_triggers(c pgmeaning.collection)
RETURNS TABLE (relation regclass, trigger name)
LANGUAGE sql STABLE
AS $$
    SELECT t.relation, t.trigger FROM pgmeaning._triggers(c.id) AS t JOIN pg_class AS r ON r.oid = t.relation
    WHERE (t.relation, t.trigger) NOT IN (SELECT w.relation, w.trigger FROM pgmeaning._wanted_triggers(c) AS w)
      AND pg_has_role(r.relowner, 'USAGE')
$$;

-- Creates and drops triggers so that they are as they should be; a disabled one is replaced. Returns whether anything
-- changed: then rows may have come or gone unseen. It waits for no lock, so that no writer queues up behind it: the
-- next pass tries again. (LOCK TABLE ... NOWAIT would ask for more rights than a trigger does.)
CREATE OR REPLACE FUNCTION pgmeaning._sync_triggers(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    patience text := current_setting('lock_timeout');
    missing  record;
    stray    record;
    done     bool := false;
BEGIN
    PERFORM set_config('lock_timeout', '1ms', true);
    FOR missing IN SELECT m.* FROM pgmeaning._missing_triggers(c) AS m LOOP
        PERFORM pgmeaning._add_trigger(c, missing.relation, missing.trigger, missing.event, missing.level);
        done := true;
    END LOOP;
    FOR stray IN SELECT t.* FROM pgmeaning._stray_triggers(c) AS t LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', stray.trigger, pgmeaning._relation_name(stray.relation));
        done := true;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
    RETURN done;
END
$$;

-- Why rows of the source cannot be embedded as agreed at attach(), or null.
CREATE OR REPLACE FUNCTION pgmeaning._source_problem(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        pgmeaning._spread_problem(c.source) || ': no trigger of this node sees all writes to it',
        (SELECT format('column %I of %s is gone or was renamed', wanted, pgmeaning._relation_name(c.source))
         FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) AS wanted
         WHERE NOT wanted = ANY (pgmeaning._column_names(c.source)) LIMIT 1),
        (SELECT format('column %I of %s may not be embedded: %s', a.attname, pgmeaning._relation_name(c.source),
                       pgmeaning._type_problem(a.atttypid, a.attname = ANY (c.key_columns)))
         FROM pg_attribute AS a
         WHERE a.attrelid = c.source AND a.attname = ANY (c.key_columns || pgmeaning._embedded_columns(c))
           AND NOT a.attisdropped AND a.atttypid >= 16384
           AND pgmeaning._type_problem(a.atttypid, a.attname = ANY (c.key_columns)) IS NOT NULL LIMIT 1),
        (SELECT format('key column %I of %s is now %s, it was %s: %s', u.c, pgmeaning._relation_name(c.source),
                       pgmeaning._key_type(a.atttypid), u.type,
                       CASE WHEN NOT pgmeaning._can_follow(u.type, pgmeaning._key_type(a.atttypid))
                            THEN 'detach() it and attach() it again'
                            ELSE 'its vectors ' || coalesce('cannot follow, ' || c.key_problem, 'follow') END)
         FROM unnest(c.key_columns, c.key_types) AS u (c, type)
         JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.c AND NOT a.attisdropped
         WHERE pgmeaning._key_type(a.atttypid) <> u.type LIMIT 1),
        (SELECT format('%s is no longer the primary key of %s: detach() it and attach() it again',
                       array_to_string(c.key_columns, ', '),
                       pgmeaning._relation_name(c.source))
         WHERE NOT EXISTS (
            SELECT FROM pg_index AS i
            WHERE i.indrelid = c.source AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
              AND i.indnkeyatts = cardinality(c.key_columns)
              AND c.key_columns <@ ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = c.source
                                         AND a.attnotnull
                                         AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))),
        (SELECT format('rows of %s are also written through %s, where no trigger can see them, '
                       'since it has a foreign table as a partition',
                       pgmeaning._relation_name(c.source), pgmeaning._relation_name(a))
         FROM pgmeaning._ancestors(c) AS a WHERE pgmeaning._has_foreign_part(a) LIMIT 1),
        (SELECT format('its vector table for model %s was dropped: detach() it and attach() it again', t.model)
         FROM pgmeaning.target AS t
         WHERE t.collection_id = c.id AND NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = t.vectors) LIMIT 1))
$$;

-- Whether a policy for these roles applies to a role; 0 is PUBLIC.
CREATE OR REPLACE FUNCTION pgmeaning._is_for(role name, roles oid[]) RETURNS bool
LANGUAGE sql STABLE
AS $$ SELECT EXISTS (SELECT FROM unnest(roles) AS r WHERE r = 0 OR pg_has_role(role, r, 'USAGE')) $$;

-- Whether row security applies to what a role reads of a table: row_security_active(), for another role.
CREATE OR REPLACE FUNCTION pgmeaning._row_security_binds(relation oid, role name) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT r.relrowsecurity AND NOT u.rolsuper AND NOT u.rolbypassrls
       AND (r.relforcerowsecurity OR NOT pg_has_role(u.oid, r.relowner, 'USAGE'))
    FROM pg_class AS r CROSS JOIN pg_roles AS u WHERE r.oid = relation AND u.rolname = role
$$;

-- Whether a policy lets a role see all rows of a table, as far as no other restricts it.
CREATE OR REPLACE FUNCTION pgmeaning._lets_all_through(relation oid, role name) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = relation AND p.polpermissive
                   AND p.polcmd IN ('r', '*') AND pgmeaning._is_for(role, p.polroles)
                   AND pg_get_expr(p.polqual, p.polrelid) = 'true')
$$;

-- Why a sidecar cannot embed the source: rights that the role which reads it lacks, or rows that are hidden from it,
-- which would look deleted and lose their vectors; or rights that the installation's owner lacks to keep the triggers.
-- A policy that lets all rows through hides none.
CREATE OR REPLACE FUNCTION pgmeaning._access_problem(c pgmeaning.collection, reader name) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        (SELECT format('role %I may not read tables in schema %I: GRANT USAGE ON SCHEMA %2$I TO %1$I', reader,
                       n.nspname)
         FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
         WHERE r.oid = c.source AND NOT has_schema_privilege(reader, n.oid, 'USAGE')),
        (SELECT format('role %I may not read column %I of %s: GRANT SELECT ON %3$s TO %1$I', reader, wanted,
                       pgmeaning._relation_name(c.source))
         FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) AS wanted
         WHERE wanted = ANY (pgmeaning._column_names(c.source))
           AND NOT has_column_privilege(reader, c.source, wanted, 'SELECT') LIMIT 1),
        (SELECT format('role %I may not create a trigger on %s: GRANT TRIGGER ON %2$s TO %1$I', pgmeaning._owner(),
                       pgmeaning._relation_name(m.relation))
         FROM pgmeaning._missing_triggers(c) AS m
         WHERE NOT has_table_privilege(pgmeaning._owner(), m.relation, 'TRIGGER') LIMIT 1),
        (SELECT format('role %I may not let triggers on %s fire always, as the collection''s do: '
                       'let it have the rights of the table''s owner, %I', pgmeaning._owner(),
                       pgmeaning._relation_name(m.relation), pg_get_userbyid(r.relowner))
         FROM pgmeaning._missing_triggers(c) AS m JOIN pg_class AS r ON r.oid = m.relation
         WHERE c.always AND NOT pg_has_role(pgmeaning._owner(), r.relowner, 'USAGE') LIMIT 1),
        (SELECT format('row-level security hides rows of %s from role %I, which embeds them: '
                       'ALTER ROLE %2$I BYPASSRLS, or '
                       'CREATE POLICY pgmeaning ON %1$s FOR SELECT TO %2$I USING (true)',
                       pgmeaning._relation_name(c.source), reader)
         WHERE pgmeaning._row_security_binds(c.source, reader) AND NOT (
            pgmeaning._lets_all_through(c.source, reader)
            AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.source AND NOT p.polpermissive
                            AND p.polcmd IN ('r', '*')
                            AND pgmeaning._is_for(reader, p.polroles)))))
$$;
