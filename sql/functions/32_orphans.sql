-- Collections whose table is gone. They are kept, with their vectors, for a grace period: a table of the same name and
-- key takes them up again, and only what differs is embedded. So a table that is rebuilt or restored costs no vector.

-- Whether there is no such table, by the catalog's own word: what pg_class does not show may only be hidden, as Citus
-- hides some. A question about privileges looks the OID up, and is null where there is none.
CREATE OR REPLACE FUNCTION pgmeaning._is_dropped(source oid) RETURNS bool
LANGUAGE sql STABLE
AS $$ SELECT has_table_privilege(source, 'SELECT') IS NULL $$;

-- What status says of a collection without a table.
CREATE OR REPLACE FUNCTION pgmeaning._orphan_problem(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN NOT pgmeaning._is_dropped(c.source)
        THEN format('pg_class does not show %s to role %I', c.source_name, current_user)
        ELSE format('its table %s was dropped; its vectors are kept %s: a table of that name and key takes them up, '
                    'detach(%L) drops them%s', c.source_name,
                    coalesce(to_char(c.kept_until, '"until "YYYY-MM-DD HH24:MI:SSOF'), 'for now'),
                    pgmeaning._base_name(c.name),
                    '. ' || c.problem) END
$$;

-- Everything that makes vectors worth keeping: two collections with the same have the same vectors for the same rows.
CREATE OR REPLACE FUNCTION pgmeaning._definition(c pgmeaning.collection, dimensions int, vector_type text)
RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT to_jsonb(d) FROM (
        SELECT c.key_columns, c.key_types, c.vector_key_columns, c.columns, c.template, c.image, c.video, c.chunking,
               c.language, c.model, dimensions, vector_type,
               (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = c.model)) AS d
$$;

-- The table that now has the name of the one that was dropped.
CREATE OR REPLACE FUNCTION pgmeaning._namesake(source_name text) RETURNS regclass
LANGUAGE sql STABLE
AS $$
    SELECT r.oid::regclass
    FROM parse_ident(source_name) AS p (parts)
    JOIN pg_namespace AS n ON n.nspname = p.parts[1]
    JOIN pg_class AS r ON r.relnamespace = n.oid AND r.relname = p.parts[2]
    WHERE r.relkind IN ('r', 'p') AND r.relpersistence <> 't'
$$;

-- Why this table cannot take the collection up, or null. Of a key of another type vectors can follow, later.
CREATE OR REPLACE FUNCTION pgmeaning._adoption_problem(c pgmeaning.collection, source regclass, reader name)
RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    c.source := source;
    c.key_types := ARRAY(SELECT CASE WHEN pgmeaning._can_follow(u.was, u.is_now) THEN u.is_now ELSE u.was END
                         FROM unnest(c.key_types, pgmeaning._present_key_types(c)) AS u (was, is_now));
    RETURN 'The table that now has its name does not fit: ' || coalesce(
        CASE WHEN pgmeaning._has_foreign_part(source) THEN 'it has a foreign table as a partition' END,
        pgmeaning._source_problem(c), pgmeaning._access_problem(c, reader));
END
$$;

-- Makes the collection one of this table; triggers are left to the caller, who knows how long they may be waited for.
-- The note starts a scan, which finds what differs, and gives rows that are being embedded a new generation: their
-- content is that of the table that was dropped.
CREATE OR REPLACE FUNCTION pgmeaning._adopt(c pgmeaning.collection, source regclass) RETURNS pgmeaning.collection
LANGUAGE plpgsql SET client_min_messages = warning
AS $$
DECLARE
    schema_name name := (SELECT n.nspname FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
                         WHERE r.oid = source);
BEGIN
    IF schema_name <> c.view_schema THEN
        PERFORM pgmeaning._drop_view(c, t.vectors) FROM pgmeaning.target AS t WHERE t.collection_id = c.id;
    END IF;
    UPDATE pgmeaning.collection AS k
    SET source = $2, source_name = pgmeaning._relation_name($2), view_schema = schema_name, kept_until = NULL,
        problem = NULL, adopted_at = now(), awaits_rows = true
    WHERE k.id = c.id RETURNING * INTO c;
    PERFORM pgmeaning._make_policy_functions(c), pgmeaning._make_trigger_function(c), pgmeaning._mend_view(c);
    INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (c.id, 'reconcile');
    PERFORM pgmeaning._wake();
    RETURN c;
END
$$;

-- What maintenance does about a collection whose table may be gone; returns what became of it, or null: nothing new. It
-- waits for nobody. Nothing is dropped while a table has the name, whatever keeps it from taking the vectors up.
-- SECURITY DEFINER: as _look_after().
CREATE OR REPLACE FUNCTION pgmeaning._look_after_orphan(collection_id int, grace interval, reader name) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    c        pgmeaning.collection;
    namesake regclass;
    trouble  text;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS k WHERE k.id = $1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT pgmeaning._is_dropped(c.source) THEN
        RETURN NULL;
    END IF;
    namesake := pgmeaning._namesake(c.source_name);
    trouble := CASE WHEN namesake IS NOT NULL THEN pgmeaning._adoption_problem(c, namesake, reader) END;
    IF namesake IS NOT NULL AND trouble IS NULL THEN
        PERFORM pgmeaning._sync_triggers(pgmeaning._adopt(c, namesake));
        RETURN 'adopted';
    ELSIF namesake IS NULL AND c.kept_until <= now() THEN
        RETURN pgmeaning._forget_orphan(c);
    END IF;
    UPDATE pgmeaning.collection AS k SET source = 0, kept_until = coalesce(c.kept_until, now() + grace),
                                         problem = trouble
    WHERE k.id = c.id AND (c.kept_until IS NULL OR c.problem IS DISTINCT FROM trouble);
    RETURN CASE WHEN FOUND THEN coalesce(trouble, 'orphaned') END;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._forget_orphan(c pgmeaning.collection) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    blocking text;
BEGIN
    PERFORM pgmeaning._forget(c, false);
    RETURN 'forgotten';
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
    UPDATE pgmeaning.collection AS k SET problem = blocking
    WHERE k.id = c.id AND c.problem IS DISTINCT FROM blocking;
    RETURN CASE WHEN FOUND THEN blocking END;
END
$$;

-- attach() of a table under the name of an orphan that it fits: whether the orphan was taken up. Also of a table that a
-- sidecar was faster to take up: whoever drops, makes and attaches a table should not have to know.
CREATE OR REPLACE FUNCTION pgmeaning._takes_up(c pgmeaning.collection, dimensions int, vector_type text) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    wanted jsonb := pgmeaning._definition(c, dimensions, vector_type);
    known  pgmeaning.collection;
    had    name[];
BEGIN
    SELECT k.* INTO known FROM pgmeaning.collection AS k JOIN pgmeaning.target AS t ON t.collection_id = k.id
    WHERE k.name = c.name
      AND (pgmeaning._is_dropped(k.source) OR k.source = c.source AND k.adopted_at IS NOT NULL)
      AND pgmeaning._definition(k, t.dimensions, pgmeaning._vector_type(t.vectors)) = wanted;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    had := known.grant_to;
    UPDATE pgmeaning.collection AS k SET grant_to = c.grant_to WHERE k.id = known.id RETURNING * INTO known;
    IF pgmeaning._is_dropped(known.source) THEN
        known := pgmeaning._adopt(known, c.source);
        PERFORM pgmeaning._grant_access(known), pgmeaning._watch(known);
        PERFORM pgmeaning._hand_over(known);
    END IF;
    PERFORM pgmeaning._change_grants(known, t.vectors, had) FROM pgmeaning.target AS t
    WHERE t.collection_id = known.id;
    RETURN true;
END
$$;

-- Who may read the vectors and their view, where others could before.
CREATE OR REPLACE FUNCTION pgmeaning._change_grants(c pgmeaning.collection, vectors regclass, had name[])
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relations text := concat_ws(', ', pgmeaning._relation_name(vectors), pgmeaning._relation_name(to_regclass(
                                      format('%I.%I', c.view_schema, c.name || '_embedding'))));
    role      name;
BEGIN
    FOR role IN SELECT unnest(had) EXCEPT SELECT unnest(c.grant_to) LOOP
        IF role = 'public' OR to_regrole(quote_ident(role)) IS NOT NULL THEN
            EXECUTE format('REVOKE SELECT ON %s FROM %s', relations, pgmeaning._grantee(role));
        END IF;
    END LOOP;
    FOREACH role IN ARRAY c.grant_to LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', relations, pgmeaning._grantee(role));
    END LOOP;
END
$$;
