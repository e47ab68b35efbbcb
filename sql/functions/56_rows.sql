-- The rows of a collection's table, as a client writes, reads and deletes them by key or by filter, and what is
-- embedded of them, for a client that makes their vectors itself. All of it runs with the caller's rights.

-- A moment in metadata, such as "2024-05-01" or "2024-05-01T12:30:00+02:00"; null for any other value. Without a zone,
-- it is in UTC. The pattern keeps the exception, which costs a subtransaction, for what nearly is a moment.
CREATE OR REPLACE FUNCTION pgmeaning._moment(value jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
BEGIN
    IF jsonb_typeof(value) <> 'string' OR value #>> '{}' !~ '^\d{4}-\d\d-\d\d($|[T ]\d\d:\d\d)' THEN
        RETURN NULL;
    END IF;
    RETURN (value #>> '{}')::timestamptz;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- What a statement about the rows needs: their table, its key and its columns; which of these are jsonb, and which can
-- be written and hold no vector.
CREATE OR REPLACE FUNCTION pgmeaning._row_source(collection text, OUT source text, OUT key_columns text[],
    OUT key_types text[], OUT columns text[], OUT jsonb_columns text[], OUT plain_columns text[], OUT key_record text,
    OUT is_record text, OUT key_json text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
BEGIN
    source := pgmeaning._relation_name(c.source);
    key_columns := c.key_columns;
    key_types := c.key_types;
    SELECT array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE a.atttypid = 'jsonb'::regtype),
           array_agg(a.attname ORDER BY a.attnum) FILTER (
               WHERE a.attgenerated = '' AND t.typname NOT IN ('vector', 'halfvec', 'sparsevec', 'bytea', 'tsvector'))
    INTO jsonb_columns, plain_columns
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = c.source AND a.attnum > 0 AND NOT a.attisdropped;
    jsonb_columns := coalesce(jsonb_columns, '{}');
    columns := pgmeaning._column_names(c.source);
    key_record := pgmeaning._key_record(c.key_columns, c.key_types);
    is_record := pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types);
    key_json := pgmeaning._key_json('s', c.key_columns, c);
END
$$;

-- Those of keys that can be keys of the collection, in full; null for the others, such as a word where a number stands.
CREATE OR REPLACE FUNCTION pgmeaning._possible_key(c pgmeaning.collection, key jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN pgmeaning._full_key(c, key);
EXCEPTION WHEN SQLSTATE 'PM014' THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._possible_keys(collection text, keys jsonb[]) RETURNS text[]
LANGUAGE sql STABLE
AS $$
    SELECT ARRAY(SELECT pgmeaning._possible_key(c, u.key)::text
                 FROM unnest(keys) WITH ORDINALITY AS u (key, place) ORDER BY u.place)
    FROM pgmeaning._collection(collection) AS c
$$;

-- The keys of the rows that a filter lets through, in no order; null: of all. A filter is what it is for search().
CREATE OR REPLACE FUNCTION pgmeaning._matching_keys(collection text, filter text, params text[], most bigint,
    path text DEFAULT current_setting('search_path')) RETURNS SETOF text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c         pgmeaning.collection := pgmeaning._collection(collection);
    condition text := pgmeaning._condition(c, filter, params, pgmeaning._filter_path(path));
BEGIN
    PERFORM set_config('search_path', pgmeaning._filter_path(path), true) WHERE condition IS NOT NULL;
    RETURN QUERY EXECUTE format(E'SELECT pgmeaning._full_key($2, %s)::text FROM %s AS s WHERE (%s\n) LIMIT $1',
        pgmeaning._key_json('s', c.key_columns, c), pgmeaning._relation_name(c.source), coalesce(condition, 'true'))
    USING most, c;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._count_rows(collection text, filter text, params text[],
    path text DEFAULT current_setting('search_path')) RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c         pgmeaning.collection := pgmeaning._collection(collection);
    condition text := pgmeaning._condition(c, filter, params, pgmeaning._filter_path(path));
    counted   bigint;
BEGIN
    PERFORM set_config('search_path', pgmeaning._filter_path(path), true) WHERE condition IS NOT NULL;
    EXECUTE format(E'SELECT count(*) FROM %s AS s WHERE (%s\n)', pgmeaning._relation_name(c.source),
                   coalesce(condition, 'true')) INTO counted;
    RETURN counted;
END
$$;

-- The different values, as JSON, of a column or of what is at a path in a jsonb column, and in how many rows each is;
-- of the rows that a filter lets through. What is missing is none. 1 and 1.0 differ, as they do for who wrote them.
CREATE OR REPLACE FUNCTION pgmeaning._column_values(collection text, col text, keys text[], filter text,
    params text[], path text DEFAULT current_setting('search_path'))
RETURNS TABLE (value text, number_of_rows bigint)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c         pgmeaning.collection := pgmeaning._collection(collection);
    condition text := pgmeaning._condition(c, filter, params, pgmeaning._filter_path(path));
BEGIN
    PERFORM pgmeaning._check_columns(c.source, ARRAY[col]);
    PERFORM set_config('search_path', pgmeaning._filter_path(path), true) WHERE condition IS NOT NULL;
    RETURN QUERY EXECUTE format(E'SELECT v.value::text, count(*) FROM %s AS s '
        'CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(s.%I) #> $1 AS value OFFSET 0) AS v '
        'WHERE (%s\n) AND v.value <> ''null'' GROUP BY v.value::text ORDER BY v.value::text COLLATE "C"',
        pgmeaning._relation_name(c.source), col, coalesce(condition, 'true'))
    USING keys;
END
$$;

-- The keys of a jsonb column's objects, with the kinds of their values.
CREATE OR REPLACE FUNCTION pgmeaning._metadata_kinds(collection text, col text)
RETURNS TABLE (key text, kind text, number_of_rows bigint)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
BEGIN
    PERFORM pgmeaning._check_columns(c.source, ARRAY[col]);
    RETURN QUERY EXECUTE format('SELECT e.key, '
        'CASE WHEN jsonb_typeof(e.value) = ''number'' AND e.value::text ~ ''[.]'' THEN ''real'' '
        'ELSE jsonb_typeof(e.value) END, count(*) FROM %s AS s '
        'CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(s.%I) = ''object'' THEN s.%2$I END) AS e '
        'WHERE e.value <> ''null'' GROUP BY 1, 2 ORDER BY 1, 3 DESC', pgmeaning._relation_name(c.source), col);
END
$$;

-- The texts of those of the rows that have content, but no vector of it, and its hash: as a sidecar reads them.
CREATE OR REPLACE FUNCTION pgmeaning._owed_texts(collection text, keys jsonb[], characters int)
RETURNS TABLE (key text, content_hash bytea, texts text[])
LANGUAGE plpgsql VOLATILE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(collection));
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    PERFORM pgmeaning._check_readable(c), pgmeaning._check_key(c);
    RETURN QUERY EXECUTE format('SELECT u.key::text, s.content_hash, s.texts '
        'FROM unnest($1) WITH ORDINALITY AS u (key, place) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'CROSS JOIN LATERAL (SELECT %s AS content_hash, ARRAY[%s]::text[] AS texts FROM %s AS s '
        'WHERE %s AND %s OFFSET 0) AS s '
        'LEFT JOIN LATERAL (SELECT v.content_hash FROM %s AS v WHERE %s AND v.chunk = 0 OFFSET 0) AS v ON true '
        'WHERE s.content_hash IS NOT NULL AND v.content_hash IS DISTINCT FROM s.content_hash ORDER BY u.place',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._content_hash('s', c),
        (SELECT string_agg(format('"left"(%s, $2)', pgmeaning._column_text('s', c.source, u.col)), ', ' ORDER BY u.i)
         FROM unnest(c.columns) WITH ORDINALITY AS u (col, i)),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types), pgmeaning._source_guard(c),
        pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types))
    USING pgmeaning._full_keys(c, keys), characters;
END
$$;

-- The stored vectors of keys and numbers of chunks; a place that is not told has none.
CREATE OR REPLACE FUNCTION pgmeaning._stored_vectors(collection text, keys jsonb[], chunks int[])
RETURNS TABLE (place bigint, embedding vector, model text, fingerprint text)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._collection(collection);
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    PERFORM pgmeaning._check_search(c, t, 1, NULL);
    RETURN QUERY EXECUTE format('SELECT u.place, v.embedding::vector, $2, $3 '
        'FROM unnest($1, $4) WITH ORDINALITY AS u (key, chunk, place) '
        'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'CROSS JOIN LATERAL (SELECT v.embedding FROM %s AS v WHERE %s AND v.chunk = u.chunk OFFSET 0) AS v '
        'WHERE EXISTS (SELECT FROM %s AS s WHERE %s)',
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    USING pgmeaning._full_keys(c, keys), t.model,
        (SELECT m.fingerprint FROM pgmeaning.model AS m WHERE m.name = t.model), chunks;
END
$$;
