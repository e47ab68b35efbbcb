-- Finding rows by meaning. All of it runs with the caller's rights and joins the source, so that neither a deleted row
-- nor one that row security hides is ever returned.

-- A key as the queue has it: {"id": 5}; a bare value will do where the key is one column. Through the columns' own
-- types, and with the settings of the triggers, so that "5" and 5, or two spellings of one moment, are one key.
CREATE OR REPLACE FUNCTION pgmeaning._full_key(c pgmeaning.collection, key jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1'
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
            HINT = format('Pass jsonb with its key columns: %s.', array_to_string(c.key_columns, ', '));
    END IF;
    EXECUTE format('SELECT %s FROM jsonb_to_record($1) AS k (%s)',
        pgmeaning._key_json('k', c.key_columns, c), pgmeaning._key_record(c.key_columns, c.key_types))
    INTO found_key USING found_key;
    RETURN found_key;
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('%s is not a key of collection %L', key, c.name),
        DETAIL = SQLERRM, HINT = format('Its key columns: %s.', pgmeaning._key_record(c.key_columns, c.key_types));
END
$$;

-- Several keys like that, in their order.
CREATE OR REPLACE FUNCTION pgmeaning._full_keys(c pgmeaning.collection, keys jsonb[]) RETURNS jsonb[]
LANGUAGE sql STABLE
AS $$
    SELECT ARRAY(SELECT pgmeaning._full_key(c, u.key) FROM unnest(keys) WITH ORDINALITY AS u (key, place)
                 ORDER BY u.place)
$$;

-- Whether keys depend on settings. The usual types first, since every search asks.
CREATE OR REPLACE FUNCTION pgmeaning._is_pinned(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN NOT c.key_types <@ '{smallint,integer,bigint,text,uuid,date,boolean,"character varying"}'::text[]
        AND pgmeaning._settings(c) <> '';
END
$$;

-- What was found, with the keys that the triggers write, whatever the caller's settings.
CREATE OR REPLACE FUNCTION pgmeaning._pinned(c pgmeaning.collection, hits pgmeaning.search_hit[])
RETURNS pgmeaning.search_hit[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT pgmeaning._is_pinned(c) THEN
        RETURN hits;
    END IF;
    RETURN ARRAY(SELECT ROW(pgmeaning._full_key(c, h.key), h.chunk, h.chunk_text, h.distance, h.score,
                            h.model)::pgmeaning.search_hit
                 FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
END
$$;

-- The same for what was ranked, without asking whether it must be.
CREATE OR REPLACE FUNCTION pgmeaning._with_full_keys(c pgmeaning.collection, hits pgmeaning.ranked_hit[])
RETURNS pgmeaning.ranked_hit[]
LANGUAGE sql STABLE
AS $$
    SELECT ARRAY(SELECT ROW(pgmeaning._full_key(c, h.key), h.chunk, h.chunk_text, h.distance, h.score, h.model,
                            h.vector_rank, h.text_rank)::pgmeaning.ranked_hit
                 FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality)
$$;

-- Refuses a collection whose key columns are no longer there: every search reads them.
CREATE OR REPLACE FUNCTION pgmeaning._check_key(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(c.key_columns) AS wanted
               WHERE NOT wanted = ANY (pgmeaning._column_names(c.source))) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM010', MESSAGE = format('collection %L is broken', c.name),
            DETAIL = pgmeaning._source_problem(c),
            HINT = 'Give the column its name back, or detach() the collection and attach() the table again.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_search(c pgmeaning.collection, t pgmeaning.target, k bigint, mode text)
RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('k is %s, but the number of rows to return must be at least 1', coalesce(k::text, 'NULL')),
            HINT = 'Leave it out for 10 rows.';
    ELSIF mode NOT IN ('exact', 'signature', 'index') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no search mode %L', mode),
            HINT = 'Modes: exact, signature, index; for a text also hybrid.';
    ELSIF NOT has_table_privilege(t.vectors, 'SELECT') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not read the vectors of collection %L', current_user, c.name),
            HINT = format('GRANT SELECT ON %s TO %I, or name the role when attaching: attach(..., grant_to => ...).',
                          pgmeaning._relation_name(t.vectors), current_user);
    END IF;
    PERFORM pgmeaning._check_readable(c);
    PERFORM pgmeaning._check_key(c);
END
$$;

-- Where a page begins, checked: behind the last row of the page before.
CREATE OR REPLACE FUNCTION pgmeaning._cursor(c pgmeaning.collection, mode text, grouped bool,
    after pgmeaning.search_cursor) RETURNS pgmeaning.search_cursor
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    problem text := CASE
        WHEN mode = 'hybrid' THEN 'hybrid search is not in the order of the distance'
        WHEN c.chunking IS NOT NULL AND NOT grouped THEN 'chunks of one row cannot be told apart by its key' END;
BEGIN
    IF (after).distance IS NULL AND (after).key IS NULL THEN
        RETURN after;
    ELSIF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'this search has no pages by after', DETAIL = problem || '.',
            HINT = 'Ask for a larger k, and leave out the rows that were shown.';
    ELSIF (after).distance IS NULL OR (after).key IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('after is %s', after),
            HINT = 'Pass distance and key of the last row that was shown: after => (0.31, ''{"id": 5}'').';
    END IF;
    RETURN ROW((after).distance, pgmeaning._full_key(c, (after).key))::pgmeaning.search_cursor;
END
$$;

-- What a search was asked for. Numbers are bounded, as products of larger ones would overflow.
CREATE OR REPLACE FUNCTION pgmeaning._search_options(c pgmeaning.collection, k bigint, filter text,
    filter_params text[], filter_path text, mode text, candidates bigint, grouped bool, after pgmeaning.search_cursor)
RETURNS pgmeaning.search_options
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    o pgmeaning.search_options;
BEGIN
    o.after := pgmeaning._cursor(c, mode, coalesce(grouped, true), after);
    o.k := least(k, 2147483647);
    o.path := CASE WHEN filter IS NOT NULL THEN pgmeaning._filter_path(filter_path) END;
    o.condition := pgmeaning._condition(c, filter, filter_params, o.path);
    o.mode := mode;
    o.candidates := CASE WHEN candidates IS NOT NULL THEN least(candidates, 2147483647) END;  -- null stays null
    o.grouped := coalesce(grouped, true);
    RETURN o;
END
$$;

-- A full vector of the model brought to the collection's dimensions: a Matryoshka prefix, of unit length again. Any
-- other length is another model's.
CREATE OR REPLACE FUNCTION pgmeaning._to_dimensions(query_vector vector, t pgmeaning.target) RETURNS vector
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    whole int := (SELECT m.dimensions FROM pgmeaning.model AS m WHERE m.name = t.model);
BEGIN
    IF query_vector IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'the query is NULL', HINT = 'Pass a text or a vector.';
    ELSIF vector_norm(query_vector) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'the query vector is all zeros, which has no direction',
            HINT = 'Cosine distance needs a vector of some length.';
    ELSIF vector_dims(query_vector) = t.dimensions THEN
        RETURN query_vector;
    ELSIF vector_dims(query_vector) <> whole THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('the query vector has %s dimensions, the collection %s',
                             vector_dims(query_vector), t.dimensions),
            DETAIL = format('Its model, %L, gives %s.', t.model, whole),
            HINT = 'Vectors of two models cannot be compared: embed the query with the collection''s model.';
    END IF;
    RETURN l2_normalize(subvector(query_vector, 1, t.dimensions));
END
$$;

-- How to search: 'exact', or by a kind of nearness that an index may have, and with how many candidates. By default by
-- the index there is; else exact where vectors lie inline or are few; else by signature, whose
-- candidates' vectors alone are fetched (4096 dimensions are 16 KB each, kept out of line).
CREATE OR REPLACE FUNCTION pgmeaning._search_plan(t pgmeaning.target, mode text, k bigint, asked bigint,
    OUT kind text, OUT dimensions int, OUT indexed bool, OUT candidates bigint)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    inline_bytes constant bigint := CASE WHEN t.dimensions <= 480 THEN 64 * 1024 * 1024 ELSE 256 * 1024 END;
    measured     pgmeaning.vector_index;
BEGIN
    kind := mode;
    IF mode IS NULL OR mode = 'index' THEN
        SELECT u.kind, u.dimensions INTO kind, dimensions FROM pgmeaning._usable_index(t) AS u;
        indexed := kind IS NOT NULL;
    END IF;
    IF kind IS NULL AND mode = 'index' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('the vectors of model %L have no index', t.model),
            HINT = 'pgmeaning.plan_index(...) shows which one they would get; "pgmeaning index" builds it.';
    ELSIF kind IS NULL THEN
        kind := CASE WHEN pg_relation_size(t.vectors) < inline_bytes THEN 'exact' ELSE 'signature' END;
    ELSIF mode = 'signature' THEN
        indexed := kind = ANY (ARRAY(SELECT i.kind FROM pgmeaning._indexes(t.vectors) AS i WHERE i.valid));
    END IF;
    SELECT * INTO measured FROM pgmeaning.vector_index AS x
    WHERE x.collection_id = t.collection_id AND x.model = t.model
      AND x.kind = CASE WHEN indexed THEN _search_plan.kind ELSE 'scan' END AND x.candidates IS NOT NULL;
    candidates := greatest(k, coalesce(asked, ceil(measured.candidates * greatest(1, k / 10.0)),
        CASE WHEN kind <> 'direct' AND t.dimensions < 1024 THEN greatest(400, 20 * k) ELSE greatest(200, 10 * k) END));
END
$$;

-- Runs a statement of both phases, with so many candidates to fetch; $1 to $4 are the query's vector, how many to
-- fetch, candidates, k. The planner would often scan the table: it does not know that vectors are kept out of line, nor
-- what a quantised one costs. What is forced looks expensive to it, and would be JIT-compiled. At once: one scan of the
-- index should give all that are wanted, and costs less than an iterative one; but it does not where much of the index
-- is dead, as after changes. before: what _set_scan() returned.
CREATE OR REPLACE FUNCTION pgmeaning._by_index(statement text, query_vector vector, to_fetch bigint, candidates bigint,
    o pgmeaning.search_options, at_once bool, before jsonb,
    OUT fit bigint, OUT tied bool, OUT hits pgmeaning.search_hit[])
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    -- Loads pgvector, and with it its settings; a role may not pin them above.
    dimensions int := vector_dims(query_vector);
    size       text := current_setting('hnsw.ef_search', true);
    iterative  text := current_setting('hnsw.iterative_scan', true);  -- since pgvector 0.8
    bound      text := current_setting('hnsw.max_scan_tuples', true);
    scans      text[] := CASE WHEN at_once AND to_fetch <= 1000 THEN '{off,relaxed_order}' ELSE '{relaxed_order}' END;
    scan       text;
    own_path   text := current_setting('search_path');
BEGIN
    PERFORM set_config('hnsw.ef_search', least(to_fetch, 1000)::text, true);
    PERFORM set_config('hnsw.max_scan_tuples', least(2 * to_fetch + 20000, 2147483647)::text, true)
    WHERE iterative IS NOT NULL;
    FOREACH scan IN ARRAY scans LOOP
        PERFORM set_config('hnsw.iterative_scan', scan, true) WHERE iterative IS NOT NULL;
        PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
        EXECUTE statement INTO fit, tied, hits USING query_vector, to_fetch, candidates, o.k;
        PERFORM set_config('search_path', own_path, true);
        EXIT WHEN fit >= 0.9 * to_fetch OR iterative IS NULL;
    END LOOP;
    IF before IS NOT NULL THEN
        PERFORM pgmeaning._unset_scan(before);
    END IF;
    PERFORM set_config('hnsw.ef_search', size, true);
    PERFORM set_config('hnsw.iterative_scan', iterative, true), set_config('hnsw.max_scan_tuples', bound, true)
    WHERE iterative IS NOT NULL;
END
$$;

-- How many of the nearest vectors to fetch, so that enough belong to rows that may be found; null: so many that it is
-- cheaper to look at the vectors of those rows alone.
CREATE OR REPLACE FUNCTION pgmeaning._rows_to_fetch(c pgmeaning.collection, t pgmeaning.target, wanted bigint,
    o pgmeaning.search_options) RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors      float8;
    may_be_found float8;
    share        float8;
BEGIN
    IF o.condition IS NULL AND NOT row_security_active(c.source::oid) THEN
        RETURN wanted;
    END IF;
    vectors := greatest(1, pgmeaning._vectors_expected(t.vectors));
    may_be_found := greatest(1, pgmeaning._rows_expected(c, o.condition, o.path));
    IF c.chunking IS NOT NULL THEN  -- a row has several vectors
        may_be_found := may_be_found * greatest(1, vectors / greatest(1, pgmeaning._rows_expected(c, NULL, NULL)));
    END IF;
    share := least(1, may_be_found / vectors);
    RETURN CASE WHEN wanted * 1.25 / share <= may_be_found / 4 THEN ceil(wanted * 1.25 / share) END;
END
$$;

-- The vectors of FROM (...) AS v that are nearest by their exact distance to $1, and all of FROM (nearest) AS v as what
-- is found of them, in order; more: columns besides. No key column has the distance's name: attach() would have given
-- it another.
CREATE OR REPLACE FUNCTION pgmeaning._exact_distance_sql(c pgmeaning.collection, vectors text, bound text, more text,
    OUT nearest text, OUT hits text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    keys text := pgmeaning._column_list('v', c.vector_key_columns);
BEGIN
    nearest := format('SELECT %1$s, v.chunk, v.chunk_text, v.model%4$s, '
                      '(v.embedding <=> $1) + 0::float8 AS "pgmeaning.distance" FROM %2$s '
                      'ORDER BY "pgmeaning.distance", %1$s, v.chunk LIMIT %3$s', keys, vectors, bound, more);
    hits := format('coalesce(array_agg(ROW(%s, v.chunk, v.chunk_text, v."pgmeaning.distance", '
                   '1 - v."pgmeaning.distance", v.model)::pgmeaning.search_hit '
                   'ORDER BY v."pgmeaning.distance", %s, v.chunk), ''{}'')',
                   pgmeaning._key_json('v', c.vector_key_columns, c), keys);
END
$$;

-- A condition on vectors (v) that belong to none of these rows, behind another condition.
CREATE OR REPLACE FUNCTION pgmeaning._and_not_of(c pgmeaning.collection, rows jsonb[]) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN coalesce(rows, '{}') = '{}' THEN ''
                ELSE format(' AND %s <> ALL (%L::jsonb[])',
                            pgmeaning._key_json('v', c.vector_key_columns, c), rows) END
$$;

-- The statement of both phases: the candidates of FROM near, or of those the ones that fit, and the k of them that are
-- nearest by their exact distance. Twice as many are ordered, since up to half of them may be gone; may_be says which
-- are not. Tied: equally near vectors are among the nearest and among the farthest candidates, so that an index, which
-- knows no keys, may have left out some that come before.
CREATE OR REPLACE FUNCTION pgmeaning._phases_sql(c pgmeaning.collection, near text, fit text, may_be text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    exact record := pgmeaning._exact_distance_sql(c, 'fit AS v', '2 * $4', ', v."pgmeaning.nearness"');
BEGIN
    RETURN format('WITH near AS MATERIALIZED (%s), fit AS MATERIALIZED (%s), nearest AS MATERIALIZED (%s) '
        'SELECT (SELECT count(*) FROM fit), '
        '(SELECT count(*) > count(DISTINCT n."pgmeaning.distance") FROM nearest AS n '
        'WHERE n."pgmeaning.nearness" = (SELECT max(f."pgmeaning.nearness") FROM fit AS f)), '
        '%s FROM (SELECT v.* FROM nearest AS v WHERE %s LIMIT $4) AS v', near, fit, exact.nearest, exact.hits, may_be);
END
$$;

-- The k nearest in two phases: candidates by index or signature, then their exact distances. Either so many vectors are
-- looked at that enough of them should belong to rows that may be found; or the vectors of those rows alone, of which
-- there are too many to compare in full (null: there are not). Equally near ones go by their keys, so that a larger k
-- extends what a smaller one finds.
CREATE OR REPLACE FUNCTION pgmeaning._nearest_in_phases(c pgmeaning.collection, t pgmeaning.target, plan record,
    query_vector vector, o pgmeaning.search_options) RETURNS pgmeaning.search_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors  text := pgmeaning._relation_name(t.vectors);
    source   text := pgmeaning._source_rows(c, o.condition);
    others   text := pgmeaning._and_not_of(c, o.leave_out);
    same     text := pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types);
    -- IS TRUE: not a join, which might lose the order.
    may_be   text := format('(EXISTS (SELECT FROM %s AS s WHERE %s)) IS TRUE', source, same);
    keys     text := pgmeaning._column_list('v', c.vector_key_columns) || ', v.chunk';
    columns  text := format('SELECT %s, v.chunk_text, v.model, v.embedding', keys);
    nearness text := pgmeaning._nearness(plan.kind, t.dimensions, plan.dimensions);
    near     text := format('%s, (%s)::float8 AS "pgmeaning.nearness" FROM %s AS v WHERE true%s '
                            'ORDER BY %2$s%5$s LIMIT $2', columns, nearness, vectors, others,
                            CASE WHEN plan.indexed THEN '' ELSE ', ' || keys END);
    to_fetch bigint := pgmeaning._rows_to_fetch(c, t, plan.candidates, o);
    method   text := CASE WHEN plan.indexed THEN plan.kind END;
    exact    record;
    answer   record;
BEGIN
    IF to_fetch = plan.candidates THEN
        -- Nearly all rows may be found, so only the nearest few are looked up.
        answer := pgmeaning._by_index(pgmeaning._phases_sql(c, near, 'SELECT v.* FROM near AS v', may_be),
            query_vector, to_fetch, plan.candidates, o, true, pgmeaning._set_scan(method, t.vectors, to_fetch));
        IF cardinality(answer.hits) = o.k AND answer.fit >= to_fetch / 2 AND NOT (plan.indexed AND answer.tied) THEN
            RETURN answer.hits;
        END IF;
    ELSIF to_fetch IS NOT NULL THEN
        answer := pgmeaning._by_index(pgmeaning._phases_sql(c, near,
            format('SELECT v.* FROM near AS v WHERE %s LIMIT $3', may_be), 'true'),
            query_vector, to_fetch, plan.candidates, o, false, pgmeaning._set_scan(method, t.vectors, to_fetch));
        IF answer.fit = plan.candidates AND NOT (plan.indexed AND answer.tied) THEN
            RETURN answer.hits;
        END IF;
    END IF;
    IF t.dimensions <= 480 THEN
        RETURN NULL;
    END IF;
    -- More than of all vectors: a filter may shut out the neighbours, and signatures tell far ones apart less well. An
    -- index must not be used for this order, as it would end before rows enough were found: hence the zero.
    exact := pgmeaning._exact_distance_sql(c, format(
        '(%s FROM %s AS v JOIN %s AS s ON %s WHERE true%s ORDER BY (%s) + 0::float8, %s LIMIT $2) AS v',
        columns, vectors, source, same, others, pgmeaning._nearness('signature', t.dimensions, NULL), keys), '$3', '');
    PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
    EXECUTE format('SELECT %s AS hits FROM (%s) AS v', exact.hits, exact.nearest)
    INTO answer USING query_vector, greatest(3 * plan.candidates, 1000), o.k;
    RETURN answer.hits;
END
$$;

-- The k nearest vectors to one of the right length, each with its row (and chunk). To be put into a variable before it
-- is unnested: the planner runs a stable function in unnest() to see how many there are, and so would search twice.
CREATE OR REPLACE FUNCTION pgmeaning._nearest(c pgmeaning.collection, t pgmeaning.target, query_vector vector,
    o pgmeaning.search_options) RETURNS pgmeaning.search_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    plan  record := pgmeaning._search_plan(t, o.mode, o.k, o.candidates);
    hits  pgmeaning.search_hit[];
    exact record;
BEGIN
    IF plan.kind <> 'exact' THEN
        hits := pgmeaning._nearest_in_phases(c, t, plan, query_vector, o);
    END IF;
    IF hits IS NULL THEN
        exact := pgmeaning._exact_distance_sql(c, format('%s AS v JOIN %s AS s ON %s WHERE true%s',
            pgmeaning._relation_name(t.vectors), pgmeaning._source_rows(c, o.condition),
            pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types),
            pgmeaning._and_not_of(c, o.leave_out)), '$2', '');
        PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
        EXECUTE format('SELECT %s FROM (%s) AS v', exact.hits, exact.nearest) INTO hits USING query_vector, o.k;
    END IF;
    RETURN hits;
END
$$;

-- The k nearest rows, each by its nearest chunk; or, not grouped, the k nearest chunks. One row may have the nearest
-- chunks by the hundred: so those that are found already are left out when more are looked for, until there are k rows
-- or no more.
CREATE OR REPLACE FUNCTION pgmeaning._nearest_rows(c pgmeaning.collection, t pgmeaning.target, query_vector vector,
    o pgmeaning.search_options) RETURNS pgmeaning.search_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    more pgmeaning.search_options := o;
    hits pgmeaning.search_hit[];
    rows pgmeaning.search_hit[] := '{}';
BEGIN
    IF c.chunking IS NULL OR NOT o.grouped THEN
        RETURN pgmeaning._nearest(c, t, query_vector, o);
    END IF;
    more.k := least(2 * o.k, 2147483647);
    LOOP
        hits := pgmeaning._nearest(c, t, query_vector, more);
        rows := rows || ARRAY(
            SELECT ROW(b.key, b.chunk, b.chunk_text, b.distance, b.score, b.model)::pgmeaning.search_hit
            FROM (SELECT DISTINCT ON (h.key) h.* FROM unnest(hits) WITH ORDINALITY AS h
                  ORDER BY h.key, h.ordinality) AS b ORDER BY b.ordinality);
        EXIT WHEN cardinality(rows) >= o.k OR cardinality(hits) < more.k;
        more.leave_out := coalesce(o.leave_out, '{}') || ARRAY(SELECT r.key FROM unnest(rows) AS r);
        more.k := least(4 * more.k, 2147483647);
    END LOOP;
    -- Those found later are not equally near, or behind in the order of the key.
    RETURN ARRAY(SELECT ROW(r.key, r.chunk, r.chunk_text, r.distance, r.score, r.model)::pgmeaning.search_hit
                 FROM unnest(rows) WITH ORDINALITY AS r ORDER BY r.distance, r.ordinality LIMIT o.k);
END
$$;

-- What was found, without the texts of rows whose content is another by now: see 46_rights.sql. In one statement, since
-- every search of documents that are cut asks.
CREATE OR REPLACE FUNCTION pgmeaning._without_old_texts(c pgmeaning.collection, t pgmeaning.target,
    hits pgmeaning.search_hit[]) RETURNS pgmeaning.search_hit[]
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C'
AS $$
DECLARE
    current pgmeaning.search_hit[];
BEGIN
    IF c.chunking IS NULL OR hits = '{}' THEN
        RETURN hits;
    END IF;
    EXECUTE format('SELECT array_agg(ROW(h.key, h.chunk, '
                   'CASE WHEN h.chunk_text IS NOT NULL AND %s THEN h.chunk_text END, h.distance, h.score, h.model)'
                   '::pgmeaning.search_hit ORDER BY h.ordinality) '
                   'FROM unnest($1) WITH ORDINALITY AS h CROSS JOIN LATERAL jsonb_to_record(h.key) AS k (%s)',
                   pgmeaning._is_current(c, t), pgmeaning._key_record(c.key_columns, c.key_types))
    INTO current USING hits;
    RETURN current;
EXCEPTION WHEN OTHERS THEN
    RETURN ARRAY(SELECT ROW(h.key, h.chunk, NULL, h.distance, h.score, h.model)::pgmeaning.search_hit
                 FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
END
$$;

-- The k nearest rows behind a cursor, and how many there are before them. Ever more are found until there are enough:
-- candidates by signature are not in the order of the distance that the cursor has. The cursor's own row says where in
-- a tie it stands; if it is gone, its key does.
CREATE OR REPLACE FUNCTION pgmeaning._page(c pgmeaning.collection, t pgmeaning.target, query_vector vector,
    o pgmeaning.search_options, OUT hits pgmeaning.search_hit[], OUT before bigint)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    more      pgmeaning.search_options := o;
    statement text := format('WITH last_key AS MATERIALIZED (SELECT * FROM jsonb_to_record(($2).key) AS k (%1$s)), '
        'hit AS MATERIALIZED (SELECT h.* FROM unnest($1) WITH ORDINALITY AS h), '
        'here AS MATERIALIZED (SELECT h.ordinality FROM hit AS h '
        'WHERE h.distance = ($2).distance AND h.key = ($2).key), '
        'later AS (SELECT h.* FROM hit AS h CROSS JOIN LATERAL jsonb_to_record(h.key) AS s (%1$s) '
        'WHERE h.distance > ($2).distance OR h.distance = ($2).distance AND '
        'CASE WHEN EXISTS (SELECT FROM here) THEN h.ordinality > (SELECT n.ordinality FROM here AS n) ELSE %2$s END '
        'ORDER BY h.ordinality LIMIT $3) '
        'SELECT coalesce(array_agg(ROW(h.key, h.chunk, h.chunk_text, h.distance, h.score, h.model)'
        '::pgmeaning.search_hit ORDER BY h.ordinality), ''{}''), min(h.ordinality) - 1 FROM later AS h',
        pgmeaning._key_record(c.key_columns, c.key_types),
        pgmeaning._behind('s', c.key_columns, c, 'last_key'));
    all_hits  pgmeaning.search_hit[];
BEGIN
    IF (o.after).key IS NULL THEN
        hits := pgmeaning._without_old_texts(c, t, pgmeaning._nearest_rows(c, t, query_vector, o));
        before := 0;
        RETURN;
    END IF;
    LOOP
        more.k := least(4 * more.k, 2147483647);
        all_hits := pgmeaning._pinned(c, pgmeaning._nearest_rows(c, t, query_vector, more));
        EXECUTE statement INTO hits, before USING all_hits, o.after, o.k;
        EXIT WHEN cardinality(hits) = o.k OR cardinality(all_hits) < more.k;
    END LOOP;
    hits := pgmeaning._without_old_texts(c, t, hits);
END
$$;

-- For measuring recall: a vector as text, as a session has it that does not know pgvector's types. A sidecar that may
-- not read the source takes the vectors for its rows, so none is found to be gone.
CREATE OR REPLACE FUNCTION pgmeaning._nearest_to_text(c pgmeaning.collection, t pgmeaning.target, query_vector text,
    o pgmeaning.search_options) RETURNS TABLE (distance float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    hits pgmeaning.search_hit[];
BEGIN
    IF NOT (SELECT bool_and(has_column_privilege(c.source, k, 'SELECT')) FROM unnest(c.key_columns) AS k) THEN
        o.leave_out := ARRAY(SELECT (SELECT jsonb_object_agg(u.v, l.key -> u.k)
                                     FROM unnest(c.key_columns, c.vector_key_columns) AS u (k, v))
                             FROM unnest(o.leave_out) AS l (key));
        c.source := t.vectors;
        c.key_columns := c.vector_key_columns;
        o.condition := CASE WHEN c.chunking IS NOT NULL THEN 'chunk = 0' END;
    END IF;
    hits := pgmeaning._nearest(c, t, query_vector::vector, o);
    RETURN QUERY SELECT n.distance FROM unnest(hits) AS n;
END
$$;

-- A vector of either type in full, for who has no type of that name in its search path.
CREATE OR REPLACE FUNCTION pgmeaning._whole(embedding anyelement) RETURNS vector
LANGUAGE sql IMMUTABLE
AS $$ SELECT embedding::vector $$;

-- By the operator that searches of these vectors go by, which rounds the query where they are of half precision.
CREATE OR REPLACE FUNCTION pgmeaning._farthest(query_vector text, vectors anyarray) RETURNS float8
LANGUAGE sql IMMUTABLE
AS $$ SELECT max((v <=> query_vector::vector) + 0::float8) FROM unnest(vectors) AS v $$;

CREATE OR REPLACE FUNCTION pgmeaning._active_target(c pgmeaning.collection) RETURNS pgmeaning.target
LANGUAGE sql STABLE
AS $$ SELECT t FROM pgmeaning.target AS t WHERE t.collection_id = c.id $$;

CREATE OR REPLACE FUNCTION pgmeaning.nearest(collection text, query_vector vector, k bigint DEFAULT 10,
    filter text DEFAULT NULL, filter_params anycompatiblearray DEFAULT NULL::text[], mode text DEFAULT NULL,
    candidates bigint DEFAULT NULL, grouped bool DEFAULT true, after pgmeaning.search_cursor DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS TABLE (key jsonb, chunk int, chunk_text text, distance float8, score float8, model text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c    pgmeaning.collection := pgmeaning._collection(collection);
    t    pgmeaning.target := pgmeaning._active_target(c);
    o    pgmeaning.search_options;
    hits pgmeaning.search_hit[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, mode);
    o := pgmeaning._search_options(c, k, filter, filter_params::text[], filter_path, mode, candidates,
                                   grouped, after);
    hits := pgmeaning._pinned(c, (pgmeaning._page(c, t, pgmeaning._to_dimensions(query_vector, t), o)).hits);
    RETURN QUERY SELECT * FROM unnest(hits);
END
$$;
COMMENT ON FUNCTION pgmeaning.nearest IS 'The k rows of a collection that are nearest to a vector.';

-- The k nearest rows to each of several queries, whose vectors are asked for together; query_index is a query's place
-- in the array, from 1. What is wrong with the call is said before the model is asked.
CREATE OR REPLACE FUNCTION pgmeaning._search_many(c pgmeaning.collection, queries text[], o pgmeaning.search_options,
    patience interval, weights float8[], rank_constant float8)
RETURNS TABLE (query_index int, hits pgmeaning.ranked_hit[])
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    t       pgmeaning.target := pgmeaning._active_target(c);
    pinned  bool := pgmeaning._is_pinned(c);
    vectors vector[];
BEGIN
    queries := ARRAY(SELECT unnest(queries));  -- counted from 1
    PERFORM pgmeaning._check_hybrid(c, weights, rank_constant) WHERE o.mode = 'hybrid';
    vectors := pgmeaning._vectors(c.model, queries, true, patience);
    FOR place IN 1..cardinality(queries) LOOP
        query_index := place;
        hits := pgmeaning._ranked(c, t, queries[place], pgmeaning._to_dimensions(vectors[place], t), o,
                                  weights, rank_constant);
        IF pinned THEN
            hits := pgmeaning._with_full_keys(c, hits);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.search_many(collection text, queries text[], k bigint DEFAULT 10,
    filter text DEFAULT NULL, filter_params anycompatiblearray DEFAULT NULL::text[], mode text DEFAULT NULL,
    candidates bigint DEFAULT NULL, grouped bool DEFAULT true, timeout interval DEFAULT '10 seconds',
    weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS TABLE (query_index int, key jsonb, chunk int, chunk_text text, distance float8, score float8, model text,
    vector_rank int, text_rank int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
    o pgmeaning.search_options;
BEGIN
    PERFORM pgmeaning._check_search(c, pgmeaning._active_target(c), k, nullif(mode, 'hybrid'));
    o := pgmeaning._search_options(c, k, filter, filter_params::text[], filter_path, mode, candidates,
                                   grouped, NULL);
    RETURN QUERY SELECT m.query_index, h.key, h.chunk, h.chunk_text, h.distance, h.score, h.model, h.vector_rank,
                        h.text_rank
    FROM pgmeaning._search_many(c, queries, o, pgmeaning._patience(timeout, '10 seconds'), weights, rank_constant) AS m
    CROSS JOIN LATERAL unnest(m.hits) WITH ORDINALITY AS h ORDER BY m.query_index, h.ordinality;
END
$$;
COMMENT ON FUNCTION pgmeaning.search_many IS 'search() for several queries, with a single call of the model.';

-- What a text finds, by meaning alone or by its words too.
CREATE OR REPLACE FUNCTION pgmeaning._ranked(c pgmeaning.collection, t pgmeaning.target, query text,
    query_vector vector, o pgmeaning.search_options, weights float8[], rank_constant float8)
RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    page  record;
    hits  pgmeaning.ranked_hit[];
    texts text[];
BEGIN
    IF o.mode = 'hybrid' THEN
        hits := ARRAY(SELECT h FROM pgmeaning._hybrid(c, t, query, query_vector, o, weights, rank_constant) AS h);
        texts := pgmeaning._current_texts(c, t, ARRAY(SELECT h.key FROM unnest(hits) AS h),
                                          ARRAY(SELECT h.chunk_text FROM unnest(hits) AS h));
        RETURN ARRAY(SELECT ROW(h.key, h.chunk, texts[h.ordinality], h.distance, h.score, h.model, h.vector_rank,
                                h.text_rank)::pgmeaning.ranked_hit
                     FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
    END IF;
    page := pgmeaning._page(c, t, query_vector, o);
    RETURN ARRAY(SELECT ROW(h.key, h.chunk, h.chunk_text, h.distance, h.score, h.model, page.before + h.ordinality,
                            NULL::int)::pgmeaning.ranked_hit
                 FROM unnest(page.hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
END
$$;

-- rerank: so many are found, and a reranker judges them; the score is then its own. grouped: a long document is found
-- once, by its best chunk; false: each of its chunks counts.
CREATE OR REPLACE FUNCTION pgmeaning.search(collection text, query text, k bigint DEFAULT 10, filter text DEFAULT NULL,
    filter_params anycompatiblearray DEFAULT NULL::text[], mode text DEFAULT NULL, candidates bigint DEFAULT NULL,
    rerank bigint DEFAULT NULL, reranker text DEFAULT NULL, grouped bool DEFAULT true,
    timeout interval DEFAULT '10 seconds', weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL,
    after pgmeaning.search_cursor DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS TABLE (key jsonb, chunk int, chunk_text text, distance float8, score float8, model text, vector_rank int,
    text_rank int)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    patience interval := pgmeaning._patience(timeout, '10 seconds');
    deadline timestamptz := clock_timestamp() + patience;
    c        pgmeaning.collection := pgmeaning._collection(collection);
    judge    text;
    o        pgmeaning.search_options;
    hits     pgmeaning.ranked_hit[];
BEGIN
    IF rerank < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('rerank is %s, but the number of rows to rerank must be at least 1', rerank),
            HINT = 'Leave it out to rerank nothing.';
    ELSIF rerank IS NOT NULL AND (after).key IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'a reranked search has no pages by after',
            DETAIL = 'It is not in the order of the distance.', HINT = 'Ask for a larger k.';
    END IF;
    PERFORM pgmeaning._check_search(c, pgmeaning._active_target(c), k, nullif(mode, 'hybrid'));
    IF rerank IS NOT NULL AND c.columns = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('collection %L has no text for a sidecar''s reranker to judge', c.name),
            HINT = 'In Python a reranker that is loaded judges images: search(..., reranker=load_reranker(...)).';
    END IF;
    judge := pgmeaning._reranker(reranker) WHERE rerank IS NOT NULL;
    o := pgmeaning._search_options(c, greatest(k, rerank), filter, filter_params::text[], filter_path, mode,
                                   candidates, grouped, after);
    SELECT m.hits INTO hits
    FROM pgmeaning._search_many(c, ARRAY[query], o, patience, weights, rank_constant) AS m;
    IF rerank IS NULL THEN
        RETURN QUERY SELECT * FROM unnest(hits);
    ELSE
        RETURN QUERY SELECT * FROM pgmeaning._reranked(c, query, hits, judge, deadline) LIMIT k;
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.search (text, text, bigint, text, anycompatiblearray, text, bigint, bigint, text, bool,
    interval, float8[], float8, pgmeaning.search_cursor, text)
    IS 'The k rows of a collection that are nearest in meaning to a text.';

-- What was found, in the order and with the scores of a reranker.
CREATE OR REPLACE FUNCTION pgmeaning._reranked(c pgmeaning.collection, query text, hits pgmeaning.ranked_hit[],
    reranker text, deadline timestamptz) RETURNS SETOF pgmeaning.ranked_hit
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    documents text[] := pgmeaning._texts(c, ARRAY(SELECT h.key FROM unnest(hits) AS h),
                                         ARRAY(SELECT h.chunk_text FROM unnest(hits) AS h));
BEGIN
    RETURN QUERY SELECT h.key, h.chunk, h.chunk_text, h.distance, r.score, h.model, h.vector_rank, h.text_rank
    FROM pgmeaning.rerank(query, documents, reranker, greatest(deadline - clock_timestamp(), '1 millisecond')) AS r
    CROSS JOIN LATERAL (SELECT (hits[r.index]).*) AS h ORDER BY r.score DESC, r.index;
END
$$;

-- The default collection of a table, by the table's row type: the one that was chosen, or the first.
CREATE OR REPLACE FUNCTION pgmeaning._collection_of(row_type regtype) RETURNS pgmeaning.collection
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    chosen text := (SELECT c.name FROM pgmeaning.collection AS c JOIN pg_type AS t ON t.typrelid = c.source
                    WHERE t.oid = row_type AND c.source <> 0 AND c.role = 'active'
                    ORDER BY c.preferred DESC, c.id LIMIT 1);
    c      pgmeaning.collection;
BEGIN
    IF chosen IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM001',
            MESSAGE = format('%s is not the row type of an attached table', row_type),
            HINT = 'Write search(NULL::docs, ...) with a table that was given to attach(), or name the collection.';
    END IF;
    c := pgmeaning._collection(chosen);
    PERFORM pgmeaning._check_key(c), pgmeaning._check_readable(c);  -- else the row's type is refused, without a hint
    RETURN c;
END
$$;

-- The rows themselves, typed: search(NULL::docs, 'how to cook rice'). Two functions, since PostgreSQL makes out the
-- type of the result only where no argument of a polymorphic type is left out, as filter_params often is. And only
-- where the row is the first argument that is written: behind another by name, its type would be that one's (42804).
CREATE OR REPLACE FUNCTION pgmeaning.search(source anyelement, query text, filter text,
    filter_params anycompatiblearray, k bigint DEFAULT 10, mode text DEFAULT NULL, candidates bigint DEFAULT NULL,
    rerank bigint DEFAULT NULL, reranker text DEFAULT NULL, timeout interval DEFAULT '10 seconds',
    weights float8[] DEFAULT NULL, rank_constant float8 DEFAULT NULL, after pgmeaning.search_cursor DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS TABLE (hit anyelement, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection_of(pg_typeof(source));
BEGIN
    RETURN QUERY EXECUTE format(  -- not the alias alone, which might be a column's name
        'SELECT ("the row".*)::%2$s, f.distance, f.score '
        'FROM pgmeaning.search($1::text, $2, $3, $4, $5, $6, $7, $8, $9, true, $10, $11, $12, $13, $14) '
        'WITH ORDINALITY AS f CROSS JOIN LATERAL jsonb_to_record(f.key) AS k (%1$s) JOIN %2$s AS "the row" ON %3$s '
        'ORDER BY f.ordinality',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._relation_name(c.source),
        pgmeaning._key_match('the row', c.key_columns, 'k', c.key_columns, c.key_types))
    USING c.name, query, k, filter, filter_params::text[], mode, candidates, rerank, reranker, timeout, weights,
        rank_constant, after, filter_path;
END
$$;
COMMENT ON FUNCTION pgmeaning.search (anyelement, text, text, anycompatiblearray, bigint, text, bigint, bigint, text,
    interval, float8[], float8, pgmeaning.search_cursor, text)
    IS 'The k rows of a table that are nearest in meaning to a text, as rows of that table; the filter has parameters.';

CREATE OR REPLACE FUNCTION pgmeaning.search(source anyelement, query text, k bigint DEFAULT 10,
    filter text DEFAULT NULL, mode text DEFAULT NULL, candidates bigint DEFAULT NULL, rerank bigint DEFAULT NULL,
    reranker text DEFAULT NULL, timeout interval DEFAULT '10 seconds', weights float8[] DEFAULT NULL,
    rank_constant float8 DEFAULT NULL, after pgmeaning.search_cursor DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS TABLE (hit anyelement, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN QUERY SELECT * FROM pgmeaning.search(source, query, filter, NULL::text[], k, mode, candidates,
        rerank, reranker, timeout, weights, rank_constant, after, filter_path);
END
$$;
COMMENT ON FUNCTION pgmeaning.search (anyelement, text, bigint, text, text, bigint, bigint, text, interval, float8[],
    float8, pgmeaning.search_cursor, text)
    IS 'The k rows of a table that are nearest in meaning to a text, as rows of that table.';

CREATE OR REPLACE FUNCTION pgmeaning.similar(collection text, key jsonb, k bigint DEFAULT 10, filter text DEFAULT NULL,
    filter_params anycompatiblearray DEFAULT NULL::text[], mode text DEFAULT NULL, candidates bigint DEFAULT NULL,
    grouped bool DEFAULT true, after pgmeaning.search_cursor DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS SETOF pgmeaning.search_hit
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c      pgmeaning.collection := pgmeaning._collection(collection);
    t      pgmeaning.target := pgmeaning._active_target(c);
    wanted jsonb := pgmeaning._full_key(c, $2);
    o      pgmeaning.search_options;
    own    vector;
    itself jsonb;
    hits   pgmeaning.search_hit[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, mode);
    o := pgmeaning._search_options(c, k, filter, filter_params::text[], filter_path, mode, candidates,
                                   grouped, after);
    EXECUTE format('SELECT avg(v.embedding), %s FROM jsonb_to_record($1) AS k (%s) JOIN %s AS v ON %s '
                   'WHERE EXISTS (SELECT FROM %s AS s WHERE %s) GROUP BY 2',
        pgmeaning._key_json('v', c.vector_key_columns, c),
        pgmeaning._key_record(c.key_columns, c.key_types),
        pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types))
    INTO own, itself USING wanted;
    IF own IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('collection %L has no vector for row %s', collection, coalesce(wanted::text, 'NULL')),
            HINT = 'There is no such row, or it has nothing to embed, or its vector is still owed: '
                   'CALL pgmeaning.wait_for(...).';
    END IF;
    o.leave_out := ARRAY[itself];
    hits := pgmeaning._pinned(c, (pgmeaning._page(c, t, own, o)).hits);
    RETURN QUERY SELECT * FROM unnest(hits);
END
$$;
COMMENT ON FUNCTION pgmeaning.similar IS 'More like this row, by the mean of its chunks: the k nearest other rows.';
