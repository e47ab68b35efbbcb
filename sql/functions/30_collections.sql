-- attach, detach, pause, resume, refresh, retry: making a table a collection, and what can be asked of one.

-- Refuses a table that cannot be attached.
CREATE OR REPLACE FUNCTION pgmeaning._check_source(source regclass) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    relation pg_class;
    kinds    constant jsonb := '{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a type", "I": "an index", "t": "a TOAST table"}';
BEGIN
    SELECT * INTO relation FROM pg_class WHERE oid = source;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = 'attach() needs a table', HINT = 'Give its name: attach(''docs'', ...).';
    ELSIF relation.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('%s is %s, which cannot be attached', source, kinds ->> relation.relkind::text),
            HINT = 'Triggers that see every change need a table: attach the table behind it.';
    ELSIF relation.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = format('%s is a temporary table, which no sidecar can see', source),
            HINT = 'Attach an ordinary table.';
    ELSIF relation.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,
                                    'pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = format('%s belongs to the system and cannot be attached', source),
            HINT = 'Attach a table of your own.';
    ELSIF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = source AND indisprimary) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = format('table %s has no primary key', source),
            DETAIL = 'A vector is tied to its row by the row''s primary key.',
            HINT = format('Add one, such as: ALTER TABLE %s ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY', source);
    ELSIF EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                  WHERE i.inhparent = source AND c.relkind = 'f') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = format('table %s has a foreign table as a partition', source),
            DETAIL = 'PostgreSQL refuses to write to such a partition where a trigger looks at the rows.',
            HINT = 'Attach its local partitions one by one.';
    ELSIF NOT has_table_privilege(source, 'SELECT') OR NOT has_table_privilege(source, 'TRIGGER') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011', MESSAGE = format('role %I may not attach %s', current_user, source),
            HINT = format('As its owner: GRANT SELECT, TRIGGER ON %s TO %I', source, current_user);
    END IF;
END
$$;

-- Checks that columns exist; returns them once each, in the order given.
CREATE OR REPLACE FUNCTION pgmeaning._check_columns(source regclass, wanted text[]) RETURNS name[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    missing text;
BEGIN
    SELECT w INTO missing FROM unnest(wanted) AS w
    WHERE w IS NULL OR NOT w = ANY (pgmeaning._column_names(source)::text[]) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004',
            MESSAGE = format('table %s has no column %s', source, coalesce(quote_ident(missing), 'NULL')),
            HINT = 'It has: ' || array_to_string(pgmeaning._column_names(source), ', ') || '.';
    END IF;
    RETURN ARRAY(SELECT w::name FROM unnest(wanted) WITH ORDINALITY AS u (w, i) GROUP BY w ORDER BY min(i));
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_media(source regclass, medium text, wanted name, model pgmeaning.model) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    type text;
BEGIN
    IF wanted IS NULL THEN
        RETURN;
    END IF;
    PERFORM pgmeaning._check_columns(source, ARRAY[wanted::text]);
    SELECT pgmeaning._type_name(atttypid, -1) INTO type FROM pg_attribute WHERE attrelid = source AND attname = wanted;
    IF NOT type = ANY (ARRAY['bytea', 'text', 'character varying', 'text[]', 'bytea[]', 'jsonb']) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004', MESSAGE = format('column %I is %s, which holds no %s', wanted, type, medium),
            HINT = 'Use bytea, or text with a data URI, path or URL; text[] or jsonb for several.';
    ELSIF NOT medium = ANY (model.modalities) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L takes no %s', model.name, medium),
            DETAIL = format('It takes: %s.', array_to_string(model.modalities, ', ')),
            HINT = 'pgmeaning.models shows what each model takes.';
    END IF;
END
$$;

-- The model for new work, and its dimensions.
CREATE OR REPLACE FUNCTION pgmeaning._model_for_attach(wanted text, dimensions int, allow_deprecated bool) RETURNS pgmeaning.model
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    model pgmeaning.model := pgmeaning._embedder(wanted);
BEGIN
    IF model.status = 'deprecated' AND NOT allow_deprecated THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L is deprecated: it is served, but not for new collections', model.name),
            HINT = format('Use %L, the default, or say allow_deprecated => true.',
                          (SELECT m.name FROM pgmeaning.model AS m WHERE m.kind = 'embedder' AND m.status = 'default'));
    END IF;
    IF dimensions IS NOT NULL AND NOT dimensions BETWEEN coalesce(model.min_dimensions, model.dimensions) AND model.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L has no vectors of %s dimensions', model.name, dimensions),
            HINT = CASE WHEN model.min_dimensions IS NULL THEN format('It gives %s.', model.dimensions)
                        ELSE format('It gives any number from %s to %s.', model.min_dimensions, model.dimensions) END;
    END IF;
    RETURN model;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_name(wanted text, view_schema name) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    gone pgmeaning.collection;
BEGIN
    IF coalesce(wanted, '') = '' OR octet_length(wanted || '_embedding') > 63 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('%L cannot be a collection''s name', wanted),
            DETAIL = 'With "_embedding" behind it, it names a view: 1 to 53 bytes.', HINT = 'Give a shorter one: attach(..., name => ''...'').';
    END IF;
    -- A collection whose table was dropped does not keep its name.
    SELECT * INTO gone FROM pgmeaning.collection AS c
    WHERE c.name = wanted AND NOT EXISTS (SELECT FROM pg_class WHERE oid = c.source);
    IF FOUND THEN
        PERFORM pgmeaning._forget(gone, false);
    END IF;
    IF EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name = wanted) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('there is already a collection %L', wanted),
            DETAIL = (SELECT format('It is of %s.', c.source_name) FROM pgmeaning.collection AS c WHERE c.name = wanted),
            HINT = 'Give another: attach(..., name => ''...''), or detach that one first.';
    ELSIF EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE n.nspname = view_schema AND c.relname = wanted || '_embedding') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('%I.%I exists already', view_schema, wanted || '_embedding'),
            DETAIL = 'The collection''s view would have this name.', HINT = 'Give the collection another: attach(..., name => ''...'').';
    ELSIF NOT has_schema_privilege(view_schema, 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011', MESSAGE = format('role %I may not create a view in schema %I', current_user, view_schema),
            HINT = format('GRANT CREATE ON SCHEMA %I TO %I', view_schema, current_user);
    END IF;
END
$$;

-- Makes the vector table of a (collection, model) and registers it.
-- The row security policy goes through a function, since a direct one would make DROP TABLE of the source fail.
CREATE OR REPLACE FUNCTION pgmeaning._make_target(c pgmeaning.collection, model text, dimensions int, state text) RETURNS regclass
LANGUAGE plpgsql
AS $$
DECLARE
    table_name text := c.name || '__' || model;
    relation   text;
    role       name;
BEGIN
    IF octet_length(table_name) > 63 OR to_regclass(format('pgmeaning_data.%I', table_name)) IS NOT NULL THEN
        table_name := format('collection_%s__%s', c.id, md5(model));
    END IF;
    relation := format('pgmeaning_data.%I', table_name);
    EXECUTE format(
        'CREATE TABLE %1$s (%2$s, chunk int NOT NULL DEFAULT 0, chunk_text text, model text NOT NULL CHECK (model = %3$L), '
        'embedding vector(%4$s) NOT NULL, signature bit(%4$s) GENERATED ALWAYS AS (binary_quantize(embedding)) STORED, '
        'content_hash bytea, embedded_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (%5$s, chunk))',
        relation, pgmeaning._vector_key_definition(c), model, dimensions,
        (SELECT string_agg(quote_ident(k), ', ' ORDER BY i) FROM unnest(c.vector_key_columns) WITH ORDINALITY AS u (k, i)));
    EXECUTE format('COMMENT ON TABLE %s IS %L', relation, format('Vectors of %s by %s', c.source_name, model));
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('CREATE POLICY source_rows ON %s FOR SELECT USING ((SELECT pgmeaning_data.%I()) OR pgmeaning_data.%I(%s))',
        relation, 'unrestricted_' || c.id, 'visible_' || c.id,
        (SELECT string_agg(quote_ident(k), ', ' ORDER BY i) FROM unnest(c.vector_key_columns) WITH ORDINALITY AS u (k, i)));
    FOREACH role IN ARRAY c.grant_to LOOP
        EXECUTE format('GRANT SELECT ON %s TO %I', relation, role);
    END LOOP;
    INSERT INTO pgmeaning.target (collection_id, model, dimensions, vectors, state)
    VALUES (c.id, model, dimensions, relation::regclass, state);
    RETURN relation::regclass;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._vector_key_definition(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(format('%I %s%s NOT NULL', u.v, u.type,
        CASE WHEN a.attcollation <> t.typcollation
             THEN (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation AS o
                   JOIN pg_namespace AS n ON n.oid = o.collnamespace WHERE o.oid = a.attcollation) END), ', ' ORDER BY u.i)
    FROM unnest(c.key_columns, c.vector_key_columns, c.key_types) WITH ORDINALITY AS u (k, v, type, i)
    JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.k AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
$$;

-- Whether the caller sees all rows of the source, and whether it sees this one: the policy of the vector tables asks.
CREATE OR REPLACE FUNCTION pgmeaning._make_policy_functions(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $make$
BEGIN
    EXECUTE format($f$CREATE OR REPLACE FUNCTION pgmeaning_data.%I() RETURNS bool LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
        AS 'SELECT NOT row_security_active(%s::oid)'$f$, 'unrestricted_' || c.id, c.source::oid);
    EXECUTE format($f$CREATE OR REPLACE FUNCTION pgmeaning_data.%1$I(%2$s) RETURNS bool LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
        AS %3$L$f$, 'visible_' || c.id,
        (SELECT string_agg(pgmeaning._type_name(to_regtype(t), -1), ', ' ORDER BY i) FROM unnest(c.key_types) WITH ORDINALITY AS u (t, i)),
        format('BEGIN RETURN EXISTS (SELECT FROM %s AS s WHERE %s); END', pgmeaning._relation_name(c.source),
            (SELECT string_agg(format('s.%I %s $%s', k, pgmeaning._equals(to_regtype(t)), i), ' AND ' ORDER BY i)
             FROM unnest(c.key_columns, c.key_types) WITH ORDINALITY AS u (k, t, i))));
END
$make$;

-- The view that users join with: it shows the active model's vectors, with their rights.
CREATE OR REPLACE FUNCTION pgmeaning._make_view(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view text := format('%I.%I', c.view_schema, c.name || '_embedding');
    role name;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW %s WITH (security_invoker = true) AS SELECT %s, v.chunk, v.chunk_text, v.model, '
        'v.embedding::vector AS embedding, v.signature::"bit" AS signature, v.content_hash, v.embedded_at FROM %s AS v',
        view, pgmeaning._column_list('v', c.vector_key_columns),
        (SELECT pgmeaning._relation_name(t.vectors) FROM pgmeaning.target AS t WHERE t.collection_id = c.id AND t.state = 'active'));
    FOREACH role IN ARRAY c.grant_to LOOP
        EXECUTE format('GRANT SELECT ON %s TO %I', view, role);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.attach(
    source regclass, columns text[] DEFAULT NULL, template text DEFAULT NULL, name text DEFAULT NULL,
    image name DEFAULT NULL, video name DEFAULT NULL, model text DEFAULT NULL, dimensions int DEFAULT NULL,
    chunking jsonb DEFAULT NULL, grant_to name[] DEFAULT NULL, allow_deprecated bool DEFAULT false
) RETURNS text
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    c         pgmeaning.collection;
    embedder  pgmeaning.model;
    embedded  name[];
    patience  text := current_setting('lock_timeout');
    member    regclass;
BEGIN
    PERFORM pgmeaning._check_source(source);
    embedder := pgmeaning._model_for_attach(attach.model, attach.dimensions, coalesce(attach.allow_deprecated, false));
    embedded := pgmeaning._check_columns(source, coalesce(attach.columns, '{}')
        || ARRAY(SELECT part ->> 1 FROM jsonb_array_elements(pgmeaning._template_parts(attach.template)) AS part
                 WHERE part ->> 1 IS NOT NULL));
    PERFORM pgmeaning._check_media(source, 'image', attach.image, embedder),
            pgmeaning._check_media(source, 'video', attach.video, embedder);
    IF embedded = '{}' AND attach.image IS NULL AND attach.video IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004', MESSAGE = format('attach() was not told what of %s to embed', source),
            DETAIL = 'Its columns: ' || array_to_string(pgmeaning._column_names(source), ', ') || '.',
            HINT = 'Say columns => ARRAY[''title'', ''body''] or template => ''{title}: {body}''.';
    ELSIF attach.chunking IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'this version does not cut documents into chunks',
            HINT = 'Leave chunking out: a text longer than the model takes is cut at its end.';
    END IF;

    c.name := coalesce(attach.name, (SELECT relname FROM pg_class WHERE oid = source));
    c.view_schema := (SELECT n.nspname FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE r.oid = source);
    PERFORM pgmeaning._check_name(c.name, c.view_schema);
    SELECT array_agg(a.attname ORDER BY u.i), array_agg(pgmeaning._type_name(a.atttypid, a.atttypmod) ORDER BY u.i),
           array_agg(CASE WHEN a.attname IN ('chunk', 'chunk_text', 'model', 'embedding', 'signature', 'content_hash', 'embedded_at')
                          THEN 'key_' || a.attname ELSE a.attname END ORDER BY u.i)
    INTO c.key_columns, c.key_types, c.vector_key_columns
    FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, i)
    JOIN pg_attribute AS a ON a.attrelid = source AND a.attnum = u.attnum
    WHERE i.indrelid = source AND i.indisprimary AND u.i <= i.indnkeyatts;

    INSERT INTO pgmeaning.collection (name, source, source_name, view_schema, key_columns, key_types, vector_key_columns,
        columns, template, image, video, chunking, grant_to, model)
    VALUES (c.name, source, pgmeaning._relation_name(source), c.view_schema, c.key_columns, c.key_types, c.vector_key_columns,
        embedded, attach.template, attach.image, attach.video, attach.chunking, coalesce(attach.grant_to, '{}'), embedder.name)
    RETURNING * INTO c;
    PERFORM pgmeaning._make_policy_functions(c),
            pgmeaning._make_target(c, embedder.name, coalesce(attach.dimensions, embedder.dimensions), 'active'),
            pgmeaning._make_view(c),
            pgmeaning._make_trigger_function(c);

    -- A trigger's lock waits behind open writers and all later ones wait behind it: so not for ever.
    IF patience = '0' THEN
        PERFORM set_config('lock_timeout', '5s', true);
    END IF;
    BEGIN
        FOR member IN SELECT f FROM pgmeaning._family(source) AS f LOOP
            PERFORM pgmeaning._add_triggers(c, member);
        END LOOP;
    EXCEPTION WHEN lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM015', MESSAGE = format('table %s is being written to by an open transaction', source),
            DETAIL = 'attach() adds triggers, which waits until the transactions that write to the table have ended.',
            HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
    END;
    PERFORM set_config('lock_timeout', patience, true), pgmeaning._wake();
    RETURN c.name;
END
$$;
COMMENT ON FUNCTION pgmeaning.attach IS 'Embeds columns of a table from now on: what is there, and every later change.';

-- Takes a collection out of the registry, with its triggers, functions and view; with its vectors unless they are kept.
CREATE OR REPLACE FUNCTION pgmeaning._forget(c pgmeaning.collection, keep_vectors bool) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT * FROM pgmeaning._triggers(c.id) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.trigger, pgmeaning._relation_name(item.relation));
    END LOOP;
    DELETE FROM pgmeaning.queue WHERE collection_id = c.id;
    IF NOT keep_vectors THEN
        EXECUTE format('DROP VIEW IF EXISTS %I.%I', c.view_schema, c.name || '_embedding');
    END IF;
    FOR item IN SELECT t.vectors FROM pgmeaning.target AS t JOIN pg_class AS r ON r.oid = t.vectors WHERE t.collection_id = c.id LOOP
        IF keep_vectors THEN
            EXECUTE format('DROP POLICY IF EXISTS source_rows ON %s', pgmeaning._relation_name(item.vectors));
        ELSE
            EXECUTE format('DROP TABLE %s', pgmeaning._relation_name(item.vectors));
        END IF;
    END LOOP;
    FOR item IN SELECT p.oid::regprocedure AS signature FROM pg_proc AS p
                WHERE p.pronamespace = 'pgmeaning_data'::regnamespace
                  AND p.proname IN ('on_change_' || c.id, 'visible_' || c.id, 'unrestricted_' || c.id) LOOP
        EXECUTE format('DROP FUNCTION %s', item.signature);
    END LOOP;
    DELETE FROM pgmeaning.collection WHERE id = c.id;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.detach(name text, keep_vectors bool DEFAULT false) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS known WHERE known.name = detach.name;
    IF NOT FOUND THEN
        PERFORM pgmeaning._collection(detach.name);
    END IF;
    PERFORM pgmeaning._forget(c, coalesce(detach.keep_vectors, false));
END
$$;
COMMENT ON FUNCTION pgmeaning.detach IS 'Stops embedding a table. Drops its vectors and view unless keep_vectors.';

CREATE OR REPLACE FUNCTION pgmeaning.pause(name text) RETURNS void
LANGUAGE sql
AS $$ UPDATE pgmeaning.collection SET state = 'paused' WHERE id = (pgmeaning._collection($1)).id $$;
COMMENT ON FUNCTION pgmeaning.pause IS 'Changes are still recorded, but nothing is embedded until resume().';

CREATE OR REPLACE FUNCTION pgmeaning.resume(name text) RETURNS void
LANGUAGE sql
AS $$ UPDATE pgmeaning.collection SET state = 'active' WHERE id = (pgmeaning._collection($1)).id;
      SELECT pgmeaning._wake() $$;

-- A note in the inbox, not an UPDATE: a caller in REPEATABLE READ must not lose against a sidecar.
CREATE OR REPLACE FUNCTION pgmeaning.refresh(name text) RETURNS void
LANGUAGE sql
AS $$ INSERT INTO pgmeaning.inbox (collection_id, note) VALUES ((pgmeaning._collection($1)).id, 'reconcile');
      SELECT pgmeaning._wake() $$;
COMMENT ON FUNCTION pgmeaning.refresh IS 'Asks for a reconcile: missing and stale vectors, vectors without a row.';

CREATE OR REPLACE FUNCTION pgmeaning.retry(name text) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._collection(retry.name);
    retried bigint;
BEGIN
    UPDATE pgmeaning.queue SET failed_at = NULL, attempts = 0, visible_at = now(), claimed_by = NULL
    WHERE collection_id = c.id AND failed_at IS NOT NULL;
    GET DIAGNOSTICS retried = ROW_COUNT;
    PERFORM pgmeaning._wake();
    RETURN retried;
END
$$;
COMMENT ON FUNCTION pgmeaning.retry IS 'Tries the failed rows of a collection once more; returns how many.';
