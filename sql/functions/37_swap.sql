-- Swaps: changing a collection's model, dimensions, columns, template or chunking while it serves. The new generation
-- is a collection of its own on the same table, with triggers and a vector table, named 'docs@2' while 'docs' serves.
-- So writes go to both, each is scanned, watched and indexed as any collection is, and making it serve is a change of
-- names in one transaction.

-- The other generation of a collection, while a swap of it is under way.
CREATE OR REPLACE FUNCTION pgmeaning._other_generation(collection_id int) RETURNS pgmeaning.collection
LANGUAGE sql STABLE
AS $$
    SELECT c FROM pgmeaning.swap AS s
    JOIN pgmeaning.collection AS c ON c.id = CASE $1 WHEN s.old_id THEN s.new_id ELSE s.old_id END
    WHERE $1 IN (s.old_id, s.new_id) AND s.state IN ('filling', 'activated')
$$;

-- The first numbers of a vector, made unit length again, in the binary format of type vector.
CREATE OR REPLACE FUNCTION pgmeaning._prefix_bytes(embedding anyelement, dimensions int) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$
    SELECT vector_send(CASE WHEN vector_dims(e.whole) = $2 THEN e.whole
                            ELSE l2_normalize(subvector(e.whole, 1, $2)) END)
    FROM (SELECT embedding::vector AS whole) AS e
$$;

-- What a sidecar needs to take vectors over from the other generation, where that has the same model's, at least as
-- long and as precise. alike: both embed the same of a row, so that a row's hash is the same for the same content.
CREATE OR REPLACE FUNCTION pgmeaning._sibling(c pgmeaning.collection, t pgmeaning.target) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_build_object('sibling', pgmeaning._relation_name(o.vectors), 'alike', (
               (k.columns, k.template, k.image, k.video) IS NOT DISTINCT FROM
               (c.columns, c.template, c.image, c.video))::text)
    FROM pgmeaning._other_generation(c.id) AS k
    JOIN pgmeaning.target AS o ON o.collection_id = k.id AND o.model = t.model AND o.fingerprint = t.fingerprint
    JOIN pg_class AS r ON r.oid = o.vectors
    WHERE o.dimensions >= t.dimensions AND (o.vector_type = 'vector' OR t.vector_type = 'halfvec')
      -- The first chunk's vector is of the row's images, too.
      AND ((k.image, k.video) IS NOT DISTINCT FROM (c.image, c.video)
           OR num_nonnulls(k.image, k.video, c.image, c.video) = 0)
$$;

-- Whether a sidecar is alive that runs a model, as far as it was told which to run.
CREATE OR REPLACE FUNCTION pgmeaning._is_attended(model text) RETURNS bool
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgmeaning.sidecars AS s WHERE s.alive AND (s.named = '{}' OR $1 = ANY (s.named)));
END
$$;

-- The command to run next, as SQL and for the shell.
CREATE OR REPLACE FUNCTION pgmeaning._next_step(call text, collection text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT format('SELECT pgmeaning.swap_%s(%L), or: pgmeaning swap %s %s', call, collection, call,
                    pgmeaning._shell_word(collection)) $$;

-- The swap of this collection that is under way, locked; an error where there is none.
CREATE OR REPLACE FUNCTION pgmeaning._open_swap(collection text) RETURNS pgmeaning.swap
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    c pgmeaning.collection;
    s pgmeaning.swap;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS k WHERE k.name = $1;  -- also one whose table was dropped
    IF NOT FOUND THEN
        c := pgmeaning._collection($1);
    END IF;
    PERFORM pgmeaning._check_manager(c);
    SELECT * INTO s FROM pgmeaning.swap AS k
    WHERE k.collection = pgmeaning._base_name($1) AND k.state IN ('filling', 'activated') FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM022', MESSAGE = format('no swap of collection %L is under way', $1),
            HINT = format('pgmeaning.explain_swap(%L, model => ...) says what one would take, '
                          'pgmeaning.swap_start(%1$L, model => ...) starts one.', $1);
    END IF;
    RETURN s;
END
$$;

-- Refuses a swap that is not at this point, 'filling' or 'activated', with the commands that fit where it is.
CREATE OR REPLACE FUNCTION pgmeaning._check_point(s pgmeaning.swap, wanted text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF s.state = 'filling' AND wanted = 'activated' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM022',
            MESSAGE = format('the new generation of collection %L does not serve yet', s.collection),
            HINT = format('To let it serve: %s. To give it up: %s', pgmeaning._next_step('activate', s.collection),
                          pgmeaning._next_step('cancel', s.collection));
    ELSIF s.state = 'activated' AND wanted = 'filling' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM022',
            MESSAGE = format('the new generation of collection %L serves already', s.collection),
            HINT = format('To go back: %s. To stay: %s', pgmeaning._next_step('rollback', s.collection),
                          pgmeaning._next_step('finish', s.collection));
    END IF;
END
$$;

-- What is to change, as swap_start() and explain_swap() were told. A text that is empty takes away what there was.
CREATE OR REPLACE FUNCTION pgmeaning._swap_changes(model text, dimensions int, vector_type text, columns text[],
    template text, image text, video text, chunking jsonb, language text) RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('model', model, 'dimensions', dimensions, 'vector_type', vector_type,
               'columns', columns, 'template', template, 'image', image, 'video', video, 'language', language))
           || CASE WHEN chunking IS NULL THEN '{}' ELSE jsonb_build_object('chunking', chunking) END
$$;

-- A collection with its changes, not checked yet: what was not named stays. New columns come without the old template,
-- which names the old ones; a new template brings its own.
CREATE OR REPLACE FUNCTION pgmeaning._changed(c pgmeaning.collection, changes jsonb) RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    c.template := CASE WHEN changes ? 'template' THEN nullif(changes ->> 'template', '')
                       WHEN NOT changes ? 'columns' THEN c.template END;
    c.image := CASE WHEN changes ? 'image' THEN nullif(changes ->> 'image', '') ELSE c.image END;
    c.video := CASE WHEN changes ? 'video' THEN nullif(changes ->> 'video', '') ELSE c.video END;
    c.language := CASE WHEN changes ? 'language' THEN nullif(changes ->> 'language', '') ELSE c.language END;
    c.chunking := CASE WHEN changes ? 'chunking' THEN nullif(nullif(changes -> 'chunking', 'null'), '{}')
                       ELSE c.chunking END;
    RETURN c;
END
$$;

-- The next generation as it would be, checked as attach() checks: it has no id yet.
CREATE OR REPLACE FUNCTION pgmeaning._next_generation(c pgmeaning.collection, changes jsonb, allow_deprecated bool,
    OUT n pgmeaning.collection, OUT dimensions int, OUT vector_type text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    t        pgmeaning.target := pgmeaning._active_target(c);
    embedder pgmeaning.model;
BEGIN
    embedder := pgmeaning._model_for_attach(coalesce(changes ->> 'model', c.model), (changes ->> 'dimensions')::int,
        coalesce(allow_deprecated, false) OR coalesce(changes ->> 'model', c.model) = c.model);
    dimensions := coalesce((changes ->> 'dimensions')::int, CASE WHEN embedder.name = c.model THEN t.dimensions END,
                           embedder.dimensions);
    vector_type := pgmeaning._check_vector_type(coalesce(changes ->> 'vector_type', t.vector_type));
    n := pgmeaning._check_attach(pgmeaning._changed(c, changes),
        CASE WHEN changes ? 'columns' THEN ARRAY(SELECT jsonb_array_elements_text(changes -> 'columns'))
             WHEN changes ->> 'template' <> '' THEN NULL ELSE c.columns::text[] END, embedder);
    n.generation := 1 + greatest(c.generation, (pgmeaning._other_generation(c.id)).generation,
        (SELECT max(s.new_generation) FROM pgmeaning.swap AS s
         WHERE s.collection = c.name AND s.state = 'finished'));
    n.name := format('%s@%s', c.name, n.generation);
    n.role := 'filling';
    PERFORM pgmeaning._check_types(n);
    IF pgmeaning._definition(n, dimensions, vector_type) = pgmeaning._definition(c, t.dimensions, t.vector_type) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('a swap of %L would change nothing', c.name),
            DETAIL = format('Its model is %s, with %s dimensions of type %s.', c.model, t.dimensions, t.vector_type),
            HINT = format('Say what is to change, such as model => ... To embed what is missing or stale: '
                          'SELECT pgmeaning.refresh(%L).', c.name);
    END IF;
END
$$;

-- Refuses a collection that is itself a generation, and one that is being swapped.
CREATE OR REPLACE FUNCTION pgmeaning._check_swappable(c pgmeaning.collection) RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    other pgmeaning.collection := pgmeaning._other_generation(c.id);
BEGIN
    IF other.id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM022',
            MESSAGE = format('a swap of collection %L is under way', pgmeaning._base_name(c.name)),
            DETAIL = format('Its other generation is %L.', other.name),
            HINT = (SELECT w.next FROM pgmeaning.swaps AS w WHERE w.collection = pgmeaning._base_name(c.name)
                    AND w.open);
    END IF;
    RETURN c;
END
$$;

-- Whether a scan is to go no further for now: it has come as far as it was to, or its model has read as much.
CREATE OR REPLACE FUNCTION pgmeaning._is_held(t pgmeaning.target) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(t.scanned >= t.scan_until, false)
           OR t.scan_tokens IS NOT NULL
              AND coalesce((SELECT u.tokens FROM pgmeaning.usage AS u
                            WHERE u.collection_id = t.collection_id AND u.model = t.model), 0) >= t.scan_tokens
$$;

-- What slows the new generation's scan down, or ends it early. until: a share of the rows, in the order of the key.
CREATE OR REPLACE FUNCTION pgmeaning._set_pace(collection_id int, until float8, rows_per_second float8, share float8,
    tokens bigint) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    source_rows bigint;
BEGIN
    IF until NOT BETWEEN 0 AND 1 OR share <= 0 OR share > 1 OR rows_per_second NOT BETWEEN 0.001 AND 1e9
       OR tokens < 0
       OR 'NaN' IN (until, share, rows_per_second) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'a swap''s pace makes no sense',
            DETAIL = 'until and share are parts of the whole, from 0 to 1; rows_per_second is from 0.001 to a '
                     'billion; max_tokens is not negative.',
            HINT = 'For example: until => 0.5, share => 0.25, rows_per_second => 200.';
    END IF;
    SELECT pgmeaning._row_count(c.source) INTO source_rows FROM pgmeaning.collection AS c WHERE c.id = $1;
    UPDATE pgmeaning.target AS t
    SET scan_until = CASE WHEN $2 < 1 THEN ceil($2 * source_rows)::bigint END, scan_rate = $3,
        scan_share = nullif($4, 1), scan_tokens = $5, scan_allowed_at = NULL
    WHERE t.collection_id = $1;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.swap_start(
    collection text, model text DEFAULT NULL, dimensions int DEFAULT NULL, vector_type text DEFAULT NULL,
    columns text[] DEFAULT NULL, template text DEFAULT NULL, image text DEFAULT NULL, video text DEFAULT NULL,
    chunking jsonb DEFAULT NULL, language text DEFAULT NULL, until float8 DEFAULT NULL,
    rows_per_second float8 DEFAULT NULL, share float8 DEFAULT NULL, max_tokens bigint DEFAULT NULL,
    price float8 DEFAULT NULL, require_evaluation bool DEFAULT false, allow_deprecated bool DEFAULT false
) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    c        pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection($1));
    changes  jsonb := pgmeaning._swap_changes(model, dimensions, vector_type, columns, template, image, video,
                                              chunking, language);
    first    int := c.id;
    trouble  text;
    next     record;
    patience text := pgmeaning._bound_patience();
    spreads  text := pgmeaning._stay_on_node();
    made     int;
BEGIN
    PERFORM FROM pgmeaning.collection AS k WHERE k.id = c.id FOR UPDATE;  -- of two that start at once one waits
    c := pgmeaning._collection($1);  -- as it is after the wait
    IF c.id <> first THEN
        RAISE EXCEPTION USING ERRCODE = 'PM015', MESSAGE = format('collection %L was replaced meanwhile', $1),
            HINT = 'Try again.';
    END IF;
    PERFORM pgmeaning._check_source(c.source), pgmeaning._check_swappable(c);
    trouble := coalesce(c.problem, pgmeaning._source_problem(c));
    IF trouble IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM010', MESSAGE = format('collection %L is broken', c.name),
            DETAIL = trouble || '.',
            HINT = 'Mend that first; pgmeaning.status shows when it works again.';
    END IF;
    next := pgmeaning._next_generation(c, changes, allow_deprecated);
    PERFORM pgmeaning._grant_access(next.n), pgmeaning._install_collection(next.n, next.dimensions, next.vector_type);
    made := (SELECT k.id FROM pgmeaning.collection AS k WHERE k.name = (next.n).name);
    INSERT INTO pgmeaning.swap (collection, old_id, new_id, old_generation, new_generation, changes, price, gate)
    VALUES (c.name, c.id, made, c.generation, (next.n).generation, changes, price,
            CASE WHEN require_evaluation THEN '{"evaluation": true}'::jsonb ELSE '{}' END);
    PERFORM pgmeaning._set_pace(made, until, rows_per_second, share, max_tokens);
    PERFORM set_config('lock_timeout', patience, true), set_config('citus.enable_ddl_propagation', spreads, true),
            pgmeaning._wake();
    RETURN (next.n).name;
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_start
    IS 'Begins to change a collection''s model or definition: a new generation fills while the present one serves.';

CREATE OR REPLACE FUNCTION pgmeaning.swap_adjust(
    collection text, until float8 DEFAULT NULL, rows_per_second float8 DEFAULT NULL, share float8 DEFAULT NULL,
    max_tokens bigint DEFAULT NULL, price float8 DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    s pgmeaning.swap := pgmeaning._open_swap($1);
BEGIN
    PERFORM pgmeaning._check_point(s, 'filling');  -- what serves has no pace
    PERFORM pgmeaning._set_pace(s.new_id, until, rows_per_second, share, max_tokens);
    UPDATE pgmeaning.swap AS k SET price = coalesce($6, k.price) WHERE k.id = s.id;
    PERFORM pgmeaning._wake();
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_adjust
    IS 'Sets how fast and how far a swap fills; what is left out has no limit any more.';

-- Drops a generation that does not serve.
CREATE OR REPLACE FUNCTION pgmeaning._drop_generation(collection_id int, call text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c        pgmeaning.collection;
    patience text := pgmeaning._bound_patience();
    spreads  text := pgmeaning._stay_on_node();
    blocking text;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS k WHERE k.id = $1 AND k.role <> 'active';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM pgmeaning._forget(c, false);
    PERFORM pgmeaning._take_back(c);
    PERFORM set_config('lock_timeout', patience, true), set_config('citus.enable_ddl_propagation', spreads, true);
EXCEPTION
    WHEN lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM015',
            MESSAGE = format('generation %L is in use by an open transaction', c.name),
            DETAIL = call || '() drops triggers and vectors, and must wait for the transactions that use them.',
            HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
    WHEN dependent_objects_still_exist THEN
        GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
        RAISE EXCEPTION USING ERRCODE = 'PM018', MESSAGE = format('other objects depend on the vectors of %L', c.name),
            DETAIL = blocking,
            HINT = format('Drop them first, or let them use %I.%I, which shows the generation that serves.',
                          c.view_schema, pgmeaning._base_name(c.name) || '_embedding');
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.swap_cancel(collection text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    s pgmeaning.swap := pgmeaning._open_swap($1);
BEGIN
    PERFORM pgmeaning._check_point(s, 'filling');
    UPDATE pgmeaning.swap AS k SET state = 'cancelled', ended_at = now() WHERE k.id = s.id;
    PERFORM pgmeaning._drop_generation(s.new_id, 'swap_cancel');
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_cancel IS 'Gives a swap up before it was activated, and drops what it embedded.';

CREATE OR REPLACE FUNCTION pgmeaning.swap_finish(collection text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    s pgmeaning.swap := pgmeaning._open_swap($1);
BEGIN
    PERFORM pgmeaning._check_point(s, 'activated');
    UPDATE pgmeaning.swap AS k SET state = 'finished', ended_at = now() WHERE k.id = s.id;
    PERFORM pgmeaning._drop_generation(s.old_id, 'swap_finish');
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_finish
    IS 'Ends a swap whose new generation serves: drops the previous one, after which there is no way back.';
