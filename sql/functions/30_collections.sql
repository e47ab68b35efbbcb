-- attach, detach, pause, resume, refresh, retry: making a collection of a table, and managing it.

-- Refuses a table that cannot be attached.
CREATE OR REPLACE FUNCTION pgmeaning._check_source(source regclass) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    relation pg_class;
    kinds    constant jsonb := '{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence",
                                 "i": "an index", "I": "an index", "c": "a type", "t": "a TOAST table"}';
BEGIN
    SELECT * INTO relation FROM pg_class WHERE oid = source;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = 'attach() needs a table',
            HINT = 'Pass its name: attach(''docs'', ...).';
    ELSIF relation.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('%s is %s, which cannot be attached', source, kinds ->> relation.relkind::text),
            HINT = 'Only a table can have the triggers that see every change: attach the table behind it.';
    ELSIF relation.relpersistence = 't' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('%s is a temporary table, which no sidecar can see', source),
            HINT = 'Attach an ordinary table.';
    ELSIF relation.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,
                                    'pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('%s belongs to the system and cannot be attached', source),
            HINT = 'Attach a table of your own.';
    ELSIF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = source AND indisprimary) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = format('table %s has no primary key', source),
            DETAIL = 'A vector is tied to its row by the row''s primary key.',
            HINT = format('Add one, for example: '
                          'ALTER TABLE %s ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY', source);
    ELSIF pgmeaning._spread_problem(source) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('%s, which cannot be attached', pgmeaning._spread_problem(source)),
            DETAIL = 'Its rows are written on other nodes, too, where no trigger of this node sees them.',
            HINT = 'Attach tables that are local to a node, with one pgmeaning per node.';
    ELSIF pgmeaning._has_foreign_part(source) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003',
            MESSAGE = format('table %s has a foreign table as a partition', source),
            DETAIL = 'PostgreSQL refuses writes to such a partition where a trigger looks at the rows.',
            HINT = 'Detach that partition, or copy the rows to another table and attach that one.';
    ELSIF NOT has_table_privilege(source, 'SELECT') OR NOT has_table_privilege(source, 'TRIGGER') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011', MESSAGE = format('role %I may not attach %s', current_user, source),
            HINT = format('As its owner: GRANT SELECT, TRIGGER ON %s TO %I', source, current_user);
    ELSIF NOT has_schema_privilege('pgmeaning_data', 'CREATE')
       OR NOT has_table_privilege('pgmeaning.collection', 'INSERT') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not attach tables in this database', current_user),
            DETAIL = 'Collections belong to the role that owns the schema pgmeaning.',
            HINT = (SELECT format(CASE WHEN r.rolsuper
                                       THEN 'Call attach() as %I, or let another role than a superuser own the schema.'
                                       ELSE 'Call attach() as %I, or: GRANT %1$I TO %I' END, r.rolname, current_user)
                    FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner WHERE n.nspname = 'pgmeaning');
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

CREATE OR REPLACE FUNCTION pgmeaning._check_media(source regclass, medium text, wanted name, model pgmeaning.model)
RETURNS void
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
        RAISE EXCEPTION USING ERRCODE = 'PM004',
            MESSAGE = format('column %I is of type %s, which cannot hold a %s', wanted, type, medium),
            HINT = 'Use bytea, or text with a data URI, a path or a URL; text[] or jsonb for several.';
    ELSIF NOT medium = ANY (model.modalities) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006', MESSAGE = format('model %L takes no %s', model.name, medium),
            DETAIL = format('It takes: %s.', array_to_string(model.modalities, ', ')),
            HINT = 'pgmeaning.models shows what each model takes.';
    END IF;
END
$$;

-- The model for new work, and its dimensions.
CREATE OR REPLACE FUNCTION pgmeaning._model_for_attach(wanted text, dimensions int, allow_deprecated bool)
RETURNS pgmeaning.model
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    model pgmeaning.model := pgmeaning._embedder(wanted);
BEGIN
    IF model.status = 'deprecated' AND NOT allow_deprecated THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L is deprecated: it is still served, but not for new collections', model.name),
            HINT = format('Use %L, the default, or pass allow_deprecated => true.',
                          (SELECT m.name FROM pgmeaning.model AS m WHERE m.kind = 'embedder' AND m.status = 'default'));
    END IF;
    IF dimensions NOT BETWEEN coalesce(model.min_dimensions, model.dimensions) AND model.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'PM006',
            MESSAGE = format('model %L has no vectors of %s dimensions', model.name, dimensions),
            HINT = CASE WHEN model.min_dimensions IS NULL THEN format('It gives %s.', model.dimensions)
                        ELSE format('It gives any number from %s to %s.', model.min_dimensions, model.dimensions) END;
    END IF;
    RETURN model;
END
$$;

-- Roles that grant_to names; 'public' is everybody.
CREATE OR REPLACE FUNCTION pgmeaning._check_roles(wanted name[]) RETURNS name[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    missing text;
BEGIN
    SELECT w INTO missing FROM unnest(wanted) AS w
    WHERE w IS NULL OR w <> 'public' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = w) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('there is no role %s to grant to', coalesce(quote_ident(missing), 'NULL')),
            HINT = 'grant_to takes the names of roles, and public for everybody.';
    END IF;
    RETURN coalesce(wanted, '{}');
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._grantee(role name) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN role = 'public' THEN 'PUBLIC' ELSE quote_ident(role) END $$;

CREATE OR REPLACE FUNCTION pgmeaning._check_name(wanted text, view_schema name) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF coalesce(wanted, '') = '' OR octet_length(wanted || '_embedding') > 63 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('%L cannot be a collection''s name', wanted),
            DETAIL = 'It must have 1 to 53 bytes, since a view is named after it, with "_embedding" at the end.',
            HINT = 'Choose another one: attach(..., collection => ''...'').';
    ELSIF wanted ~ '@[0-9]+$' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('%L cannot be a collection''s name', wanted),
            DETAIL = 'A number behind an @ tells the generations of a collection that is being swapped apart.',
            HINT = 'Choose another one: attach(..., collection => ''...'').';
    END IF;
    IF EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name = wanted AND pgmeaning._is_dropped(c.source)) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002',
            MESSAGE = format('there is a collection %L, whose vectors are kept', wanted),
            DETAIL = (SELECT pgmeaning._orphan_problem(c) FROM pgmeaning.collection AS c WHERE c.name = wanted),
            HINT = format('attach() as it was attached takes them up, pgmeaning.detach(%L) drops them.', wanted);
    ELSIF EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name = wanted) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002', MESSAGE = format('there is already a collection %L', wanted),
            DETAIL = (SELECT format('It belongs to %s.', c.source_name) FROM pgmeaning.collection AS c
                      WHERE c.name = wanted),
            HINT = 'Choose another name, attach(..., collection => ''...''), or detach that collection first.';
    ELSIF pgmeaning._kept_view(wanted, view_schema) IS NULL AND (
        EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = view_schema AND c.relname = wanted || '_embedding')
        OR EXISTS (SELECT FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
                   WHERE n.nspname = view_schema AND t.typname = wanted || '_embedding')) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002',
            MESSAGE = format('%I.%I already exists', view_schema, wanted || '_embedding'),
            DETAIL = 'The collection''s view would have this name.',
            HINT = 'Choose another name for the collection: attach(..., collection => ''...'').';
    ELSIF NOT has_schema_privilege(view_schema, 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not create a view in schema %I', current_user, view_schema),
            HINT = format('GRANT CREATE ON SCHEMA %I TO %I', view_schema, current_user);
    END IF;
END
$$;

-- How vectors are kept: 'vector', four bytes a number, or 'halfvec', two. The table's own column says it.
CREATE OR REPLACE FUNCTION pgmeaning._vector_type(vectors regclass) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT t.typname::text FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = vectors AND a.attname = 'embedding' AND NOT a.attisdropped
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_vector_type(wanted text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF wanted NOT IN ('vector', 'halfvec') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no vector type %L', wanted),
            DETAIL = 'vector takes four bytes a number, halfvec two.',
            HINT = 'Write vector_type => ''vector'' or vector_type => ''halfvec''.';
    END IF;
    RETURN coalesce(wanted, 'vector');
END
$$;

-- The key columns of a collection's vector tables, as a list.
CREATE OR REPLACE FUNCTION pgmeaning._vector_key(c pgmeaning.collection) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT string_agg(quote_ident(k), ', ' ORDER BY i)
      FROM unnest(c.vector_key_columns) WITH ORDINALITY AS u (k, i) $$;

-- Row security of a vector table, as far as it is missing: a reader of vectors sees those of the rows that it sees, if
-- it may read the columns that they are made from; else there is an error. Through functions, since a policy that named
-- the source would make DROP TABLE of it fail. CASE, and not OR, has a promised order: the columns are looked at first.
CREATE OR REPLACE FUNCTION pgmeaning._protect(c pgmeaning.collection, vectors regclass) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relation text := pgmeaning._relation_name(vectors);
BEGIN
    IF NOT (SELECT r.relrowsecurity FROM pg_class AS r WHERE r.oid = vectors) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = vectors AND p.polname = 'source_rows') THEN
        EXECUTE format('CREATE POLICY source_rows ON %s FOR SELECT '
                       'USING (CASE WHEN (SELECT pgmeaning_data.%I()) THEN true ELSE pgmeaning_data.%I(%s) END)',
            relation, 'unrestricted_' || c.id, 'visible_' || c.id, pgmeaning._vector_key(c));
    END IF;
END
$$;

-- Makes the vector table of a (collection, model) and registers it.
CREATE OR REPLACE FUNCTION pgmeaning._make_target(c pgmeaning.collection, model text, dimensions int,
                                                  vector_type text DEFAULT 'vector') RETURNS regclass
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
        'CREATE TABLE %1$s (%2$s, chunk int NOT NULL DEFAULT 0, chunk_text text, '
        'model text NOT NULL CHECK (model = %3$L), '
        'embedding %6$s(%4$s) NOT NULL, signature bit(%4$s) GENERATED ALWAYS AS (binary_quantize(embedding)) STORED, '
        'content_hash bytea, embedded_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (%5$s, chunk))',
        relation, (SELECT string_agg(format('%I %s NOT NULL', k.name, k.definition), ', ')
                   FROM pgmeaning._vector_key_types(c) AS k),
        model, dimensions, pgmeaning._vector_key(c), vector_type);
    EXECUTE format('COMMENT ON TABLE %s IS %L', relation, format('Vectors of %s by %s', c.source_name, model));
    PERFORM pgmeaning._protect(c, relation::regclass);
    IF c.language IS NOT NULL THEN
        PERFORM pgmeaning._add_words(c, relation);
    END IF;
    FOREACH role IN ARRAY c.grant_to LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', relation, pgmeaning._grantee(role));
    END LOOP;
    INSERT INTO pgmeaning.target (collection_id, model, dimensions, vector_type, vectors, fingerprint)
    SELECT c.id, m.name, $3, $4, relation::regclass, m.fingerprint FROM pgmeaning.model AS m WHERE m.name = $2;
    RETURN relation::regclass;
END
$$;

-- The key columns of a vector table: their names and types, and the types with the source's collations.
CREATE OR REPLACE FUNCTION pgmeaning._vector_key_types(c pgmeaning.collection)
RETURNS TABLE (name name, type text, definition text)
LANGUAGE sql STABLE
AS $$
    SELECT u.v, u.type, concat(u.type,
        CASE WHEN a.attcollation <> t.typcollation
             THEN (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation AS o
                   JOIN pg_namespace AS n ON n.oid = o.collnamespace WHERE o.oid = a.attcollation) END)
    FROM unnest(c.key_columns, c.vector_key_columns, c.key_types) WITH ORDINALITY AS u (k, v, type, i)
    JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.k AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = pgmeaning._base_type(a.atttypid)
    ORDER BY u.i
$$;

-- Whether the caller sees all rows of the source (an error: it may not read its columns), once a statement; and whether
-- it sees a given one: the policy of the vector tables asks. The source is looked up each time: its OID differs in a
-- restored dump, and its name after a rename. Bodies are quoted with %L: between dollar quotes, a column named like the
-- tag would end the body.
CREATE OR REPLACE FUNCTION pgmeaning._make_policy_functions(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    types text := (SELECT string_agg(pgmeaning._type_name(to_regtype(t), -1), ', ' ORDER BY i)
                   FROM unnest(c.key_types) WITH ORDINALITY AS u (t, i));
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION pgmeaning_data.%I() RETURNS bool LANGUAGE sql STABLE '
                   'SET search_path = pg_catalog, pg_temp AS %L', 'unrestricted_' || c.id, format('
SELECT pgmeaning._sees_all_rows(c)
FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source WHERE c.id = %s', c.id));
    EXECUTE format('CREATE OR REPLACE FUNCTION pgmeaning_data.%I(%s) RETURNS bool LANGUAGE plpgsql STABLE '
                   'SET search_path = pg_catalog, pg_temp AS %L', 'visible_' || c.id, types,
        pgmeaning._visible_body(c));
END
$$;

-- Whether the caller sees the row of a key, $1, ...: static SQL, so that its plan is cached, while the source has the
-- name that it has now.
CREATE OR REPLACE FUNCTION pgmeaning._visible_body(c pgmeaning.collection) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    source  text := pgmeaning._relation_name(c.source);
    matches text := (SELECT string_agg(format('s.%I %s $%s', k, pgmeaning._equals(to_regtype(t)), i), ' AND '
                                       ORDER BY i)
                     FROM unnest(c.key_columns, c.key_types) WITH ORDINALITY AS u (k, t, i));
BEGIN
    RETURN format('
DECLARE
    source  text := (SELECT pgmeaning._relation_name(c.source) FROM pgmeaning.collection AS c WHERE c.id = %1$s);
    visible bool;
BEGIN
    IF source IS NULL THEN
        RETURN false;
    ELSIF source = %2$L THEN
        RETURN EXISTS (SELECT FROM %2$s AS s WHERE %3$s);
    END IF;
    EXECUTE ''SELECT EXISTS (SELECT FROM '' || source || %4$L INTO visible USING %5$s;
    RETURN visible;
END
',
        c.id, source, matches, format(' AS s WHERE %s)', matches),
        (SELECT string_agg('$' || i, ', ' ORDER BY i) FROM generate_subscripts(c.key_columns, 1) AS i));
END
$$;

-- For the view's one condition, which is looked at once a statement: whether these vectors serve, as this snapshot sees
-- it. Catalogs are always seen as they are now: so a transaction whose snapshot is older than an activation would read
-- the new generation's vectors with its own query's vector of the old one. Of two models of one length nobody would
-- notice. PostgreSQL's own code, since who uses such transactions begins again at it.
-- SECURITY DEFINER: who was granted the view alone may call it.
CREATE OR REPLACE FUNCTION pgmeaning._serves(vectors regclass) RETURNS bool
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
AS $$
BEGIN
    IF (SELECT c.role FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
        WHERE t.vectors = $1) = 'active' OR EXISTS (SELECT FROM pgmeaning.kept_vectors AS k WHERE k.vectors = $1) THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
        MESSAGE = 'the vectors of this view are of a generation that serves since after this transaction began',
        DETAIL = format('The view shows %s; embed() and search() go by the generation before, as this transaction''s '
                        'snapshot does.', $1),
        HINT = 'Begin a new transaction.';
END
$$;

-- The view that users join with: it shows the active model's vectors, with their rights.
CREATE OR REPLACE FUNCTION pgmeaning._make_view(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view    text := format('%I.%I', c.view_schema, c.name || '_embedding');
    vectors regclass := (SELECT t.vectors FROM pgmeaning.target AS t
                         WHERE t.collection_id = c.id);
    options text := (SELECT string_agg(format('%I = %L', split_part(o, '=', 1), split_part(o, '=', 2)), ', ')
                     FROM pg_class AS r CROSS JOIN unnest(r.reloptions) AS o
                     WHERE r.oid = to_regclass(view) AND r.relkind = 'v' AND o NOT LIKE 'security\_invoker=%');
    role    name;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW %s WITH (security_invoker = true) AS '
        'SELECT %s, v.chunk, %s AS chunk_text, v.model, '
        'v.embedding::%s AS embedding, v.signature::"bit" AS signature, v.content_hash, v.embedded_at FROM %5$s AS v '
        'WHERE (SELECT pgmeaning._serves(%5$L))',
        view, pgmeaning._column_list('v', c.vector_key_columns), pgmeaning._shown_text(c),
        pgmeaning._vector_type(vectors), pgmeaning._relation_name(vectors));
    IF options IS NOT NULL THEN  -- a view that is replaced would lose them
        EXECUTE format('ALTER VIEW %s SET (%s)', view, options);
    END IF;
    FOREACH role IN ARRAY c.grant_to LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', view, pgmeaning._grantee(role));
        PERFORM pgmeaning._tell_useless_grant(c, role);
    END LOOP;
END
$$;

-- A chunk's text as the view shows it: where row security holds, only while the row's content is what was embedded.
-- That is asked for each row whose text is selected, and for no other.
CREATE OR REPLACE FUNCTION pgmeaning._shown_text(c pgmeaning.collection) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN c.chunking IS NULL THEN 'v.chunk_text' ELSE format(
        'CASE WHEN v.chunk_text IS NULL OR (SELECT pgmeaning._shows_all_texts(%1$s)) THEN v.chunk_text '
        'ELSE pgmeaning._current_text(%1$s, %2$s, v.chunk_text) END', c.id,
        pgmeaning._key_json('v', c.vector_key_columns, c)) END
$$;

-- Creating a trigger waits for open transactions, and all later statements wait for it: so that is bounded. Returns
-- what lock_timeout was.
CREATE OR REPLACE FUNCTION pgmeaning._bound_patience() RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    patience text := current_setting('lock_timeout');
BEGIN
    IF patience = '0' THEN
        PERFORM set_config('lock_timeout', '5s', true);
    END IF;
    RETURN patience;
END
$$;

-- Checks what is to be embedded of the source; returns its columns of text, those of the template included.
CREATE OR REPLACE FUNCTION pgmeaning._check_content(c pgmeaning.collection, columns text[], embedder pgmeaning.model)
RETURNS name[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    embedded name[] := pgmeaning._check_columns(c.source, coalesce(columns, '{}')
        || ARRAY(SELECT part ->> 1 FROM jsonb_array_elements(pgmeaning._template_parts(c.template)) AS part
                 WHERE part ->> 1 IS NOT NULL));
    counted  int := cardinality(embedded) + num_nonnulls(c.image, c.video);
BEGIN
    PERFORM pgmeaning._check_media(c.source, 'image', c.image, embedder),
            pgmeaning._check_media(c.source, 'video', c.video, embedder);
    IF counted = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004',
            MESSAGE = format('attach() was not told what of %s to embed', c.source),
            DETAIL = 'Its columns: ' || array_to_string(pgmeaning._column_names(c.source), ', ') || '.',
            HINT = 'Pass columns => ARRAY[''title'', ''body''] or template => ''{title}: {body}''.';
    ELSIF counted > 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004', MESSAGE = format('attach() takes up to 100 columns, not %s', counted),
            HINT = 'Embed a generated column that joins several.';
    END IF;
    RETURN embedded;
END
$$;

-- The first step of attach(): what it was told, checked against the source and the model.
CREATE OR REPLACE FUNCTION pgmeaning._check_attach(c pgmeaning.collection, columns text[], embedder pgmeaning.model)
RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    c.columns := pgmeaning._check_content(c, columns, embedder);
    c.chunking := pgmeaning._check_chunking(c.chunking, c.columns, embedder);
    c.language := pgmeaning._language(c.language);
    c.model := embedder.name;
    RETURN c;
END
$$;

-- The second step of attach(): the collection's name, and the source's key, whose columns have other names in the
-- vector table where that needs them itself.
CREATE OR REPLACE FUNCTION pgmeaning._describe_collection(c pgmeaning.collection) RETURNS pgmeaning.collection
LANGUAGE plpgsql
AS $$
DECLARE
    taken constant name[] := '{chunk,chunk_text,model,embedding,signature,content_hash,embedded_at,words,'
                             'pgmeaning.distance}';  -- the last is what a search calls the distance
BEGIN
    SELECT coalesce(c.name, r.relname), n.nspname, pgmeaning._relation_name(c.source)
    INTO c.name, c.view_schema, c.source_name
    FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE r.oid = c.source;
    SELECT array_agg(a.attname ORDER BY u.i), array_agg(pgmeaning._key_type(a.atttypid) ORDER BY u.i),
           array_agg(CASE WHEN a.attname = ANY (taken) THEN pgmeaning._free_name(c.source, a.attname) ELSE a.attname END
                     ORDER BY u.i)
    INTO c.key_columns, c.key_types, c.vector_key_columns
    FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, i)
    JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attnum = u.attnum
    WHERE i.indrelid = c.source AND i.indisprimary AND u.i <= i.indnkeyatts;
    RETURN c;
END
$$;

-- Refuses columns of types whose text a user's code could make.
CREATE OR REPLACE FUNCTION pgmeaning._check_types(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_column name;
    trouble      text;
BEGIN
    SELECT a.attname, pgmeaning._type_problem(a.atttypid, a.attname = ANY (c.key_columns)) INTO found_column, trouble
    FROM pg_attribute AS a
    WHERE a.attrelid = c.source AND a.attname = ANY (c.key_columns || pgmeaning._embedded_columns(c))
      AND NOT a.attisdropped AND a.atttypid >= 16384
      AND pgmeaning._type_problem(a.atttypid, a.attname = ANY (c.key_columns)) IS NOT NULL
    ORDER BY a.attnum LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM004',
            MESSAGE = format('column %I of %s cannot be embedded, nor be a key', found_column, c.source),
            DETAIL = trouble || '.',
            HINT = 'A sidecar would run code of the type''s owner to read it. Attach a column of type text instead.';
    END IF;
END
$$;

-- key_chunk for chunk; key_key_chunk where the source has a key_chunk too.
CREATE OR REPLACE FUNCTION pgmeaning._free_name(source regclass, column_name name) RETURNS name
LANGUAGE sql STABLE
AS $$
    SELECT (repeat('key_', 1 + count(*)::int) || column_name)::name FROM pg_attribute AS other
    WHERE other.attrelid = source AND other.attname ~ ('^(key_)+' || column_name || '$')
$$;

-- The last step of attach(): registers the collection and makes all that belongs to it.
CREATE OR REPLACE FUNCTION pgmeaning._install_collection(c pgmeaning.collection, dimensions int, vector_type text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    BEGIN
        INSERT INTO pgmeaning.collection (name, source, source_name, view_schema, key_columns, key_types,
            vector_key_columns, columns, template, image, video, chunking, grant_to, always, model, language, role,
            generation, state)
        VALUES (c.name, c.source, c.source_name, c.view_schema, c.key_columns, c.key_types,
            c.vector_key_columns, c.columns, c.template, c.image, c.video, c.chunking, c.grant_to, c.always, c.model,
            c.language, coalesce(c.role, 'active'), coalesce(c.generation, 1), coalesce(c.state, 'active'))
        RETURNING * INTO c;
    EXCEPTION WHEN unique_violation OR lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002',
            MESSAGE = format('another session is making the collection %L', c.name),
            HINT = 'Choose another name, attach(..., collection => ''...''), or try again.';
    END;
    PERFORM FROM pgmeaning._ancestors(c) AS a WHERE pgmeaning._has_foreign_part(a);
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM003', MESSAGE = pgmeaning._source_problem(c),
            HINT = 'Detach the foreign partition, or copy the rows to another table and attach that one.';
    END IF;
    PERFORM pgmeaning._make_policy_functions(c);
    IF NOT pgmeaning._take_kept(c, dimensions, vector_type) THEN
        PERFORM pgmeaning._make_target(c, c.model, dimensions, vector_type);
    END IF;
    PERFORM pgmeaning._make_view(c) WHERE c.role = 'active';
    PERFORM pgmeaning._make_trigger_function(c),
            pgmeaning._watch(c);
    PERFORM pgmeaning._hand_over(c);
    -- What changes from now on is noticed, even before a sidecar has looked.
    UPDATE pgmeaning.collection AS k SET marks = m.marks FROM pgmeaning._marks(c.id) AS m WHERE k.id = c.id;
END
$$;

-- Puts triggers on every table through which rows of the source are written.
CREATE OR REPLACE FUNCTION pgmeaning._watch(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    missing record;
    watched regclass;
BEGIN
    FOR missing IN SELECT m.* FROM pgmeaning._missing_triggers(c) AS m LOOP
        watched := missing.relation;
        PERFORM pgmeaning._add_trigger(c, missing.relation, missing.trigger, missing.event, missing.level);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format(CASE WHEN c.always THEN 'role %I may not let triggers on %s fire always'
                                  ELSE 'role %I may not create a trigger on %s' END, current_user, watched),
            DETAIL = format('Rows of %s are written through it.', c.source),
            HINT = CASE WHEN c.always THEN 'It takes the rights of the table''s owner: leave out always => true.'
                        ELSE format('As its owner: GRANT TRIGGER ON %s TO %I', watched, current_user) END;
    WHEN lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM015',
            MESSAGE = format('an open transaction has written to table %s', c.source),
            DETAIL = 'attach() creates triggers, and must wait for the transactions that have written to the table.',
            HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.attach(
    source regclass, columns text[] DEFAULT NULL, template text DEFAULT NULL, collection text DEFAULT NULL,
    image name DEFAULT NULL, video name DEFAULT NULL, model text DEFAULT NULL, dimensions int DEFAULT NULL,
    vector_type text DEFAULT NULL, chunking jsonb DEFAULT NULL, language text DEFAULT NULL,
    grant_to name[] DEFAULT NULL, always bool DEFAULT false, allow_deprecated bool DEFAULT false
) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    kept     text := pgmeaning._check_vector_type(attach.vector_type);
    embedder pgmeaning.model;
    c        pgmeaning.collection;
    length   int;
    patience text;
    spreads  text;
BEGIN
    PERFORM pgmeaning._check_source(source);
    c.source := source;
    c.name := attach.collection;
    c.template := attach.template;
    c.image := attach.image;
    c.video := attach.video;
    c.chunking := attach.chunking;
    c.language := attach.language;
    c.grant_to := pgmeaning._check_roles(attach.grant_to);
    c.always := coalesce(attach.always, false);
    embedder := pgmeaning._model_for_attach(attach.model, attach.dimensions, coalesce(allow_deprecated, false));
    length := coalesce(attach.dimensions, pgmeaning._release_dimensions(embedder.name), embedder.dimensions);

    c := pgmeaning._check_attach(c, attach.columns, embedder);
    c := pgmeaning._describe_collection(c);
    PERFORM pgmeaning._check_types(c);
    patience := pgmeaning._bound_patience();
    spreads := pgmeaning._stay_on_node();
    IF NOT pgmeaning._takes_up(c, length, kept) THEN
        PERFORM pgmeaning._check_name(c.name, c.view_schema), pgmeaning._grant_access(c),
                pgmeaning._install_collection(c, length, kept);
    END IF;
    PERFORM set_config('lock_timeout', patience, true), set_config('citus.enable_ddl_propagation', spreads, true),
            pgmeaning._wake();
    RETURN c.name;
END
$$;
COMMENT ON FUNCTION pgmeaning.attach IS 'Embeds columns of a table: the rows that it has, and every later change.';

-- Takes a collection out of the registry, with its triggers, functions and view; with its vectors unless they are kept.
-- The targets come first, since a sidecar's scan holds them while it reads the tables that are locked next. What the
-- queue has of it is left to housekeeping: its rows are locked by sidecars that wait for those very tables.
CREATE OR REPLACE FUNCTION pgmeaning._forget(c pgmeaning.collection, keep_vectors bool) RETURNS void
LANGUAGE plpgsql SET client_min_messages = warning  -- not what goes along with what is dropped
AS $$
DECLARE
    item pgmeaning.target;
BEGIN
    PERFORM FROM pgmeaning.collection AS known WHERE known.id = c.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;  -- somebody else was faster
    END IF;
    PERFORM FROM pgmeaning.target AS t WHERE t.collection_id = c.id FOR UPDATE;
    -- Searches lock vectors before the table that they are of: so must this.
    FOR item IN SELECT t.* FROM pgmeaning.target AS t JOIN pg_class AS r ON r.oid = t.vectors
                WHERE t.collection_id = c.id AND NOT keep_vectors LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', pgmeaning._relation_name(item.vectors));
    END LOOP;
    -- The triggers go with their function: dropping one by one would take the tables' owner.
    EXECUTE format('DROP FUNCTION IF EXISTS pgmeaning.%I() CASCADE', 'on_change_' || c.id);
    FOR item IN SELECT t.* FROM pgmeaning.target AS t JOIN pg_class AS r ON r.oid = t.vectors
                WHERE t.collection_id = c.id LOOP
        IF keep_vectors THEN
            PERFORM pgmeaning._keep_vectors(c, item);
        ELSE
            PERFORM pgmeaning._drop_view(c, item.vectors);
            EXECUTE format('DROP TABLE %s', pgmeaning._relation_name(item.vectors));
        END IF;
    END LOOP;
    PERFORM pgmeaning._drop_policy_functions(c);
    EXECUTE format('DROP FUNCTION IF EXISTS pgmeaning_data.%I()', 'words_' || c.id);
    UPDATE pgmeaning.swap AS s SET state = 'cancelled', ended_at = now()
    WHERE c.id IN (s.old_id, s.new_id) AND s.state IN ('filling', 'activated');
    DELETE FROM pgmeaning.collection WHERE id = c.id;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._drop_policy_functions(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    signature regprocedure;
BEGIN
    FOR signature IN SELECT p.oid::regprocedure FROM pg_proc AS p
                     WHERE p.pronamespace = 'pgmeaning_data'::regnamespace
                       AND p.proname IN ('visible_' || c.id, 'unrestricted_' || c.id) LOOP
        EXECUTE format('DROP FUNCTION %s', signature);
    END LOOP;
END
$$;

-- Drops the collection's view on this vector table, also where its schema was renamed.
CREATE OR REPLACE FUNCTION pgmeaning._drop_view(c pgmeaning.collection, vectors regclass) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view regclass;
BEGIN
    FOR view IN SELECT v FROM pgmeaning._views_on(vectors, c.name) AS v LOOP
        EXECUTE format('DROP VIEW %s', pgmeaning._relation_name(view));
    END LOOP;
END
$$;

-- Refuses whoever may not change the registry, with an error that says more than one from its tables.
CREATE OR REPLACE FUNCTION pgmeaning._check_manager(c pgmeaning.collection) RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT has_table_privilege('pgmeaning.collection', 'UPDATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not manage collection %L', current_user, c.name),
            DETAIL = 'Collections belong to the role that owns the schema pgmeaning.',
            HINT = (SELECT format('Call this as %I.', pg_get_userbyid(n.nspowner)) FROM pg_namespace AS n
                    WHERE n.nspname = 'pgmeaning');
    END IF;
    RETURN c;
END
$$;

-- Refuses a generation that does not serve, which swap_...() manages.
CREATE OR REPLACE FUNCTION pgmeaning._check_serves(c pgmeaning.collection, call text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF c.role <> 'active' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM022',
            MESSAGE = format('%L is a generation of a collection that is being swapped', c.name),
            DETAIL = format('%s() takes the collection, %L.', call, pgmeaning._base_name(c.name)),
            HINT = 'To give the swap up: pgmeaning.swap_cancel(); to end it: pgmeaning.swap_finish().';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.detach(collection text, keep_vectors bool DEFAULT false) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c        pgmeaning.collection;
    patience text;
    spreads  text := pgmeaning._stay_on_node();
    blocking text;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS known WHERE known.name = detach.collection;
    IF NOT FOUND THEN
        PERFORM pgmeaning._collection(detach.collection);
    END IF;
    PERFORM pgmeaning._check_manager(c), pgmeaning._check_serves(c, 'detach');
    patience := pgmeaning._bound_patience();
    BEGIN
        -- Its other generation goes along, without its vectors.
        PERFORM pgmeaning._forget(other, false)
        FROM (SELECT (pgmeaning._other_generation(c.id)).*) AS other WHERE other.id IS NOT NULL;
        PERFORM pgmeaning._forget(c, coalesce(detach.keep_vectors, false));
    EXCEPTION
        WHEN lock_not_available THEN
            RAISE EXCEPTION USING ERRCODE = 'PM015',
                MESSAGE = format('collection %L is in use by an open transaction', c.name),
                DETAIL = 'detach() drops triggers and vectors, and must wait for the transactions that use them.',
                HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
        WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION USING ERRCODE = 'PM018',
                MESSAGE = format('other objects depend on the vectors of collection %L', c.name),
                DETAIL = blocking,
                HINT = format('Drop them first, or keep the vectors: pgmeaning.detach(%L, keep_vectors => true).',
                              c.name);
    END;
    PERFORM pgmeaning._take_back(c);
    PERFORM set_config('lock_timeout', patience, true), set_config('citus.enable_ddl_propagation', spreads, true);
END
$$;
COMMENT ON FUNCTION pgmeaning.detach
    IS 'Stops embedding a table; drops its vectors and view. With keep_vectors, attach() takes them up again.';

CREATE OR REPLACE FUNCTION pgmeaning._set_state(collection text, wanted text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection($1));
BEGIN
    UPDATE pgmeaning.collection SET state = wanted
    WHERE id IN (c.id, (pgmeaning._other_generation(c.id)).id);  -- while it is swapped, both generations
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.pause(collection text) RETURNS void
LANGUAGE sql
AS $$ SELECT pgmeaning._set_state($1, 'paused') $$;
COMMENT ON FUNCTION pgmeaning.pause IS 'Changes are still recorded, but nothing is embedded until resume().';

CREATE OR REPLACE FUNCTION pgmeaning.resume(collection text) RETURNS void
LANGUAGE sql
AS $$ SELECT pgmeaning._set_state($1, 'active');
      SELECT pgmeaning._wake() $$;
COMMENT ON FUNCTION pgmeaning.resume IS 'Goes on embedding after pause().';

-- A note in the inbox, not an UPDATE: a caller in REPEATABLE READ must not lose against a sidecar.
CREATE OR REPLACE FUNCTION pgmeaning.refresh(collection text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection($1));
BEGIN
    INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (c.id, 'reconcile');
    PERFORM pgmeaning._wake();
END
$$;
COMMENT ON FUNCTION pgmeaning.refresh IS 'Asks a sidecar to find missing and stale vectors, and vectors without a row.';

CREATE OR REPLACE FUNCTION pgmeaning.retry(collection text) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(retry.collection));
    retried bigint;
BEGIN
    -- Those that a sidecar has locked are being queued again anyway.
    UPDATE pgmeaning.queue SET failed_at = NULL, attempts = 0, died = 0, visible_at = now(),
        claimed_by = NULL
    WHERE ctid = ANY (ARRAY(SELECT q.ctid FROM pgmeaning.queue AS q
                            WHERE q.collection_id = c.id AND q.failed_at IS NOT NULL FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS retried = ROW_COUNT;
    PERFORM pgmeaning._wake();
    RETURN retried;
END
$$;
COMMENT ON FUNCTION pgmeaning.retry IS 'Tries the failed rows of a collection again; returns how many there were.';

-- Queues a row whose key may be too large for the queue's index (a third of a page, compressed). If it is, the row is
-- queued as failed, under a key that tells which row it is: it gets no vector, but it is reported and blocks nothing.
CREATE OR REPLACE FUNCTION pgmeaning._queue_large(collection_id int, model text, key jsonb, priority int,
                                                  since timestamptz) RETURNS int
LANGUAGE plpgsql
AS $$
BEGIN
    BEGIN
        INSERT INTO pgmeaning.queue AS q (collection_id, model, key, priority, owed_since) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT ON CONSTRAINT queue_pkey DO UPDATE
            SET generation = excluded.generation, visible_at = now(), attempts = 0, died = 0,
                priority = excluded.priority, claimed_by = NULL, failed_at = NULL, last_error = NULL;
    EXCEPTION WHEN program_limit_exceeded THEN
        INSERT INTO pgmeaning.queue AS q (collection_id, model, key, priority, owed_since, failed_at, last_error)
        VALUES ($1, $2, jsonb_build_object('key that begins with', left($3::text, 200), 'sha256',
                                           encode(sha256(convert_to($3::text, 'UTF8')), 'hex')),
            $4, $5, now(), format('the key is too large to be queued: %s bytes', octet_length($3::text)))
        ON CONFLICT ON CONSTRAINT queue_pkey DO UPDATE
            SET failed_at = excluded.failed_at, last_error = excluded.last_error;
    END;
    RETURN 1;
END
$$;
