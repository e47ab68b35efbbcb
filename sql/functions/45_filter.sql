-- Filters: a condition in SQL, with parameters or without, or equalities as a JSON object. All of it runs with the
-- caller's rights.

-- The filter with its parameters ($1, $2, ...) written in as quoted literals, whose types the context decides as for a
-- driver's parameters. Only what is certainly no part of a literal, a name or a comment is taken for one: so forms
-- whose end depends on settings or context (backslashes, prefixed strings, dollar quotes, comments) are refused beside
-- parameters.
CREATE OR REPLACE FUNCTION pgmeaning._bind(filter text, params text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $bind$
DECLARE
    -- A parameter's number; or a string, a quoted name, a name, a number, blanks, a sign that begins no comment; or any
    -- other character, which may not be there.
    piece   constant text := $$(?:\$(\d{1,4})(?![\w$'"]|[^\x01-\x7f])|($$
        || $$'[^'\\]*'|"[^"]*"|(?:[a-zA-Z_]|[^\x01-\x7f])(?:[\w$]|[^\x01-\x7f])*(?!['"])|$$
        || $$\d+|\s+|-(?!-)|/(?!\*)|[^\w\s$'"\\/-])|(.))$$;
    -- In one pass: a filter may hold many thousands of values.
    pieces  text[][] := ARRAY(SELECT p.found FROM regexp_matches(filter, piece, 'g') WITH ORDINALITY AS p (found, place)
                              ORDER BY p.place);
    numbers int[] := ARRAY(SELECT DISTINCT p.value::int FROM unnest(pieces) WITH ORDINALITY AS p (value, place)
                           WHERE p.place % 3 = 1 AND p.value IS NOT NULL ORDER BY 1);
    odd     int := (SELECT min(p.place) FROM unnest(pieces) WITH ORDINALITY AS p (value, place)
                    WHERE p.place % 3 = 0 AND p.value IS NOT NULL);
BEGIN
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('a filter with parameters may not hold %L', (
                SELECT left(string_agg(CASE WHEN p.place % 3 = 1 THEN '$' ELSE '' END || p.value, ''
                                       ORDER BY p.place), 20)
                FROM unnest(pieces) WITH ORDINALITY AS p (value, place) WHERE p.place >= odd)),
            DETAIL = 'It may hold names, numbers, operators and plain strings, but no comments and backslashes.',
            HINT = 'Pass that string as one more parameter.';
    ELSIF numbers <> '{}' AND (numbers[1] < 1 OR numbers[cardinality(numbers)] > cardinality(params)) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('the filter refers to $%s, but the length of filter_params is %s',
                CASE WHEN numbers[1] < 1 THEN numbers[1] ELSE numbers[cardinality(numbers)] END, cardinality(params)),
            HINT = 'Pass them as filter_params => ARRAY[...]; the first is $1.';
    ELSIF cardinality(numbers) < cardinality(params) THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014',
            MESSAGE = format('not all of the %s filter_params are used', cardinality(params)),
            HINT = 'Write $1 where the first one belongs.';
    END IF;
    RETURN (SELECT string_agg(CASE WHEN p.place % 3 = 1 THEN format('(%L)', params[p.value::int]) ELSE p.value END, ''
                              ORDER BY p.place)
            FROM unnest(pieces) WITH ORDINALITY AS p (value, place) WHERE p.value IS NOT NULL);
END
$bind$;

-- {"lang": "en", "price": null, "year": [2024, 2025]}: columns that equal a value, are null, or equal one of several.
CREATE OR REPLACE FUNCTION pgmeaning._equalities(c pgmeaning.collection, wanted jsonb) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    entry     record;
    condition text := 'true';
BEGIN
    FOR entry IN SELECT e.key, e.value, jsonb_typeof(e.value) AS kind, a.atttypid AS type,
                        a.atttypid = 'jsonb'::regtype OR t.typcategory = 'A' AS compound
                 FROM jsonb_each(wanted) AS e
                 LEFT JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = e.key
                                               AND a.attnum > 0 AND NOT a.attisdropped
                 LEFT JOIN pg_type AS t ON t.oid = a.atttypid LOOP
        IF entry.type IS NULL THEN
            PERFORM pgmeaning._check_columns(c.source, ARRAY[entry.key]);
        ELSIF entry.kind = 'null' THEN
            condition := condition || format(' AND %I IS NULL', entry.key);
        ELSIF entry.kind = 'array' AND NOT entry.compound THEN
            condition := condition || format(
                CASE WHEN entry.value @> '[null]' THEN ' AND (%1$I %2$s ANY (%3$L::%4$s[]) OR %1$I IS NULL)'
                     ELSE ' AND %1$I %2$s ANY (%3$L::%4$s[])' END, entry.key, pgmeaning._equals(entry.type),
                ARRAY(SELECT jsonb_array_elements_text(entry.value)), pgmeaning._type_name(entry.type, -1));
        ELSE
            condition := condition || format(' AND %I %s %L::%s', entry.key, pgmeaning._equals(entry.type),
                CASE WHEN entry.type = 'jsonb'::regtype THEN entry.value::text
                     WHEN entry.kind = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(entry.value))::text
                     ELSE entry.value #>> '{}' END, pgmeaning._type_name(entry.type, -1));
        END IF;
    END LOOP;
    RETURN condition;
END
$$;

-- The search_path for statements that hold a filter, so that its names are looked up where its caller's own statements
-- would look. The system's names come first, as everywhere, and pgvector's are found, too. All runs with the caller's
-- rights, so nothing can be planted for it that could not be for a statement of the caller's.
CREATE OR REPLACE FUNCTION pgmeaning._filter_path(path text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat_ws(', ', 'pg_catalog', nullif(btrim(path), ''),
        (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector')) WHERE path IS NOT NULL
$$;

-- For drivers that have no array of mixed types: JSON's numbers, strings, nulls and (as text) arrays and objects.
CREATE OR REPLACE FUNCTION pgmeaning.filter_params(params jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
BEGIN
    IF jsonb_typeof(params) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'filter_params takes an array of JSON',
            DETAIL = format('It is %s.', left(params::text, 100)), HINT = 'filter_params(''[20, "en"]'')';
    END IF;
    RETURN ARRAY(SELECT CASE WHEN jsonb_typeof(p.value) = 'array'
                             THEN ARRAY(SELECT jsonb_array_elements_text(p.value))::text ELSE p.value #>> '{}' END
                 FROM jsonb_array_elements(params) WITH ORDINALITY AS p (value, place) ORDER BY p.place);
END
$$;
COMMENT ON FUNCTION pgmeaning.filter_params IS 'Parameters of a filter from JSON, such as [20, "en"].';

-- A filter as a condition on the source's rows, checked; null: no filter. One that closes our parenthesis and opens
-- another is none, nor is one that only fits without the parentheses: so both are tried. Nothing is read.
CREATE OR REPLACE FUNCTION pgmeaning._condition(c pgmeaning.collection, filter text, params text[], path text)
RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    source    text := pgmeaning._relation_name(c.source);
    condition text := filter;
    probe     refcursor;
BEGIN
    IF array_ndims(params) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'filter_params must not hold arrays',
            DETAIL = 'Each parameter is one value.',
            HINT = 'Write an array as text: filter => ''lang = ANY ($1)'', filter_params => ARRAY[''{en,fr}''].';
    ELSIF params IS NOT NULL AND (filter IS NULL OR filter ~ '^[[:space:]]*{') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'filter_params were passed, but no filter that takes them',
            HINT = 'filter => ''price < $1'', filter_params => ARRAY[20]';
    ELSIF filter ~ '^[[:space:]]*{' THEN  -- no condition in SQL begins with a brace
        condition := pgmeaning._equalities(c, filter::jsonb);
    ELSIF params IS NOT NULL THEN
        condition := pgmeaning._bind(filter, ARRAY(SELECT unnest(params)));  -- counted from 1
    END IF;
    IF condition IS NOT NULL THEN
        PERFORM set_config('search_path', path, true) WHERE path IS NOT NULL;
        -- A cursor takes one statement only: a second one behind a semicolon must not run before it is refused.
        OPEN probe NO SCROLL FOR EXECUTE format(E'SELECT FROM %s WHERE (%s\n) LIMIT 0', source, condition);
        CLOSE probe;
        OPEN probe NO SCROLL FOR EXECUTE format(E'SELECT FROM %s WHERE %s\n LIMIT 0', source, condition);
        CLOSE probe;
    END IF;
    RETURN condition;
EXCEPTION WHEN syntax_error OR undefined_column OR undefined_function OR undefined_table OR undefined_object
               OR undefined_parameter OR invalid_schema_name OR datatype_mismatch OR ambiguous_column OR grouping_error
               OR windowing_error OR wrong_object_type OR data_exception OR indeterminate_datatype
               OR feature_not_supported OR invalid_cursor_definition OR check_violation THEN
    RAISE EXCEPTION USING ERRCODE = 'PM014',
        MESSAGE = format('the filter is not a condition on the rows of %s: %s', source, SQLERRM),
        DETAIL = format('It is %L.', left(filter, 1000)),
        HINT = 'Write what could follow WHERE, such as filter => ''lang = $1'', filter_params => ARRAY[''en'']; '
               'names are looked up in the caller''s search_path.';
END
$$;

-- The rows of the source that may be found, by their keys: all, or those that the condition lets through. No other
-- column: the caller may have been granted a few.
CREATE OR REPLACE FUNCTION pgmeaning._source_rows(c pgmeaning.collection, condition text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN condition IS NULL THEN pgmeaning._relation_name(c.source)
                ELSE format(E'(SELECT %s FROM %s WHERE (%s\n))', (SELECT string_agg(quote_ident(k), ', ' ORDER BY i)
                                                              FROM unnest(c.key_columns) WITH ORDINALITY AS u (k, i)),
                            pgmeaning._relation_name(c.source), condition) END
$$;

-- How many rows the caller may find, as the planner estimates it from statistics, the condition and row security.
-- VOLATILE, since EXPLAIN may not run in a STABLE function.
CREATE OR REPLACE FUNCTION pgmeaning._rows_expected(c pgmeaning.collection, condition text, path text)
RETURNS float8
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    plan json;
BEGIN
    PERFORM set_config('search_path', path, true) WHERE path IS NOT NULL;
    EXECUTE 'EXPLAIN (FORMAT JSON) SELECT FROM ' || pgmeaning._source_rows(c, condition) || ' AS s' INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END
$$;

-- About how many vectors there are, as the planner estimates it: rows per page when last counted, times pages now.
CREATE OR REPLACE FUNCTION pgmeaning._vectors_expected(vectors regclass) RETURNS float8
LANGUAGE sql STABLE
AS $$
    SELECT pg_relation_size(r.oid) / 8192.0::float8 * CASE
        WHEN r.reltuples > 0 AND r.relpages > 0 THEN r.reltuples / r.relpages
        ELSE greatest(1, (8000 / (100 + a.atttypmod / CASE WHEN a.atttypmod > 480 THEN 8 ELSE 0.24 END))::float8) END
    FROM pg_class AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = 'embedding' WHERE r.oid = vectors
$$;
