-- Noticing that a source or our own objects changed behind our back, and mending what was lost.

-- The collection's view on this vector table, also where it was moved to another schema.
CREATE OR REPLACE FUNCTION pgmeaning._views_on(vectors regclass, collection text) RETURNS SETOF oid
LANGUAGE sql STABLE
AS $$
    SELECT DISTINCT r.ev_class FROM pg_depend AS d
    JOIN pg_rewrite AS r ON r.oid = d.objid
    JOIN pg_class AS v ON v.oid = r.ev_class AND v.relname = collection || '_embedding' AND v.relkind = 'v'
    WHERE d.refobjid = vectors AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_rewrite'::regclass
$$;

-- What each collection (or one) depends on in the catalog, as four hashes: of the columns that are embedded or are the
-- key, of the tables through which its rows are written, of our triggers there, and of the rest: keys, rights and
-- policies of the source, and our own table, functions and view. The xmin of a catalog's row tells a change there and
-- back from none. One statement for all collections, each step by an index, since it is asked every few seconds.
CREATE OR REPLACE FUNCTION pgmeaning._marks(wanted int DEFAULT NULL)
RETURNS TABLE (collection_id int, marks text[])
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
    WITH RECURSIVE chosen AS MATERIALIZED (
        SELECT c.id, c.name, c.source::oid AS source, c.key_columns || pgmeaning._embedded_columns(c) AS names
        FROM pgmeaning.collection AS c WHERE wanted IS NULL OR c.id = wanted
    ), below (id, relation, since) AS (
        SELECT c.id, c.source, NULL FROM chosen AS c
        UNION
        SELECT b.id, i.inhrelid, i.xmin::text FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.relation
    ), above (id, relation, since) AS (
        SELECT c.id, i.inhparent, i.xmin::text FROM chosen AS c JOIN pg_inherits AS i ON i.inhrelid = c.source
        UNION
        SELECT a.id, i.inhparent, i.xmin::text FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.relation
    )
    SELECT c.id, ARRAY(SELECT hashtextextended(coalesce(part, ''), 0)::text
                       FROM unnest(ARRAY[attribute.marks, member.marks, watch.marks,
                                         concat_ws('|', source.marks, own.marks, vectors.marks)])
                            WITH ORDINALITY AS u (part, i) ORDER BY i)
    FROM chosen AS c
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(':', b.relation, a.attnum, a.attname, a.xmin, d.oid, d.xmin, label.marks), ','
                          ORDER BY b.relation, a.attnum) AS marks
        FROM below AS b
        JOIN pg_attribute AS a ON a.attrelid = b.relation AND a.attname = ANY (c.names) AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
        LEFT JOIN LATERAL (  -- a renamed label changes the text of rows that no statement touched
            SELECT string_agg(concat_ws('=', e.oid, e.xmin), ' ' ORDER BY e.oid) AS marks
            FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid IN (t.oid, t.typelem, t.typbasetype)
            WHERE t.oid = a.atttypid AND a.atttypid >= 16384) AS label ON true
        WHERE b.id = c.id) AS attribute
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(':', m.relation, m.since), ',' ORDER BY m.relation, m.since) AS marks
        FROM (SELECT b.relation, b.since FROM below AS b WHERE b.id = c.id
              UNION SELECT a.relation, a.since FROM above AS a WHERE a.id = c.id) AS m) AS member
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(':', t.oid, t.tgrelid, t.tgname, t.tgenabled, t.xmin), ',' ORDER BY t.oid) AS marks
        FROM pg_proc AS p
        JOIN pg_depend AS d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
            AND d.classid = 'pg_trigger'::regclass
        JOIN pg_trigger AS t ON t.oid = d.objid
        WHERE p.proname = 'on_change_' || c.id AND p.pronamespace = 'pgmeaning'::regnamespace) AS watch
    CROSS JOIN LATERAL (
        SELECT concat_ws(':', r.relowner, r.relacl::text, r.relrowsecurity, r.relforcerowsecurity,
            (SELECT string_agg(concat_ws('=', p.oid, p.xmin), ' ' ORDER BY p.oid) FROM pg_policy AS p
             WHERE p.polrelid = r.oid),
            (SELECT string_agg(DISTINCT concat_ws('=', i.indkey::text, i.indnkeyatts), ' ') FROM pg_index AS i
             WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL)) AS marks
        FROM (SELECT) AS one LEFT JOIN pg_class AS r ON r.oid = c.source) AS source
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(':', p.oid, p.xmin), ',' ORDER BY p.oid) AS marks
        FROM pg_proc AS p
        WHERE p.proname = ANY (ARRAY['on_change_' || c.id, 'visible_' || c.id, 'unrestricted_' || c.id,
                                     'words_' || c.id]::name[])
          AND p.pronamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace)) AS own
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(':', t.vectors::oid, r.relrowsecurity, view.oid,
            (SELECT string_agg(concat_ws('=', a.attnum, a.attname, a.atttypid), ' ' ORDER BY a.attnum)
             FROM pg_attribute AS a WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped),
            (SELECT string_agg(concat_ws('=', p.oid, p.xmin), ' ' ORDER BY p.oid) FROM pg_policy AS p
             WHERE p.polrelid = r.oid),
            (SELECT string_agg(concat_ws('=', g.oid, g.tgenabled), ' ' ORDER BY g.oid) FROM pg_trigger AS g
             WHERE g.tgrelid = r.oid AND NOT g.tgisinternal),
            (SELECT string_agg(i.indkey::text, ' ' ORDER BY i.indkey::text) FROM pg_index AS i
             WHERE i.indrelid = r.oid AND i.indisprimary)), ',' ORDER BY t.vectors::oid) AS marks
        FROM pgmeaning.target AS t
        LEFT JOIN pg_class AS r ON r.oid = t.vectors
        LEFT JOIN LATERAL pgmeaning._views_on(t.vectors, c.name) AS view (oid) ON true
        WHERE t.collection_id = c.id) AS vectors
$$;

-- Makes anew what is missing of a vector table. Whoever dropped the extension vector, or its columns, dropped the
-- vectors: the table is emptied, and its rows are owed again.
CREATE OR REPLACE FUNCTION pgmeaning._mend_vectors(c pgmeaning.collection, t pgmeaning.target) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relation text := pgmeaning._relation_name(t.vectors);
    columns  name[] := pgmeaning._column_names(t.vectors);
BEGIN
    IF NOT 'embedding' = ANY (columns) THEN
        EXECUTE format('TRUNCATE %s', relation);
        EXECUTE format('ALTER TABLE %s ADD COLUMN embedding %s(%s) NOT NULL', relation, t.vector_type, t.dimensions);
        PERFORM pgmeaning._start_scan(c);
    END IF;
    IF NOT 'signature' = ANY (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN signature bit(%s) GENERATED ALWAYS AS (binary_quantize(embedding)) '
                       'STORED', relation, t.dimensions);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.vectors AND i.indisprimary) THEN
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (%s, chunk)', relation, pgmeaning._vector_key(c));
    END IF;
    PERFORM pgmeaning._protect(c, t.vectors);
    IF c.language IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.vectors
                                              AND g.tgname = 'words' AND g.tgenabled IN ('O', 'A')) THEN
        PERFORM pgmeaning._add_words(c, relation);
    END IF;
END
$$;

-- Makes the collection's view where it is missing; returns why it cannot, or null.
CREATE OR REPLACE FUNCTION pgmeaning._mend_view(c pgmeaning.collection) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    view text := format('%I.%I', c.view_schema, c.name || '_embedding');
BEGIN
    IF EXISTS (SELECT FROM pgmeaning.target AS t CROSS JOIN LATERAL pgmeaning._views_on(t.vectors, c.name)
               WHERE t.collection_id = c.id AND t.state = 'active') THEN
        RETURN NULL;
    ELSIF to_regclass(view) IS NOT NULL THEN
        RETURN format('its view cannot be made: %s is something else', view);
    END IF;
    PERFORM pgmeaning._make_view(c);
    RETURN NULL;
EXCEPTION WHEN insufficient_privilege OR invalid_schema_name THEN
    RETURN format('its view %s was dropped and cannot be made: %s', view, SQLERRM);
END
$$;

-- Makes anew what is missing of a collection: functions, triggers, vector tables, policies, the view. Returns what could
-- not be mended, or null. It waits for no user's lock.
CREATE OR REPLACE FUNCTION pgmeaning._mend(c pgmeaning.collection) RETURNS text
LANGUAGE plpgsql SET client_min_messages = warning
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.proname = 'on_change_' || c.id
                   AND p.pronamespace = 'pgmeaning'::regnamespace AND p.prosrc = pgmeaning._trigger_body(c)) THEN
        PERFORM pgmeaning._make_trigger_function(c);
    END IF;
    PERFORM pgmeaning._sync_triggers(c);
    IF (SELECT count(*) FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning_data'::regnamespace
        AND p.proname IN ('visible_' || c.id, 'unrestricted_' || c.id)) < 2 THEN
        PERFORM pgmeaning._make_policy_functions(c);
    END IF;
    PERFORM pgmeaning._mend_vectors(c, t) FROM pgmeaning.target AS t WHERE t.collection_id = c.id;
    RETURN pgmeaning._mend_view(c);
END
$$;

-- Starts a scan from the beginning, even if one is in progress: rows that it has passed may have changed since.
CREATE OR REPLACE FUNCTION pgmeaning._start_scan(c pgmeaning.collection) RETURNS void
LANGUAGE sql VOLATILE
AS $$
    UPDATE pgmeaning.target AS t SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
    WHERE t.collection_id = c.id
$$;

-- Forgets what a collection owes: a scan finds it again. For a change of columns, after which keys that were recorded
-- before it may say nothing (a renamed label of an enum), and rows that failed may no longer fail.
CREATE OR REPLACE FUNCTION pgmeaning._forget_owed(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- The inbox first: what a sidecar is folding at this moment is in the queue by the second statement.
    DELETE FROM pgmeaning.inbox AS i WHERE i.collection_id = c.id AND i.key IS NOT NULL;
    DELETE FROM pgmeaning.queue AS q WHERE q.collection_id = c.id;
END
$$;

-- What maintenance does with a collection whose marks differ from those that were recorded, or that was broken: mends
-- it, and starts a scan wherever rows may have changed unseen. Returns which marks differed, and what it may not mend.
CREATE OR REPLACE FUNCTION pgmeaning._look_after(c pgmeaning.collection, OUT changed text[], OUT warning text)
LANGUAGE plpgsql
AS $$
DECLARE
    before text[] := (SELECT m.marks FROM pgmeaning._marks(c.id) AS m);
    after  text[];
BEGIN
    changed := ARRAY(SELECT name FROM unnest('{columns,tables,triggers,objects}'::text[]) WITH ORDINALITY AS u (name, i)
                     WHERE before[i] IS DISTINCT FROM c.marks[i] ORDER BY i);
    warning := pgmeaning._mend(c);
    after := (SELECT m.marks FROM pgmeaning._marks(c.id) AS m);
    IF after[3] <> before[3] AND NOT 'triggers' = ANY (changed) THEN
        changed := changed || 'triggers'::text;
    END IF;
    IF 'columns' = ANY (changed) THEN
        PERFORM pgmeaning._forget_owed(c);
    END IF;
    IF changed && '{columns,tables,triggers}' OR c.problem IS NOT NULL THEN
        PERFORM pgmeaning._start_scan(c);
    END IF;
    -- Of what others change at this moment the first three must differ again at the next look. Only the triggers are
    -- ours to change, and if they changed, a scan follows.
    UPDATE pgmeaning.collection AS k
    SET marks = before[1:2] || after[3] || before[4], problem = NULL, warning = _look_after.warning
    WHERE k.id = c.id;
END
$$;
