-- Stored vectors as clients read them, page by page, and vectors that say which model they are of.

-- A vector for nearest(), if it is of the collection's model: by fingerprint, where it has one. In the statement that
-- searches, so that no other generation serves between the two.
CREATE OR REPLACE FUNCTION pgmeaning._of_model(query_vector vector, collection text, model text, fingerprint text)
RETURNS vector
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c      pgmeaning.collection := pgmeaning._collection(collection);
    wanted text := (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = c.model);
BEGIN
    IF fingerprint IS DISTINCT FROM wanted AND fingerprint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM030',
            MESSAGE = format('the vector is not of the model of collection %L', c.name),
            DETAIL = format('It is of %L (%s), the collection has %L (%s).', model, left(fingerprint, 12), c.model,
                            left(wanted, 12)),
            HINT = format('embed(..., collection => %L) makes one of its model.', c.name);
    END IF;
    RETURN query_vector;
END
$$;

-- What may not change between two pages of one reading: where vectors are, and of which model.
CREATE OR REPLACE FUNCTION pgmeaning._made_of(t pgmeaning.target) RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format('%s %s %s', t.vectors::oid, t.dimensions, m.fingerprint)
      FROM pgmeaning.model AS m WHERE m.name = t.model $$;

-- matches(), a page at a time, with how far it came: for a client that goes on by itself.
CREATE OR REPLACE FUNCTION pgmeaning._matches_page(collection text, other text, k bigint, threshold float8, mode text,
    candidates bigint, after jsonb, page bigint, OUT made_of text, OUT expected float8, OUT keys text[],
    OUT places bigint[], OUT others text[], OUT distances float8[])
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c  pgmeaning.collection := pgmeaning._collection(collection);
    oc pgmeaning.collection := pgmeaning._collection(other);
    t  pgmeaning.target := pgmeaning._active_target(c);
    ot pgmeaning.target := pgmeaning._active_target(oc);
BEGIN
    PERFORM pgmeaning._check_matches(c, oc, k, threshold, mode, page);
    made_of := concat_ws(', ', pgmeaning._made_of(t), pgmeaning._made_of(ot));
    expected := pgmeaning._rows_expected(c, NULL, NULL);
    SELECT m.keys::text[], m.places, m.others::text[], m.distances INTO keys, places, others, distances
    FROM pgmeaning._match_page(c, t, oc, ot, pgmeaning._bounded(k), threshold, mode, pgmeaning._bounded(candidates),
                               after, page) AS m;
END
$$;

-- The next rows behind a key that the caller may see, with their vectors, chunk by chunk; a row that has none is told,
-- too, since the next page begins behind it.
CREATE OR REPLACE FUNCTION pgmeaning._vectors_page(collection text, after jsonb, page bigint)
RETURNS TABLE (made_of text, key text, embedding vector)
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c    pgmeaning.collection := pgmeaning._collection(collection);
    t    pgmeaning.target := pgmeaning._active_target(c);
    keys jsonb[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, 1, NULL);
    keys := pgmeaning._next_keys(c, after, page);
    -- It names the type vector: see 90_access.sql.
    RETURN QUERY EXECUTE format('SELECT $2, r.key::text, q."pgmeaning.embedding" '
        'FROM unnest($1) WITH ORDINALITY AS r (key, place) LEFT JOIN (%s) AS q ON q."pgmeaning.place" = r.place '
        'ORDER BY r.place', pgmeaning._stored_sql(c, t))
    USING keys, pgmeaning._made_of(t);
END
$$;

-- A sample to find centroids on, and then the words of what is nearest to each.
CREATE OR REPLACE FUNCTION pgmeaning._cluster_sample(collection text, seed bigint)
RETURNS TABLE (made_of text, expected float8, model text, fingerprint text, embedding vector)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    PERFORM pgmeaning._check_search(c, t, 1, NULL);
    RETURN QUERY SELECT pgmeaning._made_of(t), pgmeaning._rows_expected(c, NULL, NULL), m.name, m.fingerprint, s.vector
    FROM pgmeaning.model AS m LEFT JOIN unnest(pgmeaning._sample_vectors(c, t, seed)) AS s (vector) ON true
    WHERE m.name = t.model;
END
$$;

-- Everything that a file of vectors must agree on with the collection that takes it up.
CREATE OR REPLACE FUNCTION pgmeaning._vectors_definition(collection text) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    PERFORM pgmeaning._check_key(c);
    RETURN jsonb_build_object('collection', c.name, 'model', t.model, 'fingerprint',
        (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = t.model), 'dimensions', t.dimensions,
        'vector_type', pgmeaning._vector_type(t.vectors), 'key_columns', c.key_columns, 'key_types', c.key_types,
        'columns', c.columns, 'template', c.template, 'image', c.image, 'video', c.video, 'chunking', c.chunking);
END
$$;

-- A page of vectors to be exported: as _vectors_page(), with what each was made from. A row without a vector is told.
CREATE OR REPLACE FUNCTION pgmeaning._export_page(collection text, after jsonb, page bigint)
RETURNS TABLE (made_of text, key text, chunk int, content_hash bytea, chunk_text text, embedding vector)
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    PERFORM pgmeaning._check_search(c, t, 1, NULL);
    RETURN QUERY EXECUTE format('SELECT $2, r.key::text, v.chunk, v.content_hash, '
        'CASE WHEN %s THEN v.chunk_text END, v.embedding::vector '
        'FROM unnest($1) WITH ORDINALITY AS r (key, place) CROSS JOIN LATERAL jsonb_to_record(r.key) AS k (%s) '
        'LEFT JOIN LATERAL (SELECT v.* FROM %s AS v WHERE %s ORDER BY v.chunk OFFSET 0) AS v ON true '
        'ORDER BY r.place, v.chunk',
        -- The text of a chunk is not shown where the row's is another by now: see 46_rights.sql.
        CASE WHEN c.chunking IS NULL THEN 'false' ELSE pgmeaning._is_current(c, t) END,
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types))
    USING pgmeaning._next_keys(c, after, page), pgmeaning._made_of(t);
END
$$;

-- Of keys and the hashes of what somebody embedded: those whose row is that now, and whose stored vectors are of
-- something else; and how many have theirs. VOLATILE, to see what was committed up to now.
CREATE OR REPLACE FUNCTION pgmeaning._importable(c pgmeaning.collection, t pgmeaning.target, keys jsonb[],
    hashes bytea[], OUT wanted jsonb[], OUT fresh bigint)
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(u.key ORDER BY u.key) FILTER (WHERE v.content_hash IS DISTINCT FROM '
        'u.content_hash), ''{}''), count(*) FILTER (WHERE v.content_hash = u.content_hash) '
        'FROM unnest($1, $2) AS u (key, content_hash) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'CROSS JOIN LATERAL (SELECT %s AS content_hash FROM %s AS s WHERE %s AND %s OFFSET 0) AS s '
        'LEFT JOIN LATERAL (SELECT v.content_hash FROM %s AS v WHERE %s AND v.chunk = 0 OFFSET 0) AS v ON true '
        'WHERE s.content_hash = u.content_hash',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._content_hash('s', c),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types), pgmeaning._source_guard(c),
        pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types))
    INTO wanted, fresh USING keys, hashes;
END
$$;

-- Replaces the vectors of rows; one element of the arrays is one chunk.
CREATE OR REPLACE FUNCTION pgmeaning._put_vectors(c pgmeaning.collection, t pgmeaning.target, wanted jsonb[],
    keys jsonb[], chunks int[], hashes bytea[], texts text[], vectors vector[]) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    stored text := pgmeaning._relation_name(t.vectors);
    record text := pgmeaning._key_record(c.key_columns, c.key_types);
BEGIN
    EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY(SELECT f.ctid FROM unnest($1) AS u (key) '
        'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%2$s) '
        'CROSS JOIN LATERAL (SELECT v.ctid FROM %1$s AS v WHERE %3$s OFFSET 0) AS f))', stored, record,
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types))
    USING wanted;
    EXECUTE format('INSERT INTO %s (%s, chunk, chunk_text, model, embedding, content_hash%s) '
        'SELECT %s, u.chunk, u.chunk_text, $6, u.embedding, u.content_hash%s '
        'FROM unnest($1, $2, $3, $4, $5) AS u (key, chunk, content_hash, chunk_text, embedding) '
        'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'CROSS JOIN LATERAL (SELECT %s AS words FROM %s AS s WHERE %s OFFSET 0) AS s WHERE u.key = ANY ($7)',
        stored, pgmeaning._vector_key(c),
        CASE WHEN c.language IS NULL THEN '' ELSE ', words' END, pgmeaning._column_list('k', c.key_columns),
        CASE WHEN c.language IS NULL THEN '' ELSE ', CASE WHEN u.chunk_text IS NULL THEN s.words END' END, record,
        pgmeaning._words_sql(c, 's'), pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    USING keys, chunks, hashes, texts, vectors, t.model, wanted;
END
$$;

-- Takes up vectors that were made elsewhere, for the rows that have the very content they were made from, as if a
-- sidecar had embedded them. The rows are queued, or their places in the queue locked and given a new generation: so no
-- sidecar that embeds one at the moment can write it, and what is changed from now on is folded behind. Only then the
-- rows are looked at once more. A change that commits between this look and our end is still in the inbox, and owed.
CREATE OR REPLACE FUNCTION pgmeaning._import_page(collection text, fingerprint text, keys text[], chunks int[],
    hashes bytea[], texts text[], vectors vector[], OUT taken bigint, OUT fresh bigint, OUT other bigint)
LANGUAGE plpgsql VOLATILE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C' SET lock_timeout = '5s'
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c      pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(collection));
    t      pgmeaning.target := pgmeaning._active_target(c);
    known  jsonb[] := ARRAY(SELECT pgmeaning._full_key(c, k.key::jsonb)
                            FROM unnest(keys) WITH ORDINALITY AS k (key, place) ORDER BY k.place);
    firsts record;
    ready  record;
    locked jsonb[];
BEGIN
    PERFORM pgmeaning._check_readable(c), pgmeaning._check_key(c),
            pgmeaning._of_model(vectors[1], collection, 'another model', fingerprint);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'vectors are imported in READ COMMITTED alone',
            DETAIL = 'Rows have to be seen as they are by now.', HINT = 'SET default_transaction_isolation.';
    END IF;
    SELECT array_agg(known[i]) AS keys, array_agg(hashes[i]) AS hashes INTO firsts
    FROM generate_subscripts(chunks, 1) AS i WHERE chunks[i] = 0;
    ready := pgmeaning._importable(c, t, firsts.keys, firsts.hashes);
    fresh := ready.fresh;
    WITH queued AS (
        INSERT INTO pgmeaning.queue AS q (collection_id, model, key)
        SELECT c.id, t.model, k FROM unnest(ready.wanted) AS k WHERE pg_column_size(k) <= 2000 ORDER BY k
        ON CONFLICT ON CONSTRAINT queue_pkey DO UPDATE SET generation = excluded.generation, claimed_by = NULL,
            visible_at = CASE WHEN q.claimed_by IS NULL THEN q.visible_at ELSE now() END
        RETURNING q.key
    )
    SELECT coalesce(array_agg(q.key), '{}') INTO locked FROM queued AS q;
    SELECT w.* INTO ready FROM pgmeaning._importable(c, t, firsts.keys, firsts.hashes) AS w;
    ready.wanted := ARRAY(SELECT unnest(ready.wanted) INTERSECT SELECT unnest(locked));
    PERFORM pgmeaning._put_vectors(c, t, ready.wanted, known, chunks, hashes, texts, vectors);
    DELETE FROM pgmeaning.queue AS q
    WHERE q.collection_id = c.id AND q.model = t.model AND q.key = ANY (ready.wanted);
    taken := cardinality(ready.wanted);
    other := cardinality(firsts.keys) - taken - fresh;
END
$$;

-- Takes up the vectors of a column of the source, a page of rows in the order of the key: those of the collection's
-- length that are not zero, as unit vectors. Whether they are of the model, a sample has told before. A row that has
-- changed since attach() is left to a sidecar: the column may still have the vector of its older text, which would stay
-- for good with the hash of the present one. The changes are read in the rows' own snapshot, so none is missed.
CREATE OR REPLACE FUNCTION pgmeaning._adopt_page(collection text, adopted name, after jsonb, page bigint,
    OUT last_key text, OUT seen bigint, OUT taken bigint)
LANGUAGE plpgsql VOLATILE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C' SET lock_timeout = '5s'
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c     pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(collection));
    t     pgmeaning.target := pgmeaning._active_target(c);
    found record;
BEGIN
    PERFORM pgmeaning._check_readable(c), pgmeaning._check_columns(c.source, ARRAY[adopted::text]);
    IF c.chunking IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L is cut into chunks', collection),
            DETAIL = 'A column holds one vector a row.', HINT = 'attach() without chunking, or let a sidecar embed it.';
    END IF;
    EXECUTE format('WITH last_key AS MATERIALIZED (SELECT * FROM jsonb_to_record($1) AS k (%1$s)), p AS MATERIALIZED ('
        'SELECT %2$s AS key, %3$s AS hash, s.%4$I::vector AS v FROM %5$s AS s WHERE %6$s AND %7$s '
        'ORDER BY %8$s LIMIT $2), changed AS MATERIALIZED ('
        'SELECT i.key FROM pgmeaning.inbox AS i WHERE i.collection_id = $4 '
        'UNION ALL SELECT b.key FROM pgmeaning.bulk_inbox AS b WHERE b.collection_id = $4 '
        'UNION ALL SELECT q.key FROM pgmeaning.queue AS q WHERE q.collection_id = $4 AND q.model = $5) '
        'SELECT count(*) AS seen, (array_agg(p.key::text))[count(*)] AS last_key, '
        'array_agg(p.key::text) FILTER (WHERE o.ok) AS keys, array_agg(p.hash) FILTER (WHERE o.ok) AS hashes, '
        'array_agg(l2_normalize(subvector(p.v, 1, $3))) FILTER (WHERE o.ok) AS vectors '
        'FROM p CROSS JOIN LATERAL (SELECT p.hash IS NOT NULL AND vector_dims(p.v) >= $3 '
        'AND vector_norm(p.v) > 0 AND NOT EXISTS (SELECT FROM changed AS h WHERE h.key = p.key) AS ok) AS o',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._key_json('s', c.key_columns, c),
        pgmeaning._content_hash('s', c), adopted, pgmeaning._relation_name(c.source),
        CASE WHEN after IS NULL THEN 'true' ELSE pgmeaning._behind('s', c.key_columns, c, 'last_key') END,
        pgmeaning._source_guard(c), pgmeaning._column_list('s', c.key_columns))
    INTO found USING after, page, t.dimensions, c.id, t.model;
    seen := found.seen;
    last_key := found.last_key;
    taken := 0;
    IF found.keys IS NOT NULL THEN
        taken := (pgmeaning._import_page(collection, t.fingerprint, found.keys,
            array_fill(0, ARRAY[cardinality(found.keys)]), found.hashes,
            array_fill(NULL::text, ARRAY[cardinality(found.keys)]), found.vectors)).taken;
    END IF;
END
$$;
