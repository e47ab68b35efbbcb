-- What notices a change of a source table. A trigger only appends to the inbox: it never raises, waits, or reads a
-- table of ours, so a user's statement behaves as if it were not there.

-- 'o.title IS DISTINCT FROM n.title OR ...'. Types that have no equality of the system's own are compared as text;
-- collations are set aside, since a case-insensitive one would hide a change.
CREATE OR REPLACE FUNCTION pgmeaning._changed(relation regclass, columns name[]) RETURNS text
LANGUAGE sql STABLE
AS $$
    WITH typed AS (
        SELECT a.attname, u.i,
               CASE WHEN b.typcategory = 'S' OR NOT comparable.yes THEN '::text COLLATE "C"' ELSE '' END AS as_what
        FROM unnest(columns) WITH ORDINALITY AS u (c, i)
        JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = u.c AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
        CROSS JOIN LATERAL (
            SELECT b.typtype = 'e' OR b.typnamespace = 'pg_catalog'::regnamespace AND EXISTS (
                SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod
                WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = b.oid)) AS comparable (yes)
    )
    SELECT string_agg(format('o.%1$I%2$s IS DISTINCT FROM n.%1$I%2$s', attname, as_what), ' OR ' ORDER BY i) FROM typed
$$;

-- 'o.id = n.id AND ...' by the very value: 'A' and 'a' are two keys even where a collation calls them equal.
CREATE OR REPLACE FUNCTION pgmeaning._same_key(columns name[], types text[]) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(format('o.%1$I%2$s = n.%1$I%2$s', c,
        CASE WHEN t.typcategory = 'S' OR t.typnamespace <> 'pg_catalog'::regnamespace THEN '::text COLLATE "C"' ELSE '' END),
        ' AND ' ORDER BY i)
    FROM unnest(columns, types) WITH ORDINALITY AS u (c, type, i)
    JOIN pg_type AS t ON t.oid = to_regtype(u.type)
$$;

-- Settings on which a key's jsonb depends; pinned only for the types that depend on one, since each costs every write.
CREATE OR REPLACE FUNCTION pgmeaning._key_settings(types text[]) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN bool_and(to_regtype(t)::oid = ANY ('{16,18,20,21,23,25,1042,1043,1082,1114,1700,2950}'::oid[])) THEN ''
           ELSE 'SET TimeZone = ''UTC'' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' '
                'SET bytea_output = ''hex'' SET extra_float_digits = ''1''' END
    FROM unnest(types) AS t
$$;

-- (Re)makes the trigger function of a collection: static SQL, so that its plans are cached.
-- SECURITY DEFINER: whoever may write the source table appends to the inbox without a right to it.
CREATE OR REPLACE FUNCTION pgmeaning._make_trigger_function(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $make$
BEGIN
    EXECUTE format($function$
CREATE OR REPLACE FUNCTION pgmeaning_data.%1$I() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_nestloop = off %2$s
AS $trigger$
-- enable_nestloop: the plan is cached at the first statement, and one row's plan would be quadratic for a million rows.
DECLARE
    problem text;
    written bigint := 0;
BEGIN
    -- Do the columns still exist and compare? A subtransaction that writes nothing takes no transaction id.
    BEGIN
        IF TG_OP = 'INSERT' THEN
            PERFORM %4$s FROM new_rows AS n LIMIT 0;
        ELSIF TG_OP = 'DELETE' THEN
            PERFORM %5$s FROM old_rows AS o LIMIT 0;
        ELSIF TG_OP = 'UPDATE' THEN
            PERFORM %4$s, %7$s FROM old_rows AS o FULL JOIN new_rows AS n ON %6$s LIMIT 0;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        problem := SQLERRM;
    END;
    IF problem IS NOT NULL THEN
        INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (%3$s, 'broken: ' || problem);
        BEGIN
            IF TG_OP IN ('INSERT', 'UPDATE') THEN
                INSERT INTO pgmeaning.inbox (collection_id, key) SELECT %3$s, %4$s FROM new_rows AS n;
            END IF;
            IF TG_OP IN ('UPDATE', 'DELETE') THEN
                INSERT INTO pgmeaning.inbox (collection_id, key) SELECT %3$s, %5$s FROM old_rows AS o;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- The note stands: once the collection is whole again, a reconcile finds these rows.
        END;
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key) SELECT %3$s, %4$s FROM new_rows AS n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key) SELECT %3$s, %5$s FROM old_rows AS o;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO pgmeaning.inbox (collection_id, key)
        SELECT %3$s, CASE WHEN n.%8$I IS NULL THEN %5$s ELSE %4$s END
        FROM old_rows AS o FULL JOIN new_rows AS n ON %6$s
        WHERE o.%8$I IS NULL OR n.%8$I IS NULL OR %7$s;
    ELSE
        INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (%3$s, 'truncate');
    END IF;
    GET DIAGNOSTICS written = ROW_COUNT;
    -- A sidecar that is awake holds this lock alone: only when none is, a NOTIFY is worth the lock it takes at commit.
    -- Where transactions are prepared there is none, since it would make PREPARE TRANSACTION fail.
    IF written > 0 AND pg_catalog.current_setting('max_prepared_transactions') = '0'
       AND pg_catalog.pg_try_advisory_lock_shared(1885826405, 1) AND pg_catalog.pg_advisory_unlock_shared(1885826405, 1) THEN
        NOTIFY pgmeaning;
    END IF;
    RETURN NULL;
END
$trigger$
$function$,
        'on_change_' || c.id,
        pgmeaning._key_settings(c.key_types),
        c.id,
        pgmeaning._key_json('n', c.key_columns, c.key_columns),
        pgmeaning._key_json('o', c.key_columns, c.key_columns),
        pgmeaning._same_key(c.key_columns, c.key_types),
        pgmeaning._changed(c.source, pgmeaning._embedded_columns(c)),
        c.key_columns[1]);
END
$make$;

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
                       pgmeaning._type_name(a.atttypid, a.atttypmod), u.type)
         FROM unnest(c.key_columns, c.key_types) AS u (c, type)
         JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.c AND NOT a.attisdropped
         WHERE pgmeaning._type_name(a.atttypid, a.atttypmod) <> u.type LIMIT 1))
$$;
