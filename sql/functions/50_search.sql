-- Finding rows by meaning. All of it runs with the caller's rights and joins the source, so that neither a deleted row
-- nor one that row security hides is ever returned.

-- A key as the queue has it: {"id": 5}; a bare value will do where the key is one column. Through the columns' own types,
-- and with the settings of the triggers, so that "5" and 5, or two spellings of one moment, are one key.
CREATE OR REPLACE FUNCTION pgmeaning._full_key(c pgmeaning.collection, key jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET bytea_output = 'hex'
SET extra_float_digits = '1'
AS $$
DECLARE
    found_key jsonb := key;
BEGIN
    IF key IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(key) <> 'object' AND cardinality(c.key_columns) = 1 THEN
        found_key := jsonb_build_object(c.key_columns[1], key);
    ELSIF jsonb_typeof(key) <> 'object' OR NOT key ?& c.key_columns::text[] THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('%s is not a key of collection %L', key, c.name),
            HINT = format('Give jsonb with its key columns: %s.', array_to_string(c.key_columns, ', '));
    END IF;
    EXECUTE format('SELECT %s FROM jsonb_to_record($1) AS k (%s)',
        pgmeaning._key_json('k', c.key_columns, c.key_columns), pgmeaning._key_record(c.key_columns, c.key_types))
    INTO found_key USING found_key;
    RETURN found_key;
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('%s is not a key of collection %L', key, c.name), DETAIL = SQLERRM,
        HINT = format('Its key columns: %s.', pgmeaning._key_record(c.key_columns, c.key_types));
END
$$;

-- Whether keys depend on settings. The usual types first, since every search asks.
CREATE OR REPLACE FUNCTION pgmeaning._is_pinned(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN NOT c.key_types <@ '{smallint,integer,bigint,text,uuid,date,boolean,"character varying"}'::text[] AND pgmeaning._settings(c) <> '';
END
$$;

-- What was found, with the keys that the triggers write, whatever the caller's settings.
CREATE OR REPLACE FUNCTION pgmeaning._pinned(c pgmeaning.collection, hits pgmeaning.found[]) RETURNS pgmeaning.found[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT pgmeaning._is_pinned(c) THEN
        RETURN hits;
    END IF;
    RETURN ARRAY(SELECT ROW(pgmeaning._full_key(c, h.key), h.chunk, h.chunk_text, h.distance, h.score, h.model)::pgmeaning.found
                 FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
END
$$;

-- Refuses a collection whose key columns are no longer there: every search reads them.
CREATE OR REPLACE FUNCTION pgmeaning._check_key(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(c.key_columns) AS wanted WHERE NOT wanted = ANY (pgmeaning._column_names(c.source))) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM010', MESSAGE = format('collection %L is broken', c.name),
            DETAIL = pgmeaning._source_problem(c), HINT = 'Give the column its name back, or detach() and attach() anew.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_search(c pgmeaning.collection, t pgmeaning.target, k int, mode text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('k is %s: how many rows to return must be at least 1', coalesce(k::text, 'NULL')),
            HINT = 'Leave it out for 10.';
    ELSIF mode IS NOT NULL AND mode NOT IN ('exact', 'signature', 'index') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no search mode %L', mode), HINT = 'Modes: exact, signature, index; for a text also hybrid.';
    ELSIF NOT has_table_privilege(t.vectors, 'SELECT') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011', MESSAGE = format('role %I may not read the vectors of collection %L', current_user, c.name),
            HINT = format('GRANT SELECT ON %s TO %I; or say so at attach(..., grant_to => ...).', pgmeaning._relation_name(t.vectors), current_user);
    END IF;
    PERFORM pgmeaning._check_key(c);
END
$$;

-- A full vector of the model brought to the collection's dimensions: a Matryoshka prefix, unit length again. Any other length is
-- another model's.
CREATE OR REPLACE FUNCTION pgmeaning._fit(query_vector vector, t pgmeaning.target) RETURNS vector
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    whole int := (SELECT m.dimensions FROM pgmeaning.model AS m WHERE m.name = t.model);
BEGIN
    IF query_vector IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'the query is NULL', HINT = 'Give a text or a vector.';
    ELSIF vector_norm(query_vector) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'the query vector is all zeros, which has no direction',
            HINT = 'Cosine distance needs a vector of some length.';
    ELSIF vector_dims(query_vector) = t.dimensions THEN
        RETURN query_vector;
    ELSIF vector_dims(query_vector) <> whole THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('the query vector has %s dimensions, the collection %s', vector_dims(query_vector), t.dimensions),
            DETAIL = format('Its model, %L, gives %s.', t.model, whole),
            HINT = 'Vectors of two models cannot be compared: make the query''s with the collection''s model.';
    END IF;
    RETURN l2_normalize(subvector(query_vector, 1, t.dimensions));
END
$$;

-- How a search goes: 'exact', or by a kind of nearness that an index may have, and how many candidates that takes. When it
-- is not told: by the index there is; else exact where vectors lie inline or are few; else by signature, whose candidates'
-- vectors alone are fetched (4096 dimensions are 16 KB each, kept out of line).
CREATE OR REPLACE FUNCTION pgmeaning._way(t pgmeaning.target, mode text, k int, asked int,
    OUT kind text, OUT dimensions int, OUT indexed bool, OUT candidates bigint)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    tested pgmeaning.vector_index;
BEGIN
    kind := mode;
    IF mode IS NULL OR mode = 'index' THEN
        SELECT u.kind, u.dimensions INTO kind, dimensions FROM pgmeaning._usable_index(t) AS u;
        indexed := kind IS NOT NULL;
    END IF;
    IF kind IS NULL AND mode = 'index' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('the vectors of model %L have no index', t.model),
            HINT = 'SELECT * FROM pgmeaning.plan_index(...) says which they would get, and "pgmeaning index" builds it.';
    ELSIF kind IS NULL THEN
        kind := CASE WHEN pg_relation_size(t.vectors) < CASE WHEN t.dimensions <= 480 THEN 64 * 1024 * 1024 ELSE 256 * 1024 END
                     THEN 'exact' ELSE 'signature' END;
    ELSIF mode = 'signature' THEN
        indexed := kind = ANY (ARRAY(SELECT i.kind FROM pgmeaning._indexes(t.vectors) AS i WHERE i.valid));
    END IF;
    SELECT * INTO tested FROM pgmeaning.vector_index AS x WHERE x.collection_id = t.collection_id AND x.model = t.model
        AND x.kind = CASE WHEN indexed THEN _way.kind ELSE 'scan' END AND x.candidates IS NOT NULL;
    candidates := greatest(k, coalesce(asked, ceil(tested.candidates * greatest(1, k / 10.0)),
        CASE WHEN kind <> 'direct' AND t.dimensions < 1024 THEN greatest(400, 20::bigint * k) ELSE greatest(200, 10::bigint * k) END));
END
$$;

-- Runs a statement of both phases, with so many candidates to fetch; $1 to $4 are the query's vector, reach, candidates, k. The
-- planner would often scan the table: it does not know that vectors are kept out of line, nor what a quantised one costs. What is
-- forced looks dear to it, and would be compiled. At once: one scan of the index should give all that are wanted, and costs less than
-- an iterative one; but it does not where much of the index is dead, as after changes.
CREATE OR REPLACE FUNCTION pgmeaning._by_index(statement text, query_vector vector, reach bigint, candidates bigint, k int, at_once bool,
    OUT fit bigint, OUT hits pgmeaning.found[])
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    dimensions int := vector_dims(query_vector);  -- loads pgvector, and with it its settings; a role may not pin them above
    size       text := current_setting('hnsw.ef_search', true);
    iterative  text := current_setting('hnsw.iterative_scan', true);  -- since pgvector 0.8
    bound      text := current_setting('hnsw.max_scan_tuples', true);
    scan       text;
BEGIN
    PERFORM set_config('hnsw.ef_search', least(reach, 1000)::text, true),
            CASE WHEN iterative IS NOT NULL THEN set_config('hnsw.max_scan_tuples', least(2 * reach + 20000, 2147483647)::text, true) END;
    FOREACH scan IN ARRAY CASE WHEN at_once AND reach <= 1000 THEN '{off,relaxed_order}'::text[] ELSE '{relaxed_order}' END LOOP
        PERFORM set_config('hnsw.iterative_scan', scan, true) WHERE iterative IS NOT NULL;
        EXECUTE statement INTO fit, hits USING query_vector, reach, candidates, k;
        EXIT WHEN fit >= 0.9 * reach OR iterative IS NULL;
    END LOOP;
    PERFORM set_config('hnsw.ef_search', size, true),
            CASE WHEN iterative IS NOT NULL THEN set_config('hnsw.iterative_scan', iterative, true) END,
            CASE WHEN iterative IS NOT NULL THEN set_config('hnsw.max_scan_tuples', bound, true) END;
END
$$;

-- How many of the nearest vectors to fetch, so that enough belong to rows that may be found; null: so many that it is
-- cheaper to look at the vectors of those rows alone.
CREATE OR REPLACE FUNCTION pgmeaning._reach(c pgmeaning.collection, t pgmeaning.target, wanted bigint, condition text)
RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    may_be_found float8;
    share        float8;
BEGIN
    IF condition IS NULL AND NOT row_security_active(c.source::oid) THEN
        RETURN wanted;
    END IF;
    may_be_found := greatest(1, pgmeaning._rows_expected(c, condition));
    IF c.chunking IS NOT NULL THEN  -- a row has several vectors
        may_be_found := may_be_found * greatest(1, pgmeaning._vectors_expected(t.vectors) / greatest(1, pgmeaning._rows_expected(c, NULL)));
    END IF;
    share := least(1, may_be_found / greatest(pgmeaning._vectors_expected(t.vectors), 1));
    RETURN CASE WHEN wanted * 1.25 / share <= may_be_found / 4 THEN ceil(wanted * 1.25 / share) END;
END
$$;

-- The vectors of FROM (...) AS v that are nearest by their exact distance to $1, and all of FROM (nearest) AS v as what is found of
-- them, in order. No key has a column of that name for the distance.
CREATE OR REPLACE FUNCTION pgmeaning._exactly(c pgmeaning.collection, vectors text, bound text, OUT nearest text, OUT hits text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    keys text := pgmeaning._column_list('v', c.vector_key_columns);
BEGIN
    nearest := format('SELECT %1$s, v.chunk, v.chunk_text, v.model, (v.embedding <=> $1) + 0::float8 AS "pgmeaning.distance" FROM %2$s '
                      'ORDER BY "pgmeaning.distance", %1$s, v.chunk LIMIT %3$s', keys, vectors, bound);
    hits := format('coalesce(array_agg(ROW(%s, v.chunk, v.chunk_text, v."pgmeaning.distance", 1 - v."pgmeaning.distance", v.model)::pgmeaning.found '
                   'ORDER BY v."pgmeaning.distance", %s, v.chunk), ''{}'')', pgmeaning._key_json('v', c.vector_key_columns, c.key_columns), keys);
END
$$;

-- The k nearest in two phases: candidates by index or signature, then their exact distances. Either so many vectors are looked at that
-- enough of them should belong to rows that may be found; or the vectors of those rows alone, of which there are too many
-- to compare in full (null: there are not).
CREATE OR REPLACE FUNCTION pgmeaning._nearest_in_phases(c pgmeaning.collection, t pgmeaning.target, way record, query_vector vector, k int,
    condition text, others text) RETURNS pgmeaning.found[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
    source  text := pgmeaning._source_rows(c, condition);
    same    text := pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types);
    -- IS TRUE: not a join, which might lose the order.
    may_be  text := format('(EXISTS (SELECT FROM %s AS s WHERE %s)) IS TRUE', source, same);
    columns text := format('SELECT %s, v.chunk, v.chunk_text, v.model, v.embedding', pgmeaning._column_list('v', c.vector_key_columns));
    near    text := format('%s FROM %s AS v WHERE true%s ORDER BY %s LIMIT $2', columns, vectors, others,
                        pgmeaning._nearness(way.kind, t.dimensions, way.dimensions));
    reach   bigint := pgmeaning._reach(c, t, way.candidates, condition);
    ranked  record;
    found   record;
BEGIN
    IF reach = way.candidates THEN
        -- Hardly a row may not be found, so the nearest few alone are looked up, of which half may be gone.
        ranked := pgmeaning._exactly(c, 'near AS v', '2 * $4::bigint');
        found := pgmeaning._by_index(format('WITH near AS MATERIALIZED (%s) '
            'SELECT (SELECT count(*) FROM near), %s FROM (SELECT v.* FROM (%s) AS v WHERE %s LIMIT $4) AS v',
            near, ranked.hits, ranked.nearest, may_be), query_vector, reach, way.candidates, k, true);
        IF cardinality(found.hits) = k AND found.fit >= reach / 2 THEN
            RETURN found.hits;
        END IF;
    ELSIF reach IS NOT NULL THEN
        ranked := pgmeaning._exactly(c, 'fit AS v', '$4');
        found := pgmeaning._by_index(format('WITH fit AS MATERIALIZED (SELECT v.* FROM (%s) AS v WHERE %s LIMIT $3) '
            'SELECT (SELECT count(*) FROM fit), %s FROM (%s) AS v',
            near, may_be, ranked.hits, ranked.nearest), query_vector, reach, way.candidates, k, false);
        IF found.fit = way.candidates THEN
            RETURN found.hits;
        END IF;
    END IF;
    IF t.dimensions <= 480 THEN
        RETURN NULL;
    END IF;
    -- More than of all vectors: a filter may shut out the neighbours, and signatures tell far ones apart less well. An index must
    -- not be used for this order, as it would end before rows enough were found: hence the zero.
    ranked := pgmeaning._exactly(c, format('(%s FROM %s AS v JOIN %s AS s ON %s WHERE true%s ORDER BY (%s) + 0::float8 LIMIT $2) AS v',
        columns, vectors, source, same, others, pgmeaning._nearness('signature', t.dimensions, NULL)), '$3');
    EXECUTE format('SELECT %s AS hits FROM (%s) AS v', ranked.hits, ranked.nearest)
    INTO found USING query_vector, greatest(3 * way.candidates, 1000), k;
    RETURN found.hits;
END
$$;

-- The k nearest vectors to one that fits, each with its row (and chunk). To be put into a variable before it is unnested: the planner
-- runs a stable function in unnest() to see how many there are, and so would search twice.
CREATE OR REPLACE FUNCTION pgmeaning._nearest(c pgmeaning.collection, t pgmeaning.target, query_vector vector, k int,
    condition text, mode text, candidates int, leave_out jsonb[]) RETURNS pgmeaning.found[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    others text := CASE WHEN coalesce(leave_out, '{}') = '{}' THEN '' ELSE format(' AND %s <> ALL (%L::jsonb[])',
                       pgmeaning._key_json('v', c.vector_key_columns, c.key_columns), leave_out) END;
    way    record := pgmeaning._way(t, mode, k, candidates);
    hits   pgmeaning.found[];
    ranked record;
BEGIN
    IF way.kind <> 'exact' THEN
        hits := pgmeaning._nearest_in_phases(c, t, way, query_vector, k, condition, others);
    END IF;
    IF hits IS NULL THEN
        ranked := pgmeaning._exactly(c, format('%s AS v JOIN %s AS s ON %s WHERE true%s', pgmeaning._relation_name(t.vectors),
            pgmeaning._source_rows(c, condition), pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types), others), '$2');
        EXECUTE format('SELECT %s FROM (%s) AS v', ranked.hits, ranked.nearest)
        INTO hits USING query_vector, k;
    END IF;
    RETURN hits;
END
$$;

-- The k nearest rows, each by its nearest chunk; or, not grouped, the k nearest chunks. One row may have the nearest chunks by the
-- hundred: so those that are found already are left out when more are looked for, until there are k rows or no more.
CREATE OR REPLACE FUNCTION pgmeaning._nearest_rows(c pgmeaning.collection, t pgmeaning.target, query_vector vector, k int,
    condition text, mode text, candidates int, leave_out jsonb[], grouped bool) RETURNS pgmeaning.found[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    wanted int := least(2 * k::bigint, 2147483647);
    hits   pgmeaning.found[];
    rows   pgmeaning.found[] := '{}';
    known  jsonb[] := coalesce(leave_out, '{}');
BEGIN
    IF c.chunking IS NULL OR NOT coalesce(grouped, true) THEN
        RETURN pgmeaning._nearest(c, t, query_vector, k, condition, mode, candidates, known);
    END IF;
    LOOP
        hits := pgmeaning._nearest(c, t, query_vector, wanted, condition, mode, candidates, known);
        rows := rows || ARRAY(SELECT b::pgmeaning.found FROM (SELECT DISTINCT ON (h.key) h.* FROM unnest(hits) AS h ORDER BY h.key, h.distance, h.chunk) AS b);
        EXIT WHEN cardinality(rows) >= k OR cardinality(hits) < wanted;
        known := coalesce(leave_out, '{}') || ARRAY(SELECT r.key FROM unnest(rows) AS r);
        wanted := least(4 * wanted::bigint, 2147483647);
    END LOOP;
    RETURN ARRAY(SELECT r::pgmeaning.found FROM (SELECT r.* FROM unnest(rows) AS r ORDER BY r.distance, r.key LIMIT k) AS r);
END
$$;

-- For the test of an index: a vector as text, as a session has it that does not know pgvector's types.
CREATE OR REPLACE FUNCTION pgmeaning._nearest_to_text(c pgmeaning.collection, t pgmeaning.target, query_vector text, k int, mode text,
    candidates int, leave_out text)
RETURNS TABLE (distance float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    hits pgmeaning.found[];
BEGIN
    hits := pgmeaning._nearest(c, t, query_vector::vector, k, NULL, mode, candidates, ARRAY[leave_out::jsonb]);
    RETURN QUERY SELECT n.distance FROM unnest(hits) AS n;
END
$$;

-- A vector of either precision in full, for who has no type of that name in its search path.
CREATE OR REPLACE FUNCTION pgmeaning._whole(embedding anyelement) RETURNS vector
LANGUAGE sql IMMUTABLE
AS $$ SELECT embedding::vector $$;

-- By the operator that searches of these vectors go by, which rounds the query where they are of half precision.
CREATE OR REPLACE FUNCTION pgmeaning._farthest(query_vector text, vectors anyarray) RETURNS float8
LANGUAGE sql IMMUTABLE
AS $$ SELECT max((v <=> query_vector::vector) + 0::float8) FROM unnest(vectors) AS v $$;

CREATE OR REPLACE FUNCTION pgmeaning._active_target(c pgmeaning.collection) RETURNS pgmeaning.target
LANGUAGE sql STABLE
AS $$ SELECT t FROM pgmeaning.target AS t WHERE t.collection_id = c.id AND t.state = 'active' $$;

CREATE OR REPLACE FUNCTION pgmeaning.nearest(name text, query_vector vector, k int DEFAULT 10, filter text DEFAULT NULL,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, filter_params anycompatiblearray DEFAULT NULL::text[], "group" bool DEFAULT true)
RETURNS TABLE (key jsonb, chunk int, chunk_text text, distance float8, score float8, model text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(name);
    t pgmeaning.target := pgmeaning._active_target(c);
    hits pgmeaning.found[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, mode);
    hits := pgmeaning._pinned(c, pgmeaning._nearest_rows(c, t, pgmeaning._fit(query_vector, t), k,
        pgmeaning._condition(c, filter, filter_params::text[]), mode, candidates, NULL, "group"));
    RETURN QUERY SELECT * FROM unnest(hits);
END
$$;
COMMENT ON FUNCTION pgmeaning.nearest IS 'The k rows of a collection nearest to a vector.';

-- The k nearest rows to each of several queries, whose vectors are asked for together; query_index is a query's place in the array, from 1.
CREATE OR REPLACE FUNCTION pgmeaning.search_many(name text, queries text[], k int DEFAULT 10, filter text DEFAULT NULL,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, timeout interval DEFAULT '10 seconds',
    filter_params anycompatiblearray DEFAULT NULL::text[], weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL,
    "group" bool DEFAULT true)
RETURNS TABLE (query_index int, key jsonb, chunk int, chunk_text text, distance float8, score float8, model text, vector_rank int, text_rank int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c         pgmeaning.collection := pgmeaning._collection(search_many.name);
    t         pgmeaning.target := pgmeaning._active_target(c);
    condition text;
    pinned    bool := pgmeaning._is_pinned(c);
    vectors   vector[];
    hits      pgmeaning.found[];
BEGIN
    queries := ARRAY(SELECT unnest(queries));  -- counted from 1
    -- Before the model is asked: what is wrong with the call should not take a model to find out.
    PERFORM pgmeaning._check_search(c, t, k, nullif(mode, 'hybrid'));
    PERFORM pgmeaning._check_hybrid(c, weights, rank_constant) WHERE mode = 'hybrid';
    condition := pgmeaning._condition(c, filter, filter_params::text[]);
    vectors := pgmeaning._vectors(c.model, queries, true, coalesce(timeout, '10 seconds'));
    FOR place IN 1..cardinality(queries) LOOP
        IF mode = 'hybrid' THEN
            RETURN QUERY SELECT place, CASE WHEN pinned THEN pgmeaning._full_key(c, h.key) ELSE h.key END, h.chunk, h.chunk_text,
                h.distance, h.score, h.model, h.vector_rank, h.text_rank FROM pgmeaning._hybrid(c, t, queries[place], pgmeaning._fit(vectors[place], t), k,
                condition, candidates, weights, rank_constant, "group") AS h;
        ELSE
            hits := pgmeaning._nearest_rows(c, t, pgmeaning._fit(vectors[place], t), k, condition, mode, candidates, NULL, "group");
            RETURN QUERY SELECT place, CASE WHEN pinned THEN pgmeaning._full_key(c, n.key) ELSE n.key END, n.chunk, n.chunk_text, n.distance, n.score, n.model, n.ordinality::int, NULL::int
            FROM unnest(hits) WITH ORDINALITY AS n;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION pgmeaning.search_many IS 'search() for several queries at the cost of one call of the model.';

-- rerank: so many are found, and a reranker judges them; the score is then its own. "group": a long document is found once, by its
-- best chunk; false: each of its chunks counts. The name is a word of SQL, and quoted.
CREATE OR REPLACE FUNCTION pgmeaning.search(collection text, query text, k int DEFAULT 10, filter text DEFAULT NULL,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, timeout interval DEFAULT '10 seconds',
    filter_params anycompatiblearray DEFAULT NULL::text[], rerank int DEFAULT NULL, reranker text DEFAULT NULL,
    weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL, "group" bool DEFAULT true)
RETURNS TABLE (key jsonb, chunk int, chunk_text text, distance float8, score float8, model text, vector_rank int, text_rank int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + coalesce(timeout, '10 seconds');
    judge    text;
    hits     pgmeaning.ranked[];
BEGIN
    IF rerank IS NULL THEN
        RETURN QUERY SELECT m.key, m.chunk, m.chunk_text, m.distance, m.score, m.model, m.vector_rank, m.text_rank
        FROM pgmeaning.search_many(collection, ARRAY[query], k, filter, mode, candidates, timeout, filter_params, weights, rank_constant,
                                   "group") AS m;
        RETURN;
    ELSIF rerank < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('rerank is %s: how many rows to judge must be at least 1', rerank),
            HINT = 'Leave it out to judge none.';
    END IF;
    PERFORM pgmeaning._check_search(c, pgmeaning._active_target(c), k, nullif(mode, 'hybrid')) FROM pgmeaning._collection(collection) AS c;
    judge := pgmeaning._reranker(reranker);
    hits := ARRAY(SELECT ROW(m.key, m.chunk, m.chunk_text, m.distance, m.score, m.model, m.vector_rank, m.text_rank)::pgmeaning.ranked
        FROM pgmeaning.search_many(collection, ARRAY[query], greatest(k, rerank), filter, mode, candidates, timeout, filter_params,
                                   weights, rank_constant, "group") AS m);
    RETURN QUERY SELECT h.key, h.chunk, h.chunk_text, h.distance, r.score, h.model, h.vector_rank, h.text_rank
    FROM pgmeaning.rerank(query, pgmeaning._texts(pgmeaning._collection(collection), ARRAY(SELECT x.key FROM unnest(hits) AS x),
                          ARRAY(SELECT x.chunk_text FROM unnest(hits) AS x)), judge, greatest(deadline - clock_timestamp(), '1 millisecond')) AS r
    CROSS JOIN LATERAL (SELECT (hits[r.index]).*) AS h ORDER BY r.score DESC, r.index LIMIT k;
END
$$;
COMMENT ON FUNCTION pgmeaning.search (text, text, int, text, text, int, interval, anycompatiblearray, int, text, float8[], float8, bool)
    IS 'The k rows of a collection nearest in meaning to a text.';

-- The rows themselves, typed: search(NULL::docs, 'how to cook rice'). Two functions, since PostgreSQL makes out the type of
-- the result only where no argument of a polymorphic type is left out, as filter_params often is.
CREATE OR REPLACE FUNCTION pgmeaning.search(source anyelement, query text, filter text, filter_params anycompatiblearray, k int DEFAULT 10,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, timeout interval DEFAULT '10 seconds',
    rerank int DEFAULT NULL, reranker text DEFAULT NULL, weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL)
RETURNS TABLE (hit anyelement, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    relation oid := (SELECT typrelid FROM pg_type WHERE oid = pg_typeof(source));
    names    text[] := ARRAY(SELECT c.name FROM pgmeaning.collection AS c WHERE c.source = relation ORDER BY c.name);
    c        pgmeaning.collection;
BEGIN
    IF cardinality(names) <> 1 THEN
        RAISE EXCEPTION USING ERRCODE = CASE WHEN names = '{}' THEN 'PM001' ELSE 'PM016' END,
            MESSAGE = CASE WHEN names = '{}' THEN format('%s is not the row type of an attached table', pg_typeof(source))
                           ELSE format('%s has %s collections: %s', pg_typeof(source), cardinality(names), array_to_string(names, ', ')) END,
            HINT = CASE WHEN names = '{}' THEN 'Write search(NULL::docs, ...) with a table that was given to attach(), or name the collection.'
                        ELSE format('Name the one you mean: pgmeaning.search(%L, ...).', names[1]) END;
    END IF;
    c := pgmeaning._collection(names[1]);
    PERFORM pgmeaning._check_key(c);  -- all else is checked by the search below
    RETURN QUERY EXECUTE format(  -- the alias is of a name that no column has, which would be taken for it
        'SELECT "the row", f.distance, f.score FROM pgmeaning.search($1::text, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) WITH ORDINALITY AS f '
        'CROSS JOIN LATERAL jsonb_to_record(f.key) AS k (%s) JOIN %s AS "the row" ON %s ORDER BY f.ordinality',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._relation_name(c.source),
        pgmeaning._key_match('the row', c.key_columns, 'k', c.key_columns, c.key_types))
    USING c.name, query, k, filter, mode, candidates, timeout, filter_params::text[],
        rerank, reranker, weights, rank_constant;
END
$$;
COMMENT ON FUNCTION pgmeaning.search (anyelement, text, text, anycompatiblearray, int, text, int, interval, int, text, float8[], float8)
    IS 'The k rows of a table nearest in meaning to a text, as rows of that table; with parameters of the filter.';

CREATE OR REPLACE FUNCTION pgmeaning.search(source anyelement, query text, k int DEFAULT 10, filter text DEFAULT NULL,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, timeout interval DEFAULT '10 seconds',
    rerank int DEFAULT NULL, reranker text DEFAULT NULL, weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL)
RETURNS TABLE (hit anyelement, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY SELECT * FROM pgmeaning.search(source, query, filter, NULL::text[], k, mode, candidates, timeout,
        rerank, reranker, weights, rank_constant);
END
$$;
COMMENT ON FUNCTION pgmeaning.search (anyelement, text, int, text, text, int, interval, int, text, float8[], float8)
    IS 'The k rows of a table nearest in meaning to a text, as rows of that table.';

CREATE OR REPLACE FUNCTION pgmeaning.similar(name text, key jsonb, k int DEFAULT 10, filter text DEFAULT NULL,
    mode text DEFAULT NULL, candidates int DEFAULT NULL, filter_params anycompatiblearray DEFAULT NULL::text[], "group" bool DEFAULT true)
RETURNS SETOF pgmeaning.found
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c      pgmeaning.collection := pgmeaning._collection(name);
    t      pgmeaning.target := pgmeaning._active_target(c);
    wanted jsonb := pgmeaning._full_key(c, $2);
    own    vector;
    itself jsonb;
    condition text;
    hits   pgmeaning.found[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, mode);
    condition := pgmeaning._condition(c, filter, filter_params::text[]);
    EXECUTE format('SELECT avg(v.embedding), %s FROM jsonb_to_record($1) AS k (%s) JOIN %s AS v ON %s '
                   'WHERE EXISTS (SELECT FROM %s AS s WHERE %s) GROUP BY 2',
        pgmeaning._key_json('v', c.vector_key_columns, c.key_columns), pgmeaning._key_record(c.key_columns, c.key_types),
        pgmeaning._relation_name(t.vectors), pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
        pgmeaning._relation_name(c.source), pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types))
    INTO own, itself USING wanted;
    IF own IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L has no vector for row %s', name, coalesce(wanted::text, 'NULL')),
            HINT = 'There is no such row, or nothing to embed in it, or it is still owed: CALL pgmeaning.wait_for(...).';
    END IF;
    hits := pgmeaning._pinned(c, pgmeaning._nearest_rows(c, t, own, k, condition, mode, candidates, ARRAY[itself], "group"));
    RETURN QUERY SELECT * FROM unnest(hits);
END
$$;
COMMENT ON FUNCTION pgmeaning.similar IS 'More like this row, by the mean of its chunks: the k nearest others.';
