-- What notices a change of a source table. A trigger only appends to the inbox: it never raises, waits, or reads a
-- table of ours, so a user's statement behaves as if it were not there.

-- Settings on which a key's jsonb depends; pinned only where a type depends on one, since each costs every write.
CREATE OR REPLACE FUNCTION pgmeaning._settings(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN bool_and(to_regtype(t)::oid = ANY ('{16,18,19,20,21,23,25,1042,1043,1082,1114,1700,2950}'::oid[])) THEN ''
           ELSE 'SET TimeZone = ''UTC'' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET lc_monetary = ''C'' '
                'SET bytea_output = ''hex'' SET extra_float_digits = ''1''' END
    FROM unnest(c.key_types) AS t
$$;

-- (Re)makes the trigger function of a collection: static SQL, so that its plans are cached.
-- It must not fail whatever became of the columns, and a subtransaction to catch errors in would cost every write. So
--   a column that is gone or was renamed falls through to the next scope, `gone`, which has all names: a null key, which
--   fold() takes as a broken collection, or contents that differ, so that each updated row is recorded;
--   *<> compares the bytes of records: it exists whatever the columns' types are, and no collation hides a change.
-- SECURITY DEFINER: whoever may write the source table appends to the inbox without a right to it. Nobody else may make a
-- trigger of it (firing one asks for no right): on a table of their own they could write any key.
CREATE OR REPLACE FUNCTION pgmeaning._make_trigger_function(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $make$
DECLARE
    trigger_name text := format('pgmeaning_data.%I', 'on_change_' || c.id);
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'SET search_path = pg_catalog, pg_temp SET enable_nestloop = off %s AS %L',
        trigger_name, pgmeaning._settings(c), format($function$
-- enable_nestloop: the plan is cached at the first statement, and one row's plan would be quadratic for a million rows.
#variable_conflict use_column
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key)
        SELECT %1$s, n.key FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key FROM new_rows) AS n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key)
        SELECT %1$s, o.key FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key FROM old_rows) AS o;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key)
        WITH before AS NOT MATERIALIZED (
            SELECT true AS present, o.key, o.content
            FROM (SELECT %3$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key, %5$s AS content FROM old_rows) AS o
        ), after AS NOT MATERIALIZED (
            SELECT true AS present, n.key, n.content
            FROM (SELECT %2$s) AS gone CROSS JOIN LATERAL (SELECT %4$s AS key, %5$s AS content FROM new_rows) AS n
        )
        SELECT %1$s, n.key FROM after AS n LEFT JOIN before AS o ON o.key = n.key WHERE o.present IS NULL OR o.content *<> n.content
        UNION ALL
        SELECT %1$s, o.key FROM before AS o LEFT JOIN after AS n ON n.key = o.key WHERE n.present IS NULL;
    ELSE
        INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (%1$s, 'truncate');
    END IF;
    -- A sidecar that is awake holds this lock alone: only when none is, a NOTIFY is worth the lock it takes at commit.
    -- Where transactions are prepared there is none, since it would make PREPARE TRANSACTION fail.
    IF FOUND AND pg_catalog.current_setting('max_prepared_transactions') = '0'
       AND pg_catalog.pg_try_advisory_lock_shared(1885826405, 1) AND pg_catalog.pg_advisory_unlock_shared(1885826405, 1) THEN
        NOTIFY pgmeaning;
    END IF;
    RETURN NULL;
END
$function$,
        c.id,
        pgmeaning._stand_ins(c, 'NULL::int'),
        pgmeaning._stand_ins(c, '0'),
        (SELECT format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%1$L, %1$I', k), ', ' ORDER BY i))
         FROM unnest(c.key_columns) WITH ORDINALITY AS u (k, i)),
        (SELECT format('ROW(%s)', string_agg(quote_ident(col), ', ' ORDER BY i))
         FROM unnest(pgmeaning._embedded_columns(c)) WITH ORDINALITY AS u (col, i))));
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s() FROM PUBLIC', trigger_name);
END
$make$;

-- Columns of the names that a trigger reads: its keys null, the embedded ones as told.
CREATE OR REPLACE FUNCTION pgmeaning._stand_ins(c pgmeaning.collection, value text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT string_agg(format('%s AS %I', CASE WHEN name = ANY (c.key_columns) THEN 'NULL::int' ELSE value END, name), ', ')
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

CREATE OR REPLACE FUNCTION pgmeaning._add_triggers(c pgmeaning.collection, relation regclass) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    event text;
BEGIN
    FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION pgmeaning_data.%I()',
            format('pgmeaning_%s_%s', c.id, event), event, pgmeaning._relation_name(relation),
            CASE event WHEN 'insert' THEN 'REFERENCING NEW TABLE AS new_rows'
                       WHEN 'update' THEN 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                       WHEN 'delete' THEN 'REFERENCING OLD TABLE AS old_rows' ELSE '' END,
            'on_change_' || c.id);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._triggers(collection_id int) RETURNS TABLE (relation regclass, trigger name)
LANGUAGE sql STABLE
AS $$
    SELECT t.tgrelid::regclass, t.tgname
    FROM pg_proc AS p JOIN pg_trigger AS t ON t.tgfoid = p.oid
    WHERE p.pronamespace = 'pgmeaning_data'::regnamespace AND p.proname = 'on_change_' || collection_id
$$;

-- Brings the triggers in line with the partitions there are. Returns whether anything changed: then rows may have come
-- or gone unseen. It waits for no lock, so that no writer queues up behind it: the next pass tries again.
CREATE OR REPLACE FUNCTION pgmeaning._sync_triggers(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    member regclass;
    stray  record;
    done   bool := false;
BEGIN
    FOR member IN SELECT f FROM pgmeaning._family(c.source) AS f
                  EXCEPT SELECT t.relation FROM pgmeaning._triggers(c.id) AS t LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE NOWAIT', pgmeaning._relation_name(member));
        PERFORM pgmeaning._add_triggers(c, member);
        done := true;
    END LOOP;
    FOR stray IN SELECT t.* FROM pgmeaning._triggers(c.id) AS t
                 WHERE t.relation NOT IN (SELECT f FROM pgmeaning._family(c.source) AS f) LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', pgmeaning._relation_name(stray.relation));
        EXECUTE format('DROP TRIGGER %I ON %s', stray.trigger, pgmeaning._relation_name(stray.relation));
        done := true;
    END LOOP;
    RETURN done;
END
$$;

-- Why rows of the source cannot be embedded as agreed at attach(), or null.
CREATE OR REPLACE FUNCTION pgmeaning._source_problem(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        (SELECT format('column %I of %s is gone or was renamed', wanted, pgmeaning._relation_name(c.source))
         FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) AS wanted
         WHERE NOT wanted = ANY (pgmeaning._column_names(c.source)) LIMIT 1),
        (SELECT format('key column %I of %s is now %s, it was %s', u.c, pgmeaning._relation_name(c.source),
                       pgmeaning._key_type(a.atttypid), u.type)
         FROM unnest(c.key_columns, c.key_types) AS u (c, type)
         JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.c AND NOT a.attisdropped
         WHERE pgmeaning._key_type(a.atttypid) <> u.type LIMIT 1),
        (SELECT format('its vector table by %s was dropped: detach() and attach() anew', t.model)
         FROM pgmeaning.target AS t
         WHERE t.collection_id = c.id AND NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = t.vectors) LIMIT 1))
$$;
