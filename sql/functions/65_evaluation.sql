-- How good the results of searches are, as "pgmeaning evaluate" measures it: what the measuring asks the database, and
-- what came out, kept for whoever decides on a new generation.

-- ---------------------------------------------------------------- What was measured

-- What makes a collection's vectors what they are, and how many there are: a measurement is of the present generation
-- as long as all of it but the number is the same.
CREATE OR REPLACE FUNCTION pgmeaning._generation_mark(c pgmeaning.collection) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_build_object('collection_id', c.id, 'model', t.model, 'fingerprint', m.fingerprint,
        'dimensions', t.dimensions, 'vector_type', t.vector_type, 'columns', c.columns, 'template', c.template,
        'image', c.image, 'video', c.video, 'chunking', c.chunking, 'language', c.language,
        'vectors', pgmeaning._row_count(t.vectors))
    FROM pgmeaning.target AS t JOIN pgmeaning.model AS m ON m.name = t.model
    WHERE t.collection_id = c.id
$$;

-- Whether a mark is a present collection's. By its number: names change when a generation takes another's place.
CREATE OR REPLACE FUNCTION pgmeaning._is_present(mark jsonb) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pgmeaning.collection AS c
                   WHERE to_jsonb(c.id) = mark -> 'collection_id'
                     AND pgmeaning._generation_mark(c) - 'vectors' = mark - 'vectors')
$$;

-- What is wrong with the numbers of a record; null: nothing.
CREATE OR REPLACE FUNCTION pgmeaning._record_problem(e pgmeaning.evaluation) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE
        WHEN coalesce(e.measure, '') = '' THEN 'the measure has no name'
        WHEN coalesce(e.queries, 0) < 1 THEN 'it is of no query'
        WHEN e.value IS NULL THEN 'the value is NULL'
        WHEN EXISTS (SELECT FROM unnest(ARRAY[e.value, e.other_value, e.difference_low, e.difference_high]) AS n
                     WHERE n IN ('NaN', 'Infinity', '-Infinity')) THEN 'a number is not finite'
        WHEN e.other_value IS NOT NULL AND e.other_generation_name IS NULL THEN 'other_value is of no generation'
        WHEN e.difference_low > e.difference_high THEN 'difference_low is above difference_high'
        WHEN jsonb_typeof(e.definition) <> 'object' THEN 'the definition is no JSON object' END
$$;

-- Keeps one measure of a generation, beside another's if there is one. The definition says how it was measured: its
-- "way", its "tag" (of part of the queries) and whatever else; the marks of both generations are added here.
CREATE OR REPLACE FUNCTION pgmeaning.record_evaluation(collection text, other_collection text, queries int,
    measure text, value float8, other_value float8 DEFAULT NULL, difference_low float8 DEFAULT NULL,
    difference_high float8 DEFAULT NULL, definition jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(record_evaluation.collection));
    other   pgmeaning.collection;
    e       pgmeaning.evaluation;
    problem text;
BEGIN
    IF other_collection IS NOT NULL THEN
        other := pgmeaning._collection(other_collection);
    END IF;
    e.collection := pgmeaning._base_name(c.name);
    e.generation_name := c.name;
    e.other_generation_name := other.name;
    e.queries := queries;
    e.measure := measure;
    e.value := value;
    e.other_value := other_value;
    e.difference_low := difference_low;
    e.difference_high := difference_high;
    e.definition := coalesce(definition, '{}');
    problem := pgmeaning._record_problem(e);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = 'this evaluation cannot be recorded',
            DETAIL = problem || '.', HINT = '"pgmeaning evaluate" measures and records.';
    END IF;
    e.definition := e.definition || jsonb_build_object('generation', pgmeaning._generation_mark(c),
        'other_generation', CASE WHEN other.id IS NOT NULL THEN pgmeaning._generation_mark(other) END);
    INSERT INTO pgmeaning.evaluation (collection, generation_name, other_generation_name, queries, measure, value,
        other_value, difference_low, difference_high, definition)
    VALUES (e.collection, e.generation_name, e.other_generation_name, e.queries, e.measure, e.value, e.other_value,
        e.difference_low, e.difference_high, e.definition) RETURNING id INTO e.id;
    RETURN e.id;
END
$$;
COMMENT ON FUNCTION pgmeaning.record_evaluation
    IS 'Keeps what was measured of a generation''s searches, and of another''s, with the interval of the difference.';

CREATE OR REPLACE VIEW pgmeaning.evaluations AS
SELECT e.id, e.collection, e.generation_name, e.other_generation_name, e.definition ->> 'way' AS way,
       e.definition ->> 'tag' AS tag, e.queries, e.measure, e.value, e.other_value,
       e.value - e.other_value AS difference, e.difference_low, e.difference_high,
       pgmeaning._is_present(e.definition -> 'generation')
       AND (e.other_generation_name IS NULL OR pgmeaning._is_present(e.definition -> 'other_generation'))
       AS is_current, e.evaluated_at, e.evaluated_by, e.definition
FROM pgmeaning.evaluation AS e;
COMMENT ON VIEW pgmeaning.evaluations
    IS 'What "pgmeaning evaluate" measured; is_current: of generations as they still are. Differences have 95 % '
       'intervals.';

-- ---------------------------------------------------------------- Measuring

-- Judged keys as searches return them, whether the caller sees such a row, and whether it has a vector. The row's own
-- key, where there is one: 1.1 may be written 1.10 there.
CREATE OR REPLACE FUNCTION pgmeaning._judged_keys(collection text, keys jsonb[])
RETURNS TABLE (place bigint, key text, is_there bool, has_vector bool)
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1'
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._collection(collection);
    t       pgmeaning.target := pgmeaning._active_target(c);
    wanted  jsonb[] := pgmeaning._full_keys(c, keys);
BEGIN
    PERFORM pgmeaning._check_search(c, t, 1, NULL);
    RETURN QUERY EXECUTE format('SELECT u.place, coalesce(own.key, u.key)::text, own.key IS NOT NULL, '
        'EXISTS (SELECT FROM %s AS v WHERE %s) '
        'FROM unnest($1) WITH ORDINALITY AS u (key, place) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) '
        'LEFT JOIN LATERAL (SELECT %s AS key FROM %s AS s WHERE %s LIMIT 1) AS own ON true',
        pgmeaning._relation_name(t.vectors),
        pgmeaning._key_match('v', c.vector_key_columns, 'k', c.key_columns, c.key_types),
        pgmeaning._key_record(c.key_columns, c.key_types), pgmeaning._key_json('s', c.key_columns, c),
        pgmeaning._relation_name(c.source), pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    USING wanted;
END
$$;

-- The condition that a row has a vector in each of these collections, too.
CREATE OR REPLACE FUNCTION pgmeaning._condition_of_common_rows(c pgmeaning.collection, others text[]) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(format('(%s) IN (SELECT %s FROM %s)',
                             (SELECT string_agg(quote_ident(k), ', ' ORDER BY i)
                              FROM unnest(c.key_columns) WITH ORDINALITY AS u (k, i)),
                             pgmeaning._vector_key(o),
                             pgmeaning._relation_name((pgmeaning._active_target(o)).vectors)), ' AND ')
    FROM unnest(others) AS name CROSS JOIN LATERAL pgmeaning._collection(name) AS o
$$;

-- search() of a query whose vector is at hand, without reranking. among: only rows that these collections have a vector
-- of, too, so that one which is half filled can be compared.
CREATE OR REPLACE FUNCTION pgmeaning._search_by_vector(collection text, query text, query_vector vector, k bigint,
    mode text DEFAULT NULL, candidates bigint DEFAULT NULL, weights float8[] DEFAULT NULL,
    rank_constant float8 DEFAULT NULL, filter text DEFAULT NULL, among text[] DEFAULT NULL,
    filter_path text DEFAULT current_setting('search_path'))
RETURNS SETOF pgmeaning.ranked_hit
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c      pgmeaning.collection := pgmeaning._collection(collection);
    t      pgmeaning.target := pgmeaning._active_target(c);
    o      pgmeaning.search_options;
    common text := pgmeaning._condition_of_common_rows(c, among);
    hits   pgmeaning.ranked_hit[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, nullif(mode, 'hybrid'));
    PERFORM pgmeaning._check_hybrid(c, weights, rank_constant) WHERE mode = 'hybrid';
    o := pgmeaning._search_options(c, k, filter, NULL, filter_path, mode, candidates, true, NULL);
    IF common IS NOT NULL THEN
        o.condition := concat_ws(' AND ', '(' || o.condition || E'\n)', common);
    END IF;
    hits := pgmeaning._ranked(c, t, query, pgmeaning._to_dimensions(query_vector, t), o, weights, rank_constant);
    IF pgmeaning._is_pinned(c) THEN
        hits := pgmeaning._with_full_keys(c, hits);
    END IF;
    RETURN QUERY SELECT * FROM unnest(hits);
END
$$;
