-- How the rows of collections are related, from stored vectors alone: nearest pairs, duplicates. Row by row it would be
-- one search each; here a page of rows is one statement, by the same index or signatures and with the same exact
-- distances, and a row that this did not find enough for is searched for as search() does. All of it runs with the
-- caller's rights and joins both sources, so that no row is told of that is gone or hidden.

-- Refuses vectors of two models, or of two lengths: by fingerprint, which is what says whether they may be compared.
CREATE OR REPLACE FUNCTION pgmeaning._check_comparable(c pgmeaning.collection, t pgmeaning.target,
    oc pgmeaning.collection, ot pgmeaning.target) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    mine   text := (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = t.model);
    theirs text := (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = ot.model);
BEGIN
    IF mine IS DISTINCT FROM theirs OR t.dimensions <> ot.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'PM030',
            MESSAGE = format('the vectors of collections %L and %L cannot be compared', c.name, oc.name),
            DETAIL = format('%s has model %L (%s) with %s dimensions, %s has %L (%s) with %s.',
                            quote_ident(c.name), t.model, left(mine, 12), t.dimensions,
                            quote_ident(oc.name), ot.model, left(theirs, 12), ot.dimensions),
            HINT = 'Attach the table of one of them again, with the model and the dimensions of the other.';
    END IF;
END
$$;

-- A number of rows that products of cannot overflow. least() would make one of null, which says nothing.
CREATE OR REPLACE FUNCTION pgmeaning._bounded(number bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN number IS NOT NULL THEN least(number, 2147483647) END $$;

-- Refuses numbers that make no sense; null is left out.
CREATE OR REPLACE FUNCTION pgmeaning._check_bounds(threshold float8, k bigint, page bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF NOT threshold BETWEEN 0 AND 2 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('threshold is %s, but a cosine distance is from 0 to 2', threshold),
            HINT = 'It is what search() returns as distance: 0 for equal vectors. 0.1 is very near.';
    ELSIF k IS NULL AND threshold IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'neither k nor a threshold says where to stop',
            DETAIL = 'Every row would match every other one.',
            HINT = 'k => 5 for five each; k => NULL, threshold => 0.1 for all that are so near.';
    ELSIF page < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('rows is %s, but it must be at least 1', page),
            HINT = 'Leave it out for all rows.';
    END IF;
END
$$;

-- The next keys of the source that the caller may see, in the order of its primary key.
CREATE OR REPLACE FUNCTION pgmeaning._next_keys(c pgmeaning.collection, after jsonb, page bigint) RETURNS jsonb[]
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    found_keys jsonb[];
BEGIN
    EXECUTE format('WITH last_key AS MATERIALIZED (SELECT * FROM jsonb_to_record($1) AS k (%s)) '
        'SELECT coalesce(array_agg(p.key ORDER BY p.place), ''{}'') '
        'FROM (SELECT %s AS key, row_number() OVER (ORDER BY %s) AS place FROM %s AS s WHERE %s '
        'ORDER BY %3$s LIMIT $2) AS p',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._key_json('s', c.key_columns, c),
        pgmeaning._column_list('s', c.key_columns), pgmeaning._relation_name(c.source),
        CASE WHEN after IS NULL THEN 'true' ELSE pgmeaning._behind('s', c.key_columns, c, 'last_key') END)
    INTO found_keys USING after, page;
    RETURN found_keys;
END
$$;

-- The stored vectors of keys ($1), as q: flat copies, since else each distance would fetch them from out of line again.
-- OFFSET 0 forces a look-up by key.
CREATE OR REPLACE FUNCTION pgmeaning._stored_sql(c pgmeaning.collection, t pgmeaning.target) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('SELECT u.place AS "pgmeaning.place", v.embedding AS "pgmeaning.embedding", '
        'v.signature AS "pgmeaning.signature", k.* '
        'FROM unnest($1::jsonb[]) WITH ORDINALITY AS u (key, place) '
        'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'CROSS JOIN LATERAL (SELECT subvector(v.embedding::vector, 1, %s) AS embedding, v.signature '
        'FROM %s AS v WHERE %s '
        'ORDER BY v.chunk OFFSET 0) AS v',
        pgmeaning._key_record(c.key_columns, c.key_types), t.dimensions, pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types))
$$;

-- For each of the stored vectors (q) the nearest rows of another collection: exact, or in the two phases of search(),
-- where $2 says how many vectors are looked at and $3 how many rows are wanted. A row counts by its nearest chunk.
CREATE OR REPLACE FUNCTION pgmeaning._matches_sql(c pgmeaning.collection, t pgmeaning.target, oc pgmeaning.collection,
    ot pgmeaning.target, plan record) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    query    constant text := 'q."pgmeaning.embedding"';
    keys     text := pgmeaning._column_list('v', oc.vector_key_columns);
    vectors  text := pgmeaning._relation_name(ot.vectors);
    source   text := pgmeaning._relation_name(oc.source);
    same     text := pgmeaning._key_match('s', oc.key_columns, 'v', oc.vector_key_columns, oc.key_types);
    may_be   text := format('(EXISTS (SELECT FROM %s AS s WHERE %s)) IS TRUE', source, same);
    hidden   bool := row_security_active(oc.source::oid);
    others   text := CASE WHEN c.id = oc.id THEN format('NOT (%s)', pgmeaning._key_match(
                         'v', c.vector_key_columns, 'q', c.key_columns, c.key_types)) ELSE 'true' END;
    -- The stored signature: made anew, it would be for every row that is compared.
    nearness text := CASE WHEN plan.kind = 'signature' THEN 'v.signature <~> q."pgmeaning.signature"'
                          ELSE replace(pgmeaning._nearness(plan.kind, ot.dimensions, plan.dimensions), '$1', query) END;
    distance text := format(CASE WHEN oc.chunking IS NULL THEN '(v.embedding <=> %s) + 0::float8'
                                 ELSE 'min((v.embedding <=> %s) + 0::float8)' END, query);
    by_row   text := CASE WHEN oc.chunking IS NULL THEN '' ELSE ' GROUP BY ' || keys END;
    near     text := 'SELECT';
    found    text;
BEGIN
    IF plan.kind = 'exact' THEN
        found := format('SELECT %1$s, %2$s AS "pgmeaning.distance" FROM %3$s AS v JOIN %4$s AS s ON %5$s '
                        'WHERE %6$s%7$s ORDER BY "pgmeaning.distance", %1$s LIMIT $3',
                        keys, distance, vectors, source, same, others, by_row);
    ELSE
        near := format('SELECT %s, v.embedding FROM %s AS v WHERE %s ORDER BY %s%s LIMIT $2', keys, vectors, others,
                       nearness, CASE WHEN plan.indexed THEN '' ELSE format(', %s, v.chunk', keys) END);
        -- Where few rows are hidden, twice as many are ordered, and only these are looked up.
        found := format('SELECT v.* FROM (SELECT %1$s, %2$s AS "pgmeaning.distance" FROM near AS v WHERE %3$s%4$s '
                        'ORDER BY "pgmeaning.distance", %1$s LIMIT 2 * $3) AS v WHERE %5$s LIMIT $3',
                        keys, distance, CASE WHEN hidden THEN may_be ELSE 'true' END, by_row,
                        CASE WHEN hidden THEN 'true' ELSE may_be END);
    END IF;
    RETURN format('WITH query AS MATERIALIZED (%s) '
        'SELECT q."pgmeaning.place", n.looked_at, n.keys, n.distances, %s FROM query AS q CROSS JOIN LATERAL ('
        'WITH near AS MATERIALIZED (%s), found AS MATERIALIZED (%s) '
        'SELECT (SELECT count(*) FROM near) AS looked_at, '
        'coalesce(array_agg(%s ORDER BY v."pgmeaning.distance", %s), ''{}'') AS keys, '
        'coalesce(array_agg(v."pgmeaning.distance" ORDER BY v."pgmeaning.distance", %6$s), ''{}'') AS distances '
        'FROM found AS v) AS n',
        pgmeaning._stored_sql(c, t), query, near, found, pgmeaning._key_json('v', oc.vector_key_columns, oc), keys);
END
$$;

-- Runs that for a page of keys, with what _by_index() sets, and for its reasons.
CREATE OR REPLACE FUNCTION pgmeaning._matches_by_index(statement text, keys jsonb[], to_fetch bigint, k bigint,
    before jsonb)
RETURNS TABLE (place bigint, looked_at bigint, others jsonb[], distances float8[], embedding vector)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    dimensions int := vector_dims('[1]'::vector);  -- loads pgvector, and with it its settings
    size       text := current_setting('hnsw.ef_search', true);
    iterative  text := current_setting('hnsw.iterative_scan', true);
    bound      text := current_setting('hnsw.max_scan_tuples', true);
BEGIN
    PERFORM set_config('hnsw.ef_search', greatest(1, least(to_fetch, 1000))::text, true);
    PERFORM set_config('hnsw.max_scan_tuples', least(2 * to_fetch + 20000, 2147483647)::text, true),
            set_config('hnsw.iterative_scan', CASE WHEN to_fetch <= 1000 THEN 'off' ELSE 'relaxed_order' END, true)
    WHERE iterative IS NOT NULL;
    RETURN QUERY EXECUTE statement USING keys, to_fetch, k;
    PERFORM pgmeaning._unset_scan(before);
    PERFORM set_config('hnsw.ef_search', size, true);
    PERFORM set_config('hnsw.iterative_scan', iterative, true), set_config('hnsw.max_scan_tuples', bound, true)
    WHERE iterative IS NOT NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._matches_exactly(statement text, keys jsonb[], k bigint)
RETURNS TABLE (place bigint, looked_at bigint, others jsonb[], distances float8[], embedding vector)
LANGUAGE plpgsql STABLE SET jit = off
AS $$
BEGIN
    -- What it runs names the type vector: see 90_access.sql.
    RETURN QUERY EXECUTE statement USING keys, 0, k;
END
$$;

-- All rows within a distance of a vector: for the few that have so many near them that an index gives no end of them.
CREATE OR REPLACE FUNCTION pgmeaning._all_within(c pgmeaning.collection, t pgmeaning.target, query_vector vector,
    threshold float8, leave_out jsonb[], OUT keys jsonb[], OUT distances float8[])
LANGUAGE plpgsql STABLE SET jit = off
AS $$
DECLARE
    own text := pgmeaning._column_list('v', c.vector_key_columns);
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(%1$s), ''{}''), coalesce(array_agg(v."pgmeaning.distance"), ''{}'') '
        'FROM (SELECT %2$s, min((v.embedding <=> $1) + 0::float8) AS "pgmeaning.distance" FROM %3$s AS v '
        'JOIN %4$s AS s ON %5$s WHERE v.embedding <=> $1 <= $2%6$s GROUP BY %2$s '
        'ORDER BY "pgmeaning.distance", %2$s) AS v',
        pgmeaning._key_json('v', c.vector_key_columns, c), own, pgmeaning._relation_name(t.vectors),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types),
        pgmeaning._and_not_of(c, leave_out))
    INTO keys, distances USING query_vector, threshold;
END
$$;

-- What a page of keys matches, by the keys' places in it; a key that has chunks has each of their matches.
CREATE OR REPLACE FUNCTION pgmeaning._matches_of(c pgmeaning.collection, t pgmeaning.target, oc pgmeaning.collection,
    ot pgmeaning.target, keys jsonb[], k bigint, threshold float8, mode text, candidates bigint)
RETURNS TABLE (place bigint, others jsonb[], distances float8[])
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    -- Without a k so many are looked for at first, and all where these do not reach as far as the threshold.
    wanted   bigint := coalesce(k, 16);
    plan     record := pgmeaning._search_plan(ot, mode, wanted, candidates);
    o        pgmeaning.search_options := ROW(wanted, NULL, mode, candidates, true, NULL, NULL, NULL);
    to_fetch bigint := CASE WHEN plan.kind <> 'exact'
                            THEN coalesce(pgmeaning._rows_to_fetch(oc, ot, plan.candidates, o), 0) END;
    made     text := pgmeaning._matches_sql(c, t, oc, ot, plan);
    item     record;
    hits     pgmeaning.search_hit[];
BEGIN
    FOR item IN SELECT m.* FROM pgmeaning._matches_exactly(made, keys, k) AS m WHERE plan.kind = 'exact'
                UNION ALL
                SELECT m.* FROM pgmeaning._matches_by_index(made, keys, to_fetch, wanted,
                    pgmeaning._set_scan(CASE WHEN plan.indexed THEN plan.kind END, ot.vectors, to_fetch)) AS m
                WHERE plan.kind <> 'exact' LOOP
        place := item.place;
        others := item.others;
        distances := item.distances;
        IF plan.kind <> 'exact' AND (item.looked_at < greatest(1, to_fetch / 2)
               OR NOT coalesce((k IS NOT NULL AND cardinality(others) = k)
                               OR distances[cardinality(distances)] > threshold, false)) THEN
            o.leave_out := CASE WHEN c.id = oc.id THEN ARRAY[keys[place]] END;
            IF k IS NULL THEN
                SELECT w.keys, w.distances INTO others, distances
                FROM pgmeaning._all_within(oc, ot, item.embedding, threshold, o.leave_out) AS w;
            ELSE
                hits := pgmeaning._nearest_rows(oc, ot, item.embedding, o);
                others := ARRAY(SELECT h.key FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
                distances := ARRAY(SELECT h.distance FROM unnest(hits) WITH ORDINALITY AS h ORDER BY h.ordinality);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- One page: the next so many rows behind a key, and what they match, by their places from 1. Keys are those that the
-- triggers write, whatever the caller's settings.
CREATE OR REPLACE FUNCTION pgmeaning._match_page(c pgmeaning.collection, t pgmeaning.target, oc pgmeaning.collection,
    ot pgmeaning.target, k bigint, threshold float8, mode text, candidates bigint, after jsonb, page bigint,
    OUT keys jsonb[], OUT places bigint[], OUT others jsonb[], OUT distances float8[])
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1'
AS $$
BEGIN
    keys := pgmeaning._next_keys(c, after, page);
    SELECT array_agg(r.place ORDER BY r.place, r.rank), array_agg(r.other ORDER BY r.place, r.rank),
           array_agg(r.distance ORDER BY r.place, r.rank)
    INTO places, others, distances
    FROM (SELECT b.*, row_number() OVER (PARTITION BY b.place ORDER BY b.distance, b.rank) AS rank
          FROM (SELECT m.place, u.other, min(u.distance) AS distance, min(u.rank) AS rank
                FROM pgmeaning._matches_of(c, t, oc, ot, keys, k, threshold, mode, candidates) AS m
                CROSS JOIN LATERAL unnest(m.others, m.distances) WITH ORDINALITY AS u (other, distance, rank)
                WHERE keys <> '{}' AND (threshold IS NULL OR u.distance <= threshold)
                GROUP BY m.place, u.other) AS b (place, other, distance, rank)) AS r (place, other, distance, at, rank)
    WHERE k IS NULL OR r.rank <= k;
END
$$;

-- Everything that is wrong with a call, before its first page.
CREATE OR REPLACE FUNCTION pgmeaning._check_matches(c pgmeaning.collection, oc pgmeaning.collection, k bigint,
    threshold float8, mode text, page bigint) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    t  pgmeaning.target := pgmeaning._active_target(c);
    ot pgmeaning.target := pgmeaning._active_target(oc);
BEGIN
    PERFORM pgmeaning._check_bounds(threshold, k, page), pgmeaning._check_search(c, t, coalesce(k, 1), mode),
            pgmeaning._check_search(oc, ot, coalesce(k, 1), mode), pgmeaning._check_comparable(c, t, oc, ot);
END
$$;

-- Page by page, so that no statement runs for longer than a page takes; the client goes on from page to page itself.
-- rows: so many rows that have a match; after: the key of the last one. So it is over once fewer come.
CREATE OR REPLACE FUNCTION pgmeaning.matches(collection text, other text, k bigint DEFAULT 1,
    threshold float8 DEFAULT NULL, mode text DEFAULT NULL, candidates bigint DEFAULT NULL, after jsonb DEFAULT NULL,
    rows bigint DEFAULT NULL)
RETURNS TABLE (key jsonb, other_key jsonb, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._collection(matches.collection);
    oc      pgmeaning.collection := pgmeaning._collection(matches.other);
    most    bigint := matches.rows;
    at_once bigint := least(most, 256);
    page    record;
BEGIN
    PERFORM pgmeaning._check_matches(c, oc, k, threshold, mode, most);
    after := pgmeaning._full_key(c, after);
    LOOP
        SELECT m.*, cardinality(m.keys) AS seen INTO page
        FROM pgmeaning._match_page(c, pgmeaning._active_target(c), oc, pgmeaning._active_target(oc),
            pgmeaning._bounded(k), threshold, mode, pgmeaning._bounded(candidates), after, at_once) AS m;
        RETURN QUERY SELECT page.keys[u.place], u.other, u.distance, 1 - u.distance
        FROM (SELECT u.*, dense_rank() OVER (ORDER BY u.place) AS number
              FROM unnest(page.places, page.others, page.distances) WITH ORDINALITY
                   AS u (place, other, distance, ordinality)) AS u
        WHERE most IS NULL OR u.number <= most ORDER BY u.ordinality;
        most := most - (SELECT count(DISTINCT p) FROM unnest(page.places) AS p);
        EXIT WHEN page.seen < at_once OR most <= 0;
        after := page.keys[page.seen];
    END LOOP;
END
$$;
COMMENT ON FUNCTION pgmeaning.matches IS 'For each row of a collection the k nearest rows of another one of the same '
    'model, or of itself without the row; with a threshold only those within that cosine distance, and all of them if '
    'k is NULL. Rows with chunks count by their nearest two.';

-- Which of so many things belong together, by pairs of their numbers: of each the lowest number of its group.
CREATE OR REPLACE FUNCTION pgmeaning._components(size int, a int[], b int[]) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    parent int[] := ARRAY(SELECT generate_series(1, size));
    x      int;
    y      int;
BEGIN
    FOR place IN 1..coalesce(cardinality(a), 0) LOOP
        x := a[place];
        y := b[place];
        WHILE parent[x] <> x LOOP
            parent[x] := parent[parent[x]];
            x := parent[x];
        END LOOP;
        WHILE parent[y] <> y LOOP
            parent[y] := parent[parent[y]];
            y := parent[y];
        END LOOP;
        parent[greatest(x, y)] := least(x, y);
    END LOOP;
    FOR place IN 1..size LOOP  -- a parent's number is never the larger one, so its own group is known by now
        parent[place] := parent[parent[place]];
    END LOOP;
    RETURN parent;
END
$$;

-- The groups that pairs make: one row for each member, with the nearest other one.
CREATE OR REPLACE FUNCTION pgmeaning._groups(keys jsonb[], others jsonb[], distances float8[])
RETURNS TABLE (group_number bigint, key jsonb, other_key jsonb, distance float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    members jsonb[] := ARRAY(SELECT u.key FROM (SELECT unnest(keys) UNION SELECT unnest(others)) AS u (key) ORDER BY 1);
    a       int[];
    b       int[];
BEGIN
    SELECT array_agg(x.place), array_agg(y.place) INTO a, b
    FROM unnest(keys, others) AS p (key, other)
    JOIN unnest(members) WITH ORDINALITY AS x (key, place) ON x.key = p.key
    JOIN unnest(members) WITH ORDINALITY AS y (key, place) ON y.key = p.other;
    RETURN QUERY SELECT dense_rank() OVER (ORDER BY m.root), m.key, n.other, n.distance
    FROM unnest(members, pgmeaning._components(cardinality(members), a, b)) AS m (key, root)
    JOIN (SELECT DISTINCT ON (p.key) p.* FROM (SELECT * FROM unnest(keys, others, distances)
                                               UNION ALL SELECT * FROM unnest(others, keys, distances))
          AS p (key, other, distance) ORDER BY p.key, p.distance, p.other) AS n ON n.key = m.key
    ORDER BY m.root, m.key;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.duplicates(collection text, threshold float8 DEFAULT 0.05,
    grouped bool DEFAULT false, mode text DEFAULT NULL, candidates bigint DEFAULT NULL)
RETURNS TABLE (group_number bigint, key jsonb, other_key jsonb, distance float8, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    pairs record;
BEGIN
    -- Either row may have found the other one, by an index that does not find all.
    SELECT array_agg(p.key) AS keys, array_agg(p.other) AS others, array_agg(p.distance) AS distances INTO pairs
    FROM (SELECT least(m.key, m.other_key), greatest(m.key, m.other_key), min(m.distance)
          FROM pgmeaning.matches(duplicates.collection, duplicates.collection, NULL, duplicates.threshold,
                                 duplicates.mode, duplicates.candidates) AS m
          GROUP BY 1, 2) AS p (key, other, distance);
    IF grouped THEN
        RETURN QUERY SELECT g.*, 1 - g.distance FROM pgmeaning._groups(pairs.keys, pairs.others, pairs.distances) AS g;
    ELSE
        RETURN QUERY SELECT NULL::bigint, p.*, 1 - p.distance
        FROM unnest(pairs.keys, pairs.others, pairs.distances) AS p (key, other, distance)
        ORDER BY p.distance, p.key, p.other;
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.duplicates IS 'Pairs of rows within a cosine distance of each other, the nearest first; '
    'grouped: each row that has any, with the number of its group and its nearest other row.';

-- The label nearest in meaning to each of these keys, and its score: by the row's nearest chunk.
CREATE OR REPLACE FUNCTION pgmeaning._classified(c pgmeaning.collection, t pgmeaning.target, keys jsonb[],
    vectors vector[]) RETURNS TABLE (place bigint, label bigint, distance float8)
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET enable_seqscan = off SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('WITH query AS MATERIALIZED (%s) '
        'SELECT DISTINCT ON (q."pgmeaning.place") q."pgmeaning.place", n.label, n.distance FROM query AS q '
        'CROSS JOIN LATERAL (SELECT l.place AS label, '
        '(q."pgmeaning.embedding" <=> l.embedding) + 0::float8 AS distance '
        'FROM unnest($2) WITH ORDINALITY AS l (embedding, place) ORDER BY 2, 1 LIMIT 1) AS n '
        'ORDER BY q."pgmeaning.place", n.distance, n.label', pgmeaning._stored_sql(c, t))
    USING keys, vectors;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._check_labels(labels text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    flat    text[] := ARRAY(SELECT unnest(labels));
    problem text := CASE WHEN flat = '{}' THEN 'there are no labels'
                         WHEN array_position(flat, NULL) > 0 THEN 'a label is NULL'
                         WHEN EXISTS (SELECT FROM unnest(flat) AS l WHERE btrim(l) = '') THEN 'a label is empty' END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = problem,
            HINT = 'Say in words what each class is about: ARRAY[''astronomy'', ''how to cook''].';
    END IF;
    RETURN flat;
END
$$;

-- rows and after as in matches(): a row without a vector has no label, and is not counted.
CREATE OR REPLACE FUNCTION pgmeaning.classify(collection text, labels text[], timeout interval DEFAULT '10 seconds',
    after jsonb DEFAULT NULL, rows bigint DEFAULT NULL)
RETURNS TABLE (key jsonb, label text, score float8)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._collection(classify.collection);
    t       pgmeaning.target := pgmeaning._active_target(c);
    named   text[] := pgmeaning._check_labels(labels);
    most    bigint := classify.rows;
    at_once bigint := least(most, 256);
    told    bigint;
    keys    jsonb[];
    vectors vector[];
BEGIN
    PERFORM pgmeaning._check_bounds(NULL, 1, most), pgmeaning._check_search(c, t, 1, NULL);
    after := pgmeaning._full_key(c, after);
    vectors := pgmeaning._vectors(c.model, named, true, pgmeaning._patience(timeout, '10 seconds'));
    vectors := ARRAY(SELECT pgmeaning._to_dimensions(v.embedding, t)
                     FROM unnest(vectors) WITH ORDINALITY AS v (embedding, place) ORDER BY v.place);
    LOOP
        keys := pgmeaning._next_keys(c, after, at_once);
        RETURN QUERY SELECT keys[n.place], named[n.label], 1 - n.distance
                     FROM pgmeaning._classified(c, t, keys, vectors) AS n ORDER BY n.place LIMIT most;
        GET DIAGNOSTICS told = ROW_COUNT;
        most := most - told;
        EXIT WHEN cardinality(keys) < at_once OR most <= 0;
        after := keys[at_once];
    END LOOP;
END
$$;
COMMENT ON FUNCTION pgmeaning.classify IS 'The label that is nearest in meaning to each row, and its cosine '
    'similarity; the labels are embedded as queries, by the collection''s model. A row with chunks counts by its '
    'nearest one.';
