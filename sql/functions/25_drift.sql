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
-- policies of the source, and our own tables, functions and view. The xmin of a catalog's row tells a change there and
-- back from none. One statement for all collections, since it is asked every few seconds; facts are summed up as they
-- come, since a join by collection would be quadratic. It is planned freely: a sidecar's own settings are for look-ups
-- by key.
CREATE OR REPLACE FUNCTION pgmeaning._marks(wanted int DEFAULT NULL)
RETURNS TABLE (collection_id int, marks text[])
LANGUAGE sql STABLE
SET enable_seqscan = on SET enable_hashjoin = on SET enable_mergejoin = on SET plan_cache_mode = force_custom_plan
AS $$
    WITH RECURSIVE chosen AS MATERIALIZED (
        SELECT c.id, c.name, c.source::oid AS source, c.key_columns || pgmeaning._embedded_columns(c) AS columns
        FROM pgmeaning.collection AS c WHERE wanted IS NULL OR c.id = wanted
    ), below (id, relation, since, columns) AS (
        SELECT c.id, c.source, NULL, c.columns FROM chosen AS c
        UNION ALL
        SELECT b.id, i.inhrelid, i.xmin::text, b.columns
        FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.relation
    ), above (id, relation, since) AS (
        SELECT c.id, i.inhparent, i.xmin::text FROM chosen AS c JOIN pg_inherits AS i ON i.inhrelid = c.source
        UNION ALL
        SELECT a.id, i.inhparent, i.xmin::text FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.relation
    ), ours AS MATERIALIZED (
        SELECT c.id, t.vectors::oid AS vectors, c.name || '_embedding' AS view
        FROM chosen AS c JOIN pgmeaning.target AS t ON t.collection_id = c.id
    ), fact (id, place, words) AS (
        SELECT b.id, 1, concat_ws(':', b.relation, a.attnum, a.attname, a.xmin, d.oid, d.xmin)
        FROM below AS b
        JOIN pg_attribute AS a ON a.attrelid = b.relation AND a.attname = ANY (b.columns) AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
        UNION ALL  -- a renamed label changes the text of rows that no statement touched
        SELECT b.id, 1, concat_ws(':', e.oid, e.xmin)
        FROM below AS b
        JOIN pg_attribute AS a ON a.attrelid = b.relation AND a.attname = ANY (b.columns) AND a.atttypid >= 16384
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_enum AS e ON e.enumtypid IN (t.oid, t.typelem, t.typbasetype)
        UNION ALL  -- nor did one that made a cast
        SELECT b.id, 1, concat_ws(':', p.oid, p.xmin)
        FROM below AS b
        JOIN pg_attribute AS a ON a.attrelid = b.relation AND a.attname = ANY (b.columns) AND a.atttypid >= 16384
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_cast AS p ON p.castsource IN (t.oid, t.typarray, t.typelem, t.typbasetype)
        UNION ALL SELECT b.id, 2, concat_ws(':', b.relation, b.since) FROM below AS b
        UNION ALL SELECT a.id, 2, concat_ws(':', a.relation, a.since) FROM above AS a
        UNION ALL
        SELECT c.id, 3, concat_ws(':', t.oid, t.tgrelid, t.tgname, t.tgenabled, t.xmin)
        FROM chosen AS c
        JOIN pg_proc AS p ON p.proname = 'on_change_' || c.id AND p.pronamespace = 'pgmeaning'::regnamespace
        JOIN pg_depend AS d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
            AND d.classid = 'pg_trigger'::regclass
        JOIN pg_trigger AS t ON t.oid = d.objid
        UNION ALL
        SELECT c.id, 4, concat_ws(':', r.relowner, r.relacl::text, r.relrowsecurity, r.relforcerowsecurity)
        FROM chosen AS c JOIN pg_class AS r ON r.oid = c.source
        UNION ALL
        SELECT DISTINCT c.id, 4, concat_ws(':', i.indkey::text, i.indnkeyatts)
        FROM chosen AS c JOIN pg_index AS i ON i.indrelid = c.source
        WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL
        UNION ALL
        SELECT g.id, 4, concat_ws(':', p.oid, p.xmin)
        FROM (SELECT c.id, c.source FROM chosen AS c
              UNION ALL SELECT o.id, o.vectors FROM ours AS o) AS g (id, relation)
        JOIN pg_policy AS p ON p.polrelid = g.relation
        UNION ALL
        SELECT c.id, 4, concat_ws(':', p.oid, p.xmin)
        FROM chosen AS c CROSS JOIN LATERAL unnest(ARRAY['on_change_' || c.id, 'visible_' || c.id,
                                                         'unrestricted_' || c.id, 'words_' || c.id]::name[]) AS n
        JOIN pg_proc AS p ON p.proname = n
            AND p.pronamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace)
        UNION ALL
        SELECT o.id, 4, concat_ws(':', r.oid, r.relrowsecurity, a.attnum, a.attname, a.atttypid, a.atthasdef)
        FROM ours AS o JOIN pg_class AS r ON r.oid = o.vectors
        JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT o.id, 4, concat_ws(':', g.oid, g.tgenabled)
        FROM ours AS o JOIN pg_trigger AS g ON g.tgrelid = o.vectors WHERE NOT g.tgisinternal
        UNION ALL
        SELECT c.id, 4, concat_ws(':', 'postings', r.oid, a.attnum)
        FROM chosen AS c JOIN pgmeaning.word_index AS x ON x.collection_id = c.id
        JOIN pg_class AS r ON r.oid = x.postings
        JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT o.id, 4, concat_ws(':', 'primary', i.indkey::text)
        FROM ours AS o JOIN pg_index AS i ON i.indrelid = o.vectors WHERE i.indisprimary
        UNION ALL
        SELECT o.id, 4, concat_ws(':', 'view', v.oid)
        FROM ours AS o
        JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.vectors
            AND d.refobjsubid = 1 AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite AS w ON w.oid = d.objid
        JOIN pg_class AS v ON v.oid = w.ev_class AND v.relname = o.view AND v.relkind = 'v'
    )
    SELECT f.id, ARRAY[coalesce(sum(h.hash) FILTER (WHERE f.place = 1), 0)::text,
                       coalesce(sum(h.hash) FILTER (WHERE f.place = 2), 0)::text,
                       coalesce(sum(h.hash) FILTER (WHERE f.place = 3), 0)::text,
                       coalesce(sum(h.hash) FILTER (WHERE f.place = 4), 0)::text]
    FROM fact AS f CROSS JOIN LATERAL (SELECT hashtextextended(f.words, 0) AS hash) AS h
    GROUP BY f.id
$$;

-- A mark of each (collection, model), which changes with all that a sidecar's registry says of it (rows/targets.sql).
-- What depends on columns of the source changes with the collection's own marks, see _marks().
CREATE OR REPLACE FUNCTION pgmeaning._registry_marks() RETURNS TABLE (collection_id int, model text, mark bigint)
LANGUAGE sql STABLE
SET enable_seqscan = on SET enable_hashjoin = on SET enable_mergejoin = on
AS $$
    SELECT t.collection_id, t.model,
           hashtextextended(concat_ws(':', c.xmin, t.vectors::oid, t.dimensions, t.fingerprint, m.fingerprint,
                                      t.scanning, t.scan_problem, t.scan_retry_at > now(), t.scan_share,
                                      t.scan_tokens, s.id, s.state, r.relname, n.nspname, made.relname), 0) AS mark
    FROM pgmeaning.target AS t
    JOIN pgmeaning.collection AS c ON c.id = t.collection_id
    JOIN pgmeaning.model AS m ON m.name = t.model
    LEFT JOIN pgmeaning.swap AS s ON c.id IN (s.old_id, s.new_id) AND s.state IN ('filling', 'activated')
    LEFT JOIN pg_class AS r ON r.oid = c.source
    LEFT JOIN pg_namespace AS n ON n.oid = r.relnamespace
    LEFT JOIN pg_class AS made ON made.oid = t.vectors
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
        UPDATE pgmeaning.target AS k SET scan_finished_at = NULL  -- as at first: all rows are owed
        WHERE k.collection_id = c.id AND k.model = t.model;
    END IF;
    IF NOT 'signature' = ANY (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN signature bit(%s) GENERATED ALWAYS AS (binary_quantize(embedding)) '
                       'STORED', relation, t.dimensions);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.vectors AND i.indisprimary) THEN
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (%s, chunk)', relation, pgmeaning._vector_key(c));
    END IF;
    PERFORM pgmeaning._protect(c, t.vectors);
    PERFORM pgmeaning._add_words(c, t)
    WHERE c.language IS NOT NULL
      AND ((SELECT count(*) FROM pg_trigger AS g
            WHERE g.tgrelid = t.vectors AND g.tgname IN ('words', 'words_emptied') AND g.tgenabled IN ('O', 'A')) < 2
           OR NOT columns @> '{words}' OR NOT pgmeaning._gives_numbers(t.vectors) OR NOT pgmeaning._has_postings(t));
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
               WHERE t.collection_id = c.id) OR c.role <> 'active' THEN
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

-- Makes anew what is missing of a collection: functions, triggers, vector tables, policies, the view. Returns what
-- could not be mended, or null. It waits for no user's lock.
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
    DELETE FROM pgmeaning.bulk_inbox AS i WHERE i.collection_id = c.id;
    DELETE FROM pgmeaning.queue AS q WHERE q.collection_id = c.id;
END
$$;

-- What maintenance does with a collection whose marks differ from those that were recorded, or that was broken: mends
-- it, and starts a scan wherever rows may have changed unseen. Returns which marks differed, and what it may not mend.
-- SECURITY DEFINER: a sidecar may call it, and needs no right to make triggers or functions. It takes a number and no
-- more, lest a caller describe a collection that there is not.
CREATE OR REPLACE FUNCTION pgmeaning._look_after(collection_id int, OUT changed text[], OUT warning text)
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    c      pgmeaning.collection;
    before text[] := (SELECT m.marks FROM pgmeaning._marks($1) AS m);
    after  text[];
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS k WHERE k.id = $1;
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

-- The table was renamed: the policy functions contain its name, and rows may have been read by the old one until a
-- moment ago, from a table that has it now. SECURITY DEFINER: as above.
CREATE OR REPLACE FUNCTION pgmeaning._follow_rename(collection_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    c pgmeaning.collection;
BEGIN
    UPDATE pgmeaning.collection AS k SET source_name = pgmeaning._relation_name(k.source) WHERE k.id = $1
    RETURNING * INTO c;
    PERFORM pgmeaning._make_policy_functions(c), pgmeaning._start_scan(c);
END
$$;
