-- Hybrid search: words and meaning. Each finds on its own, and what they found is fused by reciprocal rank: a row's
-- score is the sum of weight / (constant + rank), so that neither has to know what the other's scores mean.

-- A text search configuration, by its qualified name.
CREATE OR REPLACE FUNCTION pgmeaning._language(wanted text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (SELECT format('%I.%I', n.nspname, t.cfgname) FROM pg_ts_config AS t
            JOIN pg_namespace AS n ON n.oid = t.cfgnamespace
            WHERE t.oid = wanted::regconfig);
EXCEPTION WHEN undefined_object OR invalid_schema_name OR invalid_name OR syntax_error THEN
    RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('there is no text search configuration %L', wanted),
        DETAIL = format('Configurations: %s.', (SELECT string_agg(t.cfgname, ', ' ORDER BY t.cfgname)
                                                FROM pg_ts_config AS t)),
        HINT = 'language => ''english''; simple suits every language, and names.';
END
$$;

-- The column of words on a vector table: written with the vector, or by a trigger from the text of the chunk.
CREATE OR REPLACE FUNCTION pgmeaning._add_words(c pgmeaning.collection, relation text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT 'words' = ANY (pgmeaning._column_names(relation::regclass)) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN words tsvector', relation);
        EXECUTE format('CREATE INDEX ON %s USING gin (words)', relation);
    END IF;
    PERFORM pgmeaning._make_words_function(c), pgmeaning._fill_words(c, relation);
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._fill_words(c pgmeaning.collection, relation text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER words BEFORE INSERT ON %s '
                   'FOR EACH ROW EXECUTE FUNCTION pgmeaning_data.%I()', relation, 'words_' || c.id);
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._make_words_function(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    trigger_function text := format('pgmeaning_data.%I', 'words_' || c.id);
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql '
                   'SET search_path = pg_catalog, pg_temp AS %L', trigger_function, pgmeaning._words_body(c));
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s() FROM PUBLIC', trigger_function);
END
$$;

-- That trigger's function, for chunks. Other rows' words come with their vectors: it reads no source, which could run
-- code of its owner's in the sidecar.
CREATE OR REPLACE FUNCTION pgmeaning._words_body(c pgmeaning.collection) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT format('
BEGIN
    IF NEW.words IS NULL AND NEW.chunk_text IS NOT NULL THEN
        NEW.words := to_tsvector(%L, "left"(NEW.chunk_text, 200000));
    END IF;
    RETURN NEW;
END
', c.language)
$$;

-- The schema of pg_trgm, or null.
CREATE OR REPLACE FUNCTION pgmeaning._trigrams() RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
      WHERE e.extname = 'pg_trgm' $$;

CREATE OR REPLACE FUNCTION pgmeaning._check_hybrid(c pgmeaning.collection, weights float8[], rank_constant float8)
RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF c.language IS NULL AND pgmeaning._trigrams() IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L has no words to search by', c.name),
            DETAIL = 'It was attached without a language, and the extension pg_trgm is not installed.',
            HINT = 'attach(..., language => ''english''), or CREATE EXTENSION pg_trgm.';
    ELSIF c.columns = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('collection %L has no text', c.name),
            HINT = 'Leave mode out.';
    ELSIF cardinality(weights) <> 2 OR weights[1] < 0 OR weights[2] < 0 OR weights[1] + weights[2] <= 0
          OR array_position(weights, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('weights are %s', weights),
            HINT = 'Pass two numbers that are not negative, for the vectors and for the words: weights => ''{1, 1}''.';
    ELSIF rank_constant < 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = format('rank_constant is %s', rank_constant),
            HINT = 'It must not be negative; leave it out for 60.';
    END IF;
END
$$;

-- Any of the words of a query: all of them would be too much to ask of a question in a natural language.
CREATE OR REPLACE FUNCTION pgmeaning._any_word(language text, query text) RETURNS tsquery
LANGUAGE sql STABLE
AS $$
    SELECT string_agg('''' || replace(replace(l.word, chr(92), chr(92) || chr(92)), '''', '''''') || '''',
                      ' | ')::tsquery
    FROM unnest(tsvector_to_array(to_tsvector(language::regconfig, query))) AS l (word)
$$;

-- The rows that have words of the query, the best first: by the column of words; where there is none, or it finds
-- nothing (a mistyped word), by trigrams of the text. Not ts_rank_cd: where any of the words will do, how close
-- together they stand says little (nDCG@10 on semanlink: .363 instead of .481, which is what BM25 has).
CREATE OR REPLACE FUNCTION pgmeaning._by_words(c pgmeaning.collection, t pgmeaning.target, query text,
    query_vector vector, o pgmeaning.search_options) RETURNS SETOF pgmeaning.ranked_hit
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    frame   text[] := pgmeaning._by_words_frame(c, t, o);
    trigram text := pgmeaning._trigrams();
BEGIN
    IF c.language IS NOT NULL THEN
        PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
        RETURN QUERY EXECUTE frame[1] || 'ts_rank(v.words, $1, 1)' || frame[2] || 'v.words @@ $1' || frame[3]
            USING pgmeaning._any_word(c.language, query), query_vector, o.k;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF trigram IS NOT NULL THEN
        PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
        RETURN QUERY EXECUTE frame[1]
            || format('%s.word_similarity($1, coalesce(v.chunk_text, %s))', trigram, pgmeaning._text_expression(c, 's'))
            || frame[2] || 'w.closeness >= 0.3' || frame[3] USING query, query_vector, o.k;
    END IF;
END
$$;

-- The statement around two expressions: how close the words of v are to the query, $1, and whether they are close at
-- all; $2 is the query's vector, $3 how many rows. In three pieces and not as a format, since a filter may hold a
-- percent sign.
CREATE OR REPLACE FUNCTION pgmeaning._by_words_frame(c pgmeaning.collection, t pgmeaning.target,
    o pgmeaning.search_options)
RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
    keys    text := pgmeaning._column_list('v', c.vector_key_columns);
    -- A row counts by the best of its chunks.
    place   text := CASE WHEN c.chunking IS NULL OR NOT o.grouped THEN '1' ELSE
                        format('row_number() OVER (PARTITION BY %s ORDER BY w.closeness DESC, v.chunk)', keys) END;
BEGIN
    RETURN ARRAY[
        format('SELECT %s, v.chunk, v.chunk_text, v.embedding <=> $2, NULL::float8, v.model, NULL::int, w.rank::int '
               'FROM (SELECT m.at, row_number() OVER (ORDER BY m.rank) AS rank '
               'FROM (SELECT v.ctid AS at, row_number() OVER (ORDER BY w.closeness DESC, %s, v.chunk) AS rank, '
               '%s AS of_row FROM %s AS v JOIN %s AS s ON %s CROSS JOIN LATERAL (SELECT ',
            pgmeaning._key_json('v', c.vector_key_columns, c), keys, place,
            vectors, pgmeaning._source_rows(c, o.condition),
            pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types)),
        ' AS closeness OFFSET 0) AS w WHERE ',
        format(') AS m WHERE m.of_row = 1 ORDER BY rank LIMIT $3) AS w JOIN %s AS v ON v.ctid = w.at ORDER BY w.rank',
               vectors)];
END
$$;

-- What was found by words, without rows whose content is another by now: which words match would tell what a row said
-- that the caller may never have seen. Ranked anew, as if there were none.
CREATE OR REPLACE FUNCTION pgmeaning._without_old_words(c pgmeaning.collection, t pgmeaning.target,
    hits pgmeaning.ranked_hit[]) RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    current bool[] := pgmeaning._up_to_date(c, t, ARRAY(SELECT h.key FROM unnest(hits) AS h));
BEGIN
    RETURN ARRAY(SELECT ROW(h.key, h.chunk, h.chunk_text, h.distance, h.score, h.model, h.vector_rank,
                            (row_number() OVER (ORDER BY h.text_rank))::int)::pgmeaning.ranked_hit
                 FROM unnest(hits) WITH ORDINALITY AS h WHERE current[h.ordinality] ORDER BY h.text_rank);
END
$$;

-- Both ways, fused. A row that only one of them found has no rank from the other. Each may have found a row by another
-- chunk: the one nearest in meaning is shown.
CREATE OR REPLACE FUNCTION pgmeaning._hybrid(c pgmeaning.collection, t pgmeaning.target, query text,
    query_vector vector, o pgmeaning.search_options, weights float8[], rank_constant float8)
RETURNS SETOF pgmeaning.ranked_hit
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    share    float8[] := coalesce(weights, '{1,1}');
    above    float8 := coalesce(rank_constant, 60);
    deep     pgmeaning.search_options := o;
    nearest  pgmeaning.search_hit[];
    by_words pgmeaning.ranked_hit[];
BEGIN
    deep.k := greatest(o.k, 100);  -- what is far down either list changes little
    deep.mode := NULL;
    nearest := pgmeaning._nearest_rows(c, t, query_vector, deep);
    by_words := ARRAY(SELECT w FROM pgmeaning._by_words(c, t, query, query_vector, deep) AS w);
    IF row_security_active(c.source::oid) THEN
        by_words := pgmeaning._without_old_words(c, t, by_words);
    END IF;
    RETURN QUERY
    WITH by_vector AS (
        SELECT n.*, n.ordinality::int AS place FROM unnest(nearest) WITH ORDINALITY AS n
    )
    SELECT coalesce(v.key, w.key), coalesce(v.chunk, w.chunk), coalesce(v.chunk_text, w.chunk_text),
           coalesce(v.distance, w.distance),
           coalesce(share[1] / (above + v.place), 0) + coalesce(share[2] / (above + w.text_rank), 0) AS fused,
           coalesce(v.model, w.model), v.place, w.text_rank
    FROM by_vector AS v
    FULL JOIN unnest(by_words) AS w
        ON w.key = v.key AND CASE WHEN o.grouped THEN 0 ELSE w.chunk END = CASE WHEN o.grouped THEN 0 ELSE v.chunk END
    ORDER BY fused DESC, 4, 1, 2 LIMIT o.k;
END
$$;
