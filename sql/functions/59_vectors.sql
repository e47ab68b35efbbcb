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
