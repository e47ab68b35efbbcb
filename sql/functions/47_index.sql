-- Indexes on vector tables: which there are, which one is wanted, and what it costs. HNSW takes up to 2000 dimensions
-- of vector and 4000 of halfvec, so longer vectors are indexed by their signature or by their beginning. diskann
-- (pgvectorscale) and vchordrq (VectorChord) take vectors as they are, where installed.

-- The indexes on a vector table, whoever made them, that a search can use (or could, were they valid).
CREATE OR REPLACE FUNCTION pgmeaning._indexes(vectors regclass)
RETURNS TABLE (index regclass, kind text, dimensions int, valid bool)
LANGUAGE sql STABLE
AS $$
    SELECT s.index, s.kind, s.dimensions, s.valid
    FROM (SELECT i.indexrelid::regclass AS index, a.atttypmod AS dimensions, i.indisvalid AND i.indisready AS valid,
                 CASE WHEN m.amname <> 'hnsw' THEN
                          CASE WHEN o.opcname IN ('vector_cosine_ops', 'halfvec_cosine_ops')
                                    AND column_name.attname = 'embedding' THEN m.amname END
                      WHEN o.opcname = 'bit_hamming_ops' AND column_name.attname = 'signature' THEN 'signature'
                      WHEN o.opcname IN ('vector_cosine_ops', 'halfvec_cosine_ops')
                           AND column_name.attname = 'embedding' THEN 'direct'
                      WHEN o.opcname = 'halfvec_cosine_ops' AND i.indkey[0] = 0 THEN
                          CASE WHEN definition ~ 'subvector[(]embedding, 1, [0-9]+[)]' THEN 'prefix'
                               WHEN definition ~ '^[(]?[(]?embedding[)]?::' THEN 'direct' END
                 END AS kind
          FROM pg_index AS i
          JOIN pg_class AS r ON r.oid = i.indexrelid
          JOIN pg_am AS m ON m.oid = r.relam AND m.amname IN ('hnsw', 'diskann', 'vchordrq')
          CROSS JOIN LATERAL pg_get_indexdef(i.indexrelid, 1, false) AS definition
          JOIN pg_opclass AS o ON o.oid = i.indclass[0]
          JOIN pg_attribute AS a ON a.attrelid = i.indexrelid AND a.attnum = 1
          LEFT JOIN pg_attribute AS column_name
              ON column_name.attrelid = i.indrelid AND column_name.attnum = i.indkey[0]
          WHERE i.indrelid = vectors AND NOT i.indisunique AND i.indpred IS NULL) AS s
    WHERE s.kind IS NOT NULL
$$;

-- The index that searches use: of several the one that was measured, else the most exact kind. Every search asks, so
-- the likely answers come first: the one that was measured has our name, or there is none.
CREATE OR REPLACE FUNCTION pgmeaning._usable_index(t pgmeaning.target, OUT kind text, OUT dimensions int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    measured text := (SELECT x.kind FROM pgmeaning.vector_index AS x
                      WHERE x.collection_id = t.collection_id AND x.model = t.model);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.vectors AND NOT i.indisunique) THEN
        RETURN;
    END IF;
    SELECT measured, a.atttypmod INTO kind, dimensions
    FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indexrelid AND a.attnum = 1
    WHERE i.indrelid = t.vectors AND NOT i.indisunique AND i.indisvalid AND i.indisready
      AND measured IN ('signature', 'prefix', 'direct', 'diskann', 'vchordrq')
      AND pgmeaning._is_our_index(t, i.indexrelid, measured);
    IF kind IS NULL THEN
        SELECT i.kind, i.dimensions INTO kind, dimensions FROM pgmeaning._indexes(t.vectors) AS i
        WHERE i.valid
        ORDER BY i.kind = measured DESC NULLS LAST, array_position('{direct,vchordrq,diskann,signature,prefix}', i.kind)
        LIMIT 1;
    END IF;
END
$$;

-- What the nearest candidates are ordered by, where $1 is the query's vector. It must be what the index has, to the
-- letter.
CREATE OR REPLACE FUNCTION pgmeaning._nearness(kind text, dimensions int, index_dimensions int) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE kind
        WHEN 'prefix' THEN format('subvector(v.embedding, 1, %1$s)::halfvec(%1$s) <=> '
                                  'subvector($1, 1, %1$s)::halfvec(%1$s)', index_dimensions)
        WHEN 'direct' THEN CASE WHEN dimensions <= 2000 THEN 'v.embedding <=> $1'
                                ELSE format('v.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s)', dimensions) END
        WHEN 'diskann' THEN 'v.embedding <=> $1'
        WHEN 'vchordrq' THEN 'v.embedding <=> $1'
        ELSE format('v.signature <~> binary_quantize($1)::bit(%s)', dimensions) END
$$;

-- How many lists of an index of vchordrq to look into, for each level: they hold some 500 rows each. Without lists
-- there must be no number.
CREATE OR REPLACE FUNCTION pgmeaning._vchordrq_probes(definition text, to_fetch bigint) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT coalesce(string_agg(least(trim(l.size)::bigint, greatest(10, to_fetch / 20))::text, ','
                               ORDER BY l.level), '')
    FROM string_to_table(substring(definition FROM 'lists *= *\[([0-9, ]*)\]'), ',') WITH ORDINALITY AS l (size, level)
    WHERE trim(l.size) <> ''
$$;

-- Sets how far a scan of an index of another method than HNSW looks, and returns what there was before; null: it is
-- HNSW's. diskann orders by its codes alone, since searches rescore what it finds anyway.
CREATE OR REPLACE FUNCTION pgmeaning._set_scan(kind text, vectors regclass, to_fetch bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    before jsonb;
BEGIN
    IF kind = 'diskann' THEN
        before := jsonb_build_object(
            'diskann.query_search_list_size', current_setting('diskann.query_search_list_size', true),
            'diskann.query_rescore', current_setting('diskann.query_rescore', true));
        PERFORM set_config('diskann.query_search_list_size', least(10000, greatest(100, to_fetch))::text, true),
                set_config('diskann.query_rescore', '0', true);
    ELSIF kind = 'vchordrq' THEN
        before := jsonb_build_object('vchordrq.probes', current_setting('vchordrq.probes', true));
        PERFORM set_config('vchordrq.probes', pgmeaning._vchordrq_probes(
            (SELECT pg_get_indexdef(i.index) FROM pgmeaning._indexes(vectors) AS i
             WHERE i.kind = 'vchordrq' AND i.valid LIMIT 1), to_fetch), true);
    END IF;
    RETURN before;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._unset_scan(before jsonb) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    PERFORM set_config(s.key, s.value, true) FROM jsonb_each_text(before) AS s;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._index_name(t pgmeaning.target, kind text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN octet_length(r.relname || '_' || kind) <= 63 THEN r.relname || '_' || kind
                ELSE format('collection_%s_%s_%s', t.collection_id, md5(t.model), kind) END
    FROM pg_class AS r WHERE r.oid = t.vectors
$$;

-- Whether we named it, so that we may drop it.
CREATE OR REPLACE FUNCTION pgmeaning._is_our_index(t pgmeaning.target, index regclass, kind text) RETURNS bool
LANGUAGE sql STABLE
AS $$ SELECT r.relname = pgmeaning._index_name(t, kind) FROM pg_class AS r WHERE r.oid = index $$;

-- What is indexed, and how many bytes each value of it has.
CREATE OR REPLACE FUNCTION pgmeaning._indexed_value(t pgmeaning.target, kind text, index_dimensions int,
    OUT what text, OUT value int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    of_vector text := (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                       WHERE e.extname = 'vector');
    own_class text := (SELECT n.nspname FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod
                       JOIN pg_namespace AS n ON n.oid = o.opcnamespace
                       WHERE m.amname = kind AND o.opcname = 'vector_cosine_ops' LIMIT 1);
    halves    bool := pgmeaning._vector_type(t.vectors) = 'halfvec';
BEGIN
    CASE WHEN kind = 'signature' THEN
        what := format('signature %I.bit_hamming_ops', of_vector);
        value := t.dimensions / 8 + 8;
    WHEN kind = 'prefix' THEN
        what := format('(%I.subvector(embedding, 1, %s)::%1$I.halfvec(%2$s)) %1$I.halfvec_cosine_ops',
                       of_vector, index_dimensions);
        value := index_dimensions * 2 + 8;
    WHEN kind IN ('diskann', 'vchordrq') THEN
        what := format('embedding %I.%s_cosine_ops', coalesce(own_class, of_vector),
                       CASE WHEN halves THEN 'halfvec' ELSE 'vector' END);
        -- Two bits a dimension where there are few, or one; a RaBitQ code and four numbers.
        value := t.dimensions * CASE WHEN kind = 'diskann' AND t.dimensions < 900 THEN 2 ELSE 1 END / 8 + 16;
    ELSE
        what := CASE WHEN halves THEN format('embedding %I.halfvec_cosine_ops', of_vector)
                     WHEN t.dimensions <= 2000 THEN format('embedding %I.vector_cosine_ops', of_vector)
                     ELSE format('(embedding::%I.halfvec(%s)) %1$I.halfvec_cosine_ops', of_vector, t.dimensions) END;
        value := t.dimensions * CASE WHEN t.dimensions <= 2000 AND NOT halves THEN 4 ELSE 2 END + 8;
    END CASE;
END
$$;

-- About how long an HNSW index takes to build, in seconds, measured on one core of 2024: effort (ef_construction),
-- value (bytes of a vector), workers (besides the builder), fitting (how many rows' graph fits into memory).
-- A distance costs by the length of the value, and more where the graph outgrows the processor's caches; the path to a
-- row's place grows with the graph. Behind what fits into memory, rows are inserted one by one into pages.
CREATE OR REPLACE FUNCTION pgmeaning._hnsw_seconds(row_count bigint, effort int, value int, workers int,
    fitting bigint) RETURNS float8
LANGUAGE sql IMMUTABLE
AS $$
    SELECT (least(row_count, fitting) + 3.0 * greatest(0, row_count - fitting)) * effort * ln(10 + row_count)
           * (0.21 + 0.00015 * value + (0.34 + 0.000085 * value) * missed) / 1000000 / power(1 + workers, 0.9)
    FROM (SELECT 1 - least(1, 12000000.0 / greatest(1, row_count * (value + 720.0))) AS missed) AS cache
$$;

-- The statement that builds an index, about how large it gets, the memory that it is built in at best, and how long
-- that usually takes with so many workers and so much memory; trial: the same for a small copy. An element of HNSW
-- holds its value, two headers, and 32 neighbours of 6 bytes on its lowest layer; a page holds whole elements. In
-- memory a neighbour takes 16 bytes.
CREATE OR REPLACE FUNCTION pgmeaning._index_cost(t pgmeaning.target, kind text, index_dimensions int, row_count bigint,
    workers int, available bigint,
    OUT statement text, OUT bytes bigint, OUT memory bigint, OUT usual_seconds float8, OUT trial text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    indexed record := pgmeaning._indexed_value(t, kind, index_dimensions);
    -- Many signatures are equally near, and a hasty graph loses its way among them.
    effort  int := CASE kind WHEN 'signature' THEN 200 ELSE 64 END;
    lists   bigint := row_count / 500;
    how     text := format('hnsw (%s) WITH (ef_construction = %s)', indexed.what, effort);
    each    bigint := indexed.value + 720;
BEGIN
    bytes := ceil(row_count / greatest(1, floor(8120.0 / (indexed.value + 280)))) * 8192;
    memory := row_count * each;
    usual_seconds := pgmeaning._hnsw_seconds(row_count, effort, indexed.value, workers, available / each);
    IF kind = 'diskann' THEN
        how := format('diskann (%s)', indexed.what);
        bytes := ceil(row_count / greatest(1, floor(8120.0 / (indexed.value + 440)))) * 8192;
        memory := 0;
        usual_seconds := row_count * 0.0000025 * (100 + t.dimensions) * power(greatest(row_count, 1) / 20000.0, 0.2);
    ELSIF kind = 'vchordrq' THEN
        how := format('vchordrq (%s)', indexed.what) || CASE WHEN row_count >= 100000 THEN format(
            E' WITH (options = \'residual_quantization = false\nbuild.internal.lists = [%s]\n'
            'build.internal.spherical_centroids = true\n\')', lists) ELSE '' END;
        bytes := row_count * (indexed.value + t.dimensions * 4 + 40);
        memory := least(lists * 256, row_count) * t.dimensions * 4;
        usual_seconds := NULL;
    END IF;
    trial := 'CREATE INDEX ON pg_temp.pgmeaning_trial USING ' || how;
    statement := format('CREATE INDEX CONCURRENTLY %I ON %s USING %s',
        pgmeaning._index_name(t, kind), pgmeaning._relation_name(t.vectors), how);
END
$$;

-- How much longer builds took here than they usually do: those of one kind, or else of any. Of a build within a second
-- most is not the build.
CREATE OR REPLACE FUNCTION pgmeaning._build_slowness(kind text) RETURNS float8
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY s.slowness) FILTER (WHERE s.build_kind = $1),
                    percentile_cont(0.5) WITHIN GROUP (ORDER BY s.slowness), 1)
    FROM (SELECT x.build_kind, x.build_seconds / x.usual_seconds AS slowness FROM pgmeaning.vector_index AS x
          WHERE x.build_seconds > 1 AND x.usual_seconds > 0
          ORDER BY x.built_at DESC LIMIT 20) AS s
$$;

-- The workers and the memory that a build has where nobody says: those of the server's settings, and no workers where
-- pgvector builds wrongly with them.
CREATE OR REPLACE FUNCTION pgmeaning._build_means(OUT workers int, OUT memory bigint)
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN string_to_array(substring(coalesce(a.default_version, e.extversion) FROM '^[0-9.]+'), '.')::int[]
                     >= '{0,8,2}' THEN current_setting('max_parallel_maintenance_workers')::int ELSE 0 END,
           greatest(1073741824, pg_size_bytes(current_setting('maintenance_work_mem')),
                    pg_size_bytes(current_setting('shared_buffers')) / 2)
    FROM (SELECT) AS one
    LEFT JOIN pg_extension AS e ON e.extname = 'vector'
    LEFT JOIN pg_available_extensions AS a ON a.name = 'vector'
$$;

-- Whether the server has an index method.
CREATE OR REPLACE FUNCTION pgmeaning._has_method(method text) RETURNS bool
LANGUAGE sql STABLE
AS $$ SELECT EXISTS (SELECT FROM pg_am AS m WHERE m.amname = method AND m.amtype = 'i') $$;

-- The methods besides HNSW that this vector table could have, the preferred one first.
CREATE OR REPLACE FUNCTION pgmeaning._other_methods(t pgmeaning.target) RETURNS text[]
LANGUAGE sql STABLE
AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN pgmeaning._has_method('vchordrq') THEN 'vchordrq' END,
        CASE WHEN pgmeaning._has_method('diskann') AND pgmeaning._vector_type(t.vectors) = 'vector' THEN 'diskann' END],
        NULL)
$$;

-- The kind that 'auto' means here, and why. HNSW, as long as it is built in memory; beyond, it takes many times as long
-- as the others, where there are any.
CREATE OR REPLACE FUNCTION pgmeaning._choose_kind(t pgmeaning.target, row_count bigint, min_rows int,
    available bigint DEFAULT NULL, OUT kind text, OUT reason text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    present text := (pgmeaning._usable_index(t)).kind;
    room    bigint := coalesce(available, (pgmeaning._build_means()).memory);
    needed  bigint;
    others  text[];
BEGIN
    IF present IS NOT NULL THEN
        kind := present;
        reason := 'there is one';
        RETURN;
    ELSIF row_count < min_rows THEN
        kind := 'none';
        reason := format('below %s rows a scan is fast', min_rows);
        RETURN;
    ELSIF t.dimensions <= (CASE pgmeaning._vector_type(t.vectors) WHEN 'halfvec' THEN 4000 ELSE 2000 END) THEN
        kind := 'direct';
        reason := format('HNSW takes vectors of %s dimensions as they are', t.dimensions);
    ELSE
        kind := 'signature';
        reason := format('HNSW does not take vectors of %s dimensions; their signatures are %s bytes',
                         t.dimensions, t.dimensions / 8);
    END IF;
    needed := (pgmeaning._index_cost(t, kind, NULL, row_count, 0, room)).memory;
    others := pgmeaning._other_methods(t);
    IF needed > room AND others <> '{}' THEN
        kind := others[1];
        reason := format('a graph of HNSW would take %s to build, and there are %s', pg_size_pretty(needed),
                         pg_size_pretty(room));
    ELSIF needed > room THEN
        reason := format('%s; its graph outgrows the memory for builds (%s of %s), so that the build is slow', reason,
                         pg_size_pretty(room), pg_size_pretty(needed));
    END IF;
END
$$;

-- Refuses a kind that this vector table cannot have.
CREATE OR REPLACE FUNCTION pgmeaning._check_kind(t pgmeaning.target, kind text, index_dimensions int) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    smallest int := (SELECT m.min_dimensions FROM pgmeaning.model AS m WHERE m.name = t.model);
BEGIN
    IF kind IS NULL OR kind NOT IN ('auto', 'none', 'signature', 'prefix', 'direct', 'diskann', 'vchordrq') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no kind of index %L', kind),
            HINT = 'Kinds: auto, none, signature, prefix, direct, diskann, vchordrq.';
    ELSIF kind IN ('diskann', 'vchordrq') AND NOT pgmeaning._has_method(kind) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('this database has no index method %s', kind),
            HINT = format('Install the extension %s here, or choose direct or signature.',
                          CASE kind WHEN 'diskann' THEN 'vectorscale' ELSE 'vchord' END);
    ELSIF kind = 'diskann' AND pgmeaning._vector_type(t.vectors) = 'halfvec' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'diskann takes no vectors in half precision',
            DETAIL = format('The vectors of model %L are of type halfvec.', t.model),
            HINT = 'Choose direct, signature, or vchordrq where installed.';
    ELSIF kind = 'direct' AND t.dimensions > 4000 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('HNSW does not take vectors of %s dimensions directly', t.dimensions),
            DETAIL = 'Its limits are 2000 dimensions, and 4000 in half precision.',
            HINT = 'Choose signature, or prefix where the model allows it.';
    ELSIF kind = 'prefix' AND smallest IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('vectors of model %L cannot be shortened', t.model),
            DETAIL = 'It is not a Matryoshka model: it has no min_dimensions.', HINT = 'Choose signature.';
    ELSIF kind = 'prefix' AND NOT index_dimensions BETWEEN smallest AND least(t.dimensions, 4000) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('there is no prefix of %s dimensions', index_dimensions),
            HINT = format('Model %L has prefixes of %s to %s dimensions.', t.model, smallest,
                          least(t.dimensions, 4000));
    END IF;
END
$$;

-- How many dimensions a prefix has by default.
CREATE OR REPLACE FUNCTION pgmeaning._prefix_dimensions(t pgmeaning.target) RETURNS int
LANGUAGE sql STABLE
AS $$
    SELECT least(t.dimensions, greatest(m.min_dimensions, 1024)) FROM pgmeaning.model AS m WHERE m.name = t.model
$$;

-- The plan for one vector table; asked: a kind by name, or what was wanted, or the choice for this size and dimension.
CREATE OR REPLACE FUNCTION pgmeaning._index_plan(t pgmeaning.target, asked text, asked_dimensions int, min_rows int,
    workers int DEFAULT NULL, available bigint DEFAULT NULL)
RETURNS SETOF pgmeaning.index_plan
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    settled pgmeaning.vector_index;
    chosen  record;
    counted bigint := coalesce(pgmeaning._row_count(t.vectors), 0);
    wanted  text;
    size    int;
    cost    record;
    means   record := pgmeaning._build_means();
BEGIN
    means.workers := coalesce(_index_plan.workers, means.workers);
    means.memory := coalesce(_index_plan.available, means.memory);
    SELECT * INTO settled FROM pgmeaning.vector_index AS x
    WHERE x.collection_id = t.collection_id AND x.model = t.model;
    wanted := coalesce(asked, settled.wanted, 'auto');
    SELECT wanted AS kind, 'asked for' AS reason INTO chosen;
    IF wanted = 'auto' THEN
        chosen := pgmeaning._choose_kind(t, counted, min_rows, means.memory);
    END IF;
    IF chosen.kind = 'prefix' THEN
        size := coalesce(asked_dimensions, settled.wanted_dimensions,
                         (SELECT u.dimensions FROM pgmeaning._usable_index(t) AS u WHERE u.kind = 'prefix'),
                         pgmeaning._prefix_dimensions(t));
    END IF;
    -- What was settled before is not refused here: one collection must not keep a sidecar from planning for the others.
    IF asked IS NOT NULL THEN
        PERFORM pgmeaning._check_kind(t, chosen.kind, size);
    END IF;
    SELECT NULL::bigint AS bytes, NULL::bigint AS memory, NULL::float8 AS usual_seconds, NULL::text AS statement
    INTO cost;
    -- Not a join, whose condition may be looked at last; and there may be no such table any more.
    IF chosen.kind <> 'none' AND EXISTS (SELECT FROM pg_class WHERE oid = t.vectors) THEN
        SELECT * INTO cost
        FROM pgmeaning._index_cost(t, chosen.kind, size, counted, means.workers, means.memory);
    END IF;
    RETURN QUERY SELECT t.model, coalesce((pgmeaning._usable_index(t)).kind, 'none'), chosen.kind, size, counted,
        cost.bytes, cost.usual_seconds * pgmeaning._build_slowness(chosen.kind), cost.statement, chosen.reason,
        cost.memory, cost.usual_seconds;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.plan_index(collection text, kind text DEFAULT NULL, dimensions int DEFAULT NULL,
    min_rows int DEFAULT 10000)
RETURNS SETOF pgmeaning.index_plan
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
BEGIN
    RETURN QUERY SELECT p.* FROM pgmeaning.target AS t
    CROSS JOIN LATERAL pgmeaning._index_plan(t, plan_index.kind, plan_index.dimensions, min_rows) AS p
    WHERE t.collection_id = c.id ORDER BY t.model;
END
$$;
COMMENT ON FUNCTION pgmeaning.plan_index
    IS 'Which index a collection''s vectors have, which they would get, and what it costs.';

-- Sets which index is wanted from now on; a sidecar builds it.
CREATE OR REPLACE FUNCTION pgmeaning.want_index(collection text, kind text DEFAULT 'auto', dimensions int DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(want_index.collection));
BEGIN
    PERFORM pgmeaning._check_kind(t, want_index.kind, coalesce(want_index.dimensions, pgmeaning._prefix_dimensions(t)))
    FROM pgmeaning.target AS t WHERE t.collection_id = c.id;
    INSERT INTO pgmeaning.vector_index AS x (collection_id, model, wanted, wanted_dimensions)
    SELECT t.collection_id, t.model, want_index.kind, want_index.dimensions FROM pgmeaning.target AS t
    WHERE t.collection_id = c.id
    ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE
        SET wanted = excluded.wanted, wanted_dimensions = excluded.wanted_dimensions, problem = NULL, failures = 0,
            retry_at = NULL;
    PERFORM pgmeaning._wake();
END
$$;
COMMENT ON FUNCTION pgmeaning.want_index IS 'Sets the kind of index that a collection''s vectors get: '
    'auto, none, signature, prefix, direct, or, where installed, diskann or vchordrq.';

-- Asks a sidecar to measure recall.
CREATE OR REPLACE FUNCTION pgmeaning.measure_index(collection text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(measure_index.collection));
BEGIN
    INSERT INTO pgmeaning.vector_index AS x (collection_id, model, measure_requested)
    SELECT t.collection_id, t.model, true FROM pgmeaning.target AS t WHERE t.collection_id = c.id
    ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE SET measure_requested = true, failures = 0, retry_at = NULL;
    PERFORM pgmeaning._wake();
END
$$;
COMMENT ON FUNCTION pgmeaning.measure_index IS 'Asks a sidecar to measure the recall and the time of searches: '
    'see pgmeaning.index_report.';

-- An index as status shows it, and how far its building has come.
-- SECURITY DEFINER: the server shows the progress only to the role that builds.
CREATE OR REPLACE FUNCTION pgmeaning._index_state(vectors regclass, OUT state text, OUT progress float8)
LANGUAGE sql STABLE SECURITY DEFINER
AS $$
    SELECT CASE WHEN i.valid IS NULL THEN 'none' WHEN i.valid THEN i.kind WHEN b.pid IS NULL THEN 'broken ' || i.kind
                ELSE 'building ' || i.kind END,
           CASE WHEN NOT i.valid THEN coalesce(b.blocks_done / nullif(b.blocks_total, 0)::float8, 0) END
    FROM (SELECT) AS one
    LEFT JOIN LATERAL (SELECT x.kind, x.valid FROM pgmeaning._indexes(vectors) AS x
                       ORDER BY x.valid, x.kind LIMIT 1) AS i ON true
    LEFT JOIN pg_stat_progress_create_index AS b ON b.relid = vectors AND b.datname = current_database()
$$;
