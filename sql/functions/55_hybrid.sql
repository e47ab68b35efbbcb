-- Hybrid search: words and meaning. Each finds on its own, and what they found is fused by reciprocal rank: a row's score is
-- the sum of weight / (constant + rank), so that neither has to know what the other's scores mean.

-- A text search configuration, by its qualified name.
CREATE OR REPLACE FUNCTION pgmeaning._language(wanted text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (SELECT format('%I.%I', n.nspname, t.cfgname) FROM pg_ts_config AS t JOIN pg_namespace AS n ON n.oid = t.cfgnamespace
            WHERE t.oid = wanted::regconfig);
EXCEPTION WHEN undefined_object OR invalid_schema_name OR invalid_name OR syntax_error THEN
    RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no text search configuration %L', wanted),
        DETAIL = 'Configurations: ' || (SELECT string_agg(t.cfgname, ', ' ORDER BY t.cfgname) FROM pg_ts_config AS t) || '.',
        HINT = 'language => ''english''; simple suits every language, and names.';
END
$$;

-- The column of words on a vector table: a trigger fills it from the row (or the chunk) whose vector is written. The function
-- looks the source up, as it may be renamed; what it is called now is written in, which spares a plan a row.
CREATE OR REPLACE FUNCTION pgmeaning._add_words(c pgmeaning.collection, relation text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    statement text := format('SELECT pg_catalog.to_tsvector(%L, pg_catalog.left(%s, 200000)) FROM %%s AS s WHERE %s',
        c.language, pgmeaning._text_expression(c, 's'),
        (SELECT string_agg(format('s.%I %s ($1).%I', k, pgmeaning._equals(to_regtype(t)), v), ' AND ' ORDER BY i)
         FROM unnest(c.key_columns, c.vector_key_columns, c.key_types) WITH ORDINALITY AS u (k, v, t, i)));
BEGIN
    EXECUTE format('ALTER TABLE %s ADD COLUMN words tsvector', relation);
    EXECUTE format('CREATE INDEX ON %s USING gin (words)', relation);
    EXECUTE format('CREATE OR REPLACE FUNCTION pgmeaning_data.%I() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %L',
        'words_' || c.id, format(
'BEGIN
    IF NEW.chunk_text IS NOT NULL THEN
        NEW.words := to_tsvector(%L, "left"(NEW.chunk_text, 200000));
    ELSE
        EXECUTE (SELECT format(%L, pgmeaning._relation_name(c.source)) FROM pgmeaning.collection AS c WHERE c.id = %s) INTO NEW.words USING NEW;
    END IF;
    RETURN NEW;
END', c.language, statement, c.id));
    EXECUTE format('REVOKE EXECUTE ON FUNCTION pgmeaning_data.%I() FROM PUBLIC', 'words_' || c.id);
    EXECUTE format('CREATE TRIGGER words BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION pgmeaning_data.%I()', relation, 'words_' || c.id);
END
$$;

-- The schema of pg_trgm, or null.
CREATE OR REPLACE FUNCTION pgmeaning._trigrams() RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm' $$;

CREATE OR REPLACE FUNCTION pgmeaning._check_hybrid(c pgmeaning.collection, weights float8[], rank_constant float8) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF c.language IS NULL AND pgmeaning._trigrams() IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L has no words to search by', c.name),
            DETAIL = 'It was attached without a language, and the extension pg_trgm is not installed.',
            HINT = 'attach(..., language => ''english''), or CREATE EXTENSION pg_trgm.';
    ELSIF c.columns = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L has no text', c.name), HINT = 'Leave mode out.';
    ELSIF cardinality(weights) <> 2 OR weights[1] < 0 OR weights[2] < 0 OR weights[1] + weights[2] <= 0
          OR array_position(weights, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('weights are %s', weights),
            HINT = 'Give two numbers from 0 up, that of the vectors and that of the words: weights => ''{1, 1}''.';
    ELSIF rank_constant < 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('rank_constant is %s', rank_constant), HINT = 'It is 60 unless said, and never negative.';
    END IF;
END
$$;

-- Any of the words of a query: all of them would be too much to ask of a question in a natural language.
CREATE OR REPLACE FUNCTION pgmeaning._any_word(language text, query text) RETURNS tsquery
LANGUAGE sql STABLE
AS $$
    SELECT string_agg('''' || replace(replace(l.word, chr(92), chr(92) || chr(92)), '''', '''''') || '''', ' | ')::tsquery
    FROM unnest(tsvector_to_array(to_tsvector(language::regconfig, query))) AS l (word)
$$;

-- The rows that have words of the query, the best first: by the column of words; where there is none, or it finds nothing
-- (a mistyped word), by trigrams of the text. Not ts_rank_cd: where any of the words will do, how close they stand says little
-- (nDCG@10 on semanlink: .363 instead of .481, which is what BM25 has).
CREATE OR REPLACE FUNCTION pgmeaning._by_words(c pgmeaning.collection, t pgmeaning.target, query text, query_vector vector, depth int,
    condition text, grouped bool)
RETURNS SETOF pgmeaning.ranked
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    of_row  text := pgmeaning._column_list('v', c.vector_key_columns);
    frame   text[] := ARRAY[  -- not a format: a filter may hold a percent sign
        format('SELECT %s, v.chunk, v.chunk_text, v.embedding <=> $2, NULL::float8, v.model, NULL::int, w.rank::int '
               'FROM (SELECT m.at, row_number() OVER (ORDER BY m.rank) AS rank '
               'FROM (SELECT v.ctid AS at, row_number() OVER (ORDER BY w.closeness DESC, %s, v.chunk) AS rank, %s AS of_row '
               'FROM %s AS v JOIN %s AS s ON %s CROSS JOIN LATERAL (SELECT ',
            pgmeaning._key_json('v', c.vector_key_columns, c.key_columns), of_row,
            CASE WHEN c.chunking IS NOT NULL AND coalesce(grouped, true)  -- a row counts by the best of its chunks
                 THEN format('row_number() OVER (PARTITION BY %s ORDER BY w.closeness DESC, v.chunk)', of_row) ELSE '1' END,
            pgmeaning._relation_name(t.vectors), pgmeaning._source_rows(c, condition),
            pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types)),
        ' AS closeness OFFSET 0) AS w WHERE ',
        format(') AS m WHERE m.of_row = 1 ORDER BY rank LIMIT $3) AS w JOIN %s AS v ON v.ctid = w.at ORDER BY w.rank', pgmeaning._relation_name(t.vectors))];
    words   tsquery;
    trigram text := pgmeaning._trigrams();
BEGIN
    IF c.language IS NOT NULL THEN
        words := pgmeaning._any_word(c.language, query);
        RETURN QUERY EXECUTE frame[1] || 'ts_rank(v.words, $1, 1)' || frame[2] || 'v.words @@ $1' || frame[3] USING words, query_vector, depth;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF trigram IS NOT NULL THEN
        RETURN QUERY EXECUTE frame[1] || format('%s.word_similarity($1, coalesce(v.chunk_text, %s))', trigram, pgmeaning._text_expression(c, 's'))
            || frame[2] || 'w.closeness >= 0.3' || frame[3] USING query, query_vector, depth;
    END IF;
END
$$;

-- Both ways, fused. A row that only one of them found has no rank from the other. Each may have found a row by another chunk: the
-- one nearest in meaning is shown.
CREATE OR REPLACE FUNCTION pgmeaning._hybrid(c pgmeaning.collection, t pgmeaning.target, query text, query_vector vector, k int, condition text,
    candidates int, weights float8[], rank_constant float8, grouped bool)
RETURNS SETOF pgmeaning.ranked
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    depth int := greatest(k, 100);  -- what is far down either list changes little
    share float8[] := coalesce(weights, '{1,1}');
    above float8 := coalesce(rank_constant, 60);
    nearest pgmeaning.found[] := pgmeaning._nearest_rows(c, t, query_vector, depth, condition, NULL, candidates, NULL, grouped);
BEGIN
    RETURN QUERY
    WITH by_vector AS (
        SELECT n.*, n.ordinality::int AS place FROM unnest(nearest) WITH ORDINALITY AS n
    )
    SELECT coalesce(v.key, w.key), coalesce(v.chunk, w.chunk), coalesce(v.chunk_text, w.chunk_text), coalesce(v.distance, w.distance),
           coalesce(share[1] / (above + v.place), 0) + coalesce(share[2] / (above + w.text_rank), 0) AS fused,
           coalesce(v.model, w.model), v.place, w.text_rank
    FROM by_vector AS v
    FULL JOIN pgmeaning._by_words(c, t, query, query_vector, depth, condition, grouped) AS w
        ON w.key = v.key AND CASE WHEN grouped THEN 0 ELSE w.chunk END = CASE WHEN grouped THEN 0 ELSE v.chunk END
    ORDER BY fused DESC, 4, 1, 2 LIMIT k;
END
$$;
