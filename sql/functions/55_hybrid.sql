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

-- The column of words on a vector table, written with the vector, or by a trigger from the text of the chunk; the
-- numbers of its rows; and the posting lists. Whatever of it is missing.
CREATE OR REPLACE FUNCTION pgmeaning._add_words(c pgmeaning.collection, t pgmeaning.target) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relation text := pgmeaning._relation_name(t.vectors);
    columns  name[] := pgmeaning._column_names(t.vectors);
    old_gin  regclass;
BEGIN
    IF NOT 'words' = ANY (columns) THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN words tsvector', relation);
    END IF;
    PERFORM pgmeaning._add_numbers(c, t.vectors) WHERE NOT pgmeaning._gives_numbers(t.vectors);
    -- What earlier versions searched by: writing it took longer than all else.
    SELECT i.indexrelid INTO old_gin FROM pg_index AS i JOIN pg_class AS r ON r.oid = i.indexrelid
    JOIN pg_am AS m ON m.oid = r.relam AND m.amname = 'gin'
    WHERE i.indrelid = t.vectors AND r.relname LIKE '%words_idx';
    IF old_gin IS NOT NULL THEN
        EXECUTE format('DROP INDEX %s', pgmeaning._relation_name(old_gin));
    END IF;
    PERFORM pgmeaning._make_words_function(c), pgmeaning._fill_words(c, relation);
    PERFORM pgmeaning._make_postings(c, t) WHERE NOT pgmeaning._has_postings(t);
END
$$;

-- Numbers for the rows of a vector table: those that are there get theirs from a sidecar.
CREATE OR REPLACE FUNCTION pgmeaning._add_numbers(c pgmeaning.collection, vectors regclass) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relation text := pgmeaning._relation_name(vectors);
    numbers  text := format('pgmeaning_data.%I', 'words_id_' || c.id);
    owner    regrole := (SELECT r.relowner FROM pg_class AS r WHERE r.oid = vectors);
BEGIN
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS words_id bigint', relation);
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %s', numbers);
    EXECUTE format('ALTER SEQUENCE %s OWNER TO %s', numbers, owner);
    EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.words_id', numbers, relation);
    EXECUTE format('ALTER TABLE %s ALTER COLUMN words_id SET DEFAULT nextval(%L)', relation, numbers);
    IF NOT EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = vectors AND a.attnum = i.indkey[0]
                   WHERE i.indrelid = vectors AND i.indnkeyatts = 1 AND a.attname = 'words_id') THEN
        EXECUTE format('CREATE INDEX ON %s (words_id)', relation);
    END IF;
END
$$;

-- Whether the posting lists are there, with the columns that go with the extension vector.
CREATE OR REPLACE FUNCTION pgmeaning._has_postings(t pgmeaning.target) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM pgmeaning.word_index AS x
                   WHERE x.collection_id = t.collection_id AND x.model = t.model
                     AND pgmeaning._column_names(x.postings) @> '{few,many}')
$$;

CREATE OR REPLACE FUNCTION pgmeaning._fill_words(c pgmeaning.collection, relation text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER words BEFORE INSERT ON %s '
                   'FOR EACH ROW EXECUTE FUNCTION pgmeaning_data.%I()', relation, 'words_' || c.id);
    EXECUTE format('CREATE OR REPLACE TRIGGER words_emptied AFTER TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION pgmeaning_data.%I()', relation, 'words_' || c.id);
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

-- Those triggers' function, for chunks. Other rows' words come with their vectors: it reads no source, which could run
-- code of its owner's in the sidecar. TRUNCATE may start the numbers again, so it empties the lists, too.
CREATE OR REPLACE FUNCTION pgmeaning._words_body(c pgmeaning.collection) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT format('
BEGIN
    IF TG_OP = ''TRUNCATE'' THEN
        PERFORM pgmeaning._empty_postings(%s);
        RETURN NULL;
    ELSIF NEW.words IS NULL AND NEW.chunk_text IS NOT NULL THEN
        NEW.words := to_tsvector(%L, "left"(NEW.chunk_text, 200000));
    END IF;
    RETURN NEW;
END
', c.id, c.language)
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

-- The rows that have words of the query, the best first: by BM25; where there are no words, or none is found (a
-- mistyped one), by trigrams of the text.
CREATE OR REPLACE FUNCTION pgmeaning._by_words(c pgmeaning.collection, t pgmeaning.target, query text,
    query_vector vector, o pgmeaning.search_options) RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    trigram text := pgmeaning._trigrams();
    hits    pgmeaning.ranked_hit[];
BEGIN
    IF c.language IS NOT NULL THEN
        hits := pgmeaning._by_bm25(c, t, query, query_vector, o);
    END IF;
    IF trigram IS NULL OR hits <> '{}' THEN
        RETURN coalesce(hits, '{}');
    END IF;
    RETURN pgmeaning._run_words(pgmeaning._ranked_words_sql(c, t, o, format(
        'SELECT w.at, w.closeness, NULL::bigint AS number FROM (SELECT v.ctid AS at, '
        '%s.word_similarity($6, coalesce(v.chunk_text, %s)) AS closeness FROM %s AS d JOIN ', trigram,
        pgmeaning._text_expression(c, 'd'), pgmeaning._relation_name(c.source)) || pgmeaning._words_from(c, t, o)
        || format(' ON %s OFFSET 0) AS w WHERE w.closeness >= 0.3',
                  pgmeaning._key_match('d', c.key_columns, 'v', c.vector_key_columns, c.key_types))),
        query, query_vector, o, NULL, NULL);
END
$$;

-- Vectors (v) with their rows (s).
CREATE OR REPLACE FUNCTION pgmeaning._words_from(c pgmeaning.collection, t pgmeaning.target,
    o pgmeaning.search_options) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat('(', pgmeaning._relation_name(t.vectors), ' AS v JOIN ', pgmeaning._source_rows(c, o.condition),
                  ' AS s ON ', pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types), ')')
$$;

-- The statement that ranks what another one found: where (at) in the vector table, how close the words are, and the
-- number by which equal ones go. $2 is the query's vector, $3 how many rows. Put together and not formatted, since a
-- filter may hold a percent sign.
CREATE OR REPLACE FUNCTION pgmeaning._ranked_words_sql(c pgmeaning.collection, t pgmeaning.target,
    o pgmeaning.search_options, finds text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
    keys    text := pgmeaning._column_list('v', c.vector_key_columns);
    -- A row counts by the best of its chunks.
    place   text := CASE WHEN c.chunking IS NULL OR NOT o.grouped THEN '1' ELSE
        format('row_number() OVER (PARTITION BY %s ORDER BY f.closeness DESC, f.number, v.chunk)', keys) END;
BEGIN
    RETURN format('SELECT coalesce(array_agg(ROW(%s, v.chunk, v.chunk_text, v.embedding <=> $2, w.closeness, v.model, '
                  'NULL::int, w.rank)::pgmeaning.ranked_hit ORDER BY w.rank), ''{}'') FROM ('
                  'SELECT m.at, m.closeness, row_number() OVER (ORDER BY m.rank)::int AS rank FROM ('
                  'SELECT f.at, f.closeness, row_number() OVER (ORDER BY f.closeness DESC, f.number, %s, v.chunk) '
                  'AS rank, %s AS of_row FROM (',
                  pgmeaning._key_json('v', c.vector_key_columns, c), keys, place)
        || finds || format(') AS f JOIN %1$s AS v ON v.ctid = f.at) AS m WHERE m.of_row = 1 ORDER BY m.rank LIMIT $3'
                           ') AS w JOIN %1$s AS v ON v.ctid = w.at', vectors);
END
$$;

-- Runs it, in the path of the filter. What finds may speak of $1, numbers of rows, and their scores, $4; of $5, the
-- steps of ranks, and $6, the query.
CREATE OR REPLACE FUNCTION pgmeaning._run_words(statement text, query text, query_vector vector,
    o pgmeaning.search_options, ids bigint[], scores real[]) RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    steps float8[] := pgmeaning._rank_steps();
    hits  pgmeaning.ranked_hit[];
BEGIN
    PERFORM set_config('search_path', o.path, true) WHERE o.path IS NOT NULL;
    EXECUTE statement INTO hits USING ids, query_vector, o.k, scores, steps, query;
    RETURN hits;
END
$$;

-- The same for few rows, which are looked up one by one: the planner does not know how few.
CREATE OR REPLACE FUNCTION pgmeaning._run_listed(statement text, query_vector vector, o pgmeaning.search_options,
    ids bigint[], scores real[]) RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
BEGIN
    RETURN pgmeaning._run_words(statement, NULL, query_vector, o, ids, scores);
END
$$;

-- The best rows by BM25. From the posting lists so many are taken that enough of them should belong to rows that may be
-- found, and more if they do not; rows that are in no list yet are looked at one by one, and so are all rows where a
-- filter leaves few, or there are no lists to go by.
CREATE OR REPLACE FUNCTION pgmeaning._by_bm25(c pgmeaning.collection, t pgmeaning.target, query text,
    query_vector vector, o pgmeaning.search_options) RETURNS pgmeaning.ranked_hit[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    words  text[] := pgmeaning._query_words(c.language, query);
    x      pgmeaning.word_index := pgmeaning._usable_postings(c, t);
    stats  record;
    chosen record;
    wanted bigint;
    best   record;
    hits   pgmeaning.ranked_hit[];
BEGIN
    IF words = '{}' THEN
        RETURN '{}';
    END IF;
    stats := pgmeaning._word_statistics(c, t, x, words);
    chosen := pgmeaning._weigh(words, stats);
    IF chosen.words_found = '{}' THEN
        RETURN '{}';
    END IF;
    wanted := CASE WHEN x.postings IS NOT NULL THEN pgmeaning._rows_to_fetch(c, t, o.k, o) END
              * CASE WHEN c.chunking IS NULL OR NOT o.grouped THEN 1 ELSE 2 END;
    WHILE wanted <= 20000 LOOP
        best := pgmeaning._best_listed(x.postings, chosen.words_found, chosen.weights, wanted);
        hits := pgmeaning._run_listed(pgmeaning._ranked_words_sql(c, t, o, pgmeaning._found_listed_sql(
            c, t, o, x, chosen, stats.average)), query_vector, o, best.ids, best.scores);
        IF best.complete OR cardinality(hits) = o.k AND (hits[o.k]).score >= best.least_score THEN
            RETURN hits;
        END IF;
        wanted := wanted * 8;
    END LOOP;
    RETURN pgmeaning._run_words(pgmeaning._ranked_words_sql(c, t, o, pgmeaning._found_any_sql(
        c, t, o, chosen, stats.average, 'true')), NULL, query_vector, o, NULL, NULL);
END
$$;

-- What finds rows by looking at each: those that have any of the words.
CREATE OR REPLACE FUNCTION pgmeaning._found_any_sql(c pgmeaning.collection, t pgmeaning.target,
    o pgmeaning.search_options, chosen record, average float8, among text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN concat('SELECT v.ctid AS at, ', pgmeaning._score_sql(chosen.words_found, chosen.weights, average),
        ' AS closeness, ', CASE WHEN 'words_id' = ANY (pgmeaning._column_names(t.vectors)) THEN 'v.words_id'
                                ELSE 'NULL::bigint' END,
        ' AS number FROM ', pgmeaning._words_from(c, t, o), ' WHERE v.words @@ ',
        quote_literal(pgmeaning._any_word(chosen.words_found)), '::tsquery AND ', among);
END
$$;

-- What finds rows by what the posting lists said, and looks at those that are not in them yet.
CREATE OR REPLACE FUNCTION pgmeaning._found_listed_sql(c pgmeaning.collection, t pgmeaning.target,
    o pgmeaning.search_options, x pgmeaning.word_index, chosen record, average float8) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN concat('SELECT v.ctid AS at, f.closeness, f.number FROM unnest($1, $4) AS f (number, closeness) JOIN ',
        pgmeaning._words_from(c, t, o), ' ON v.words_id = f.number UNION ALL ',
        pgmeaning._found_any_sql(c, t, o, chosen, average,
                                 format('(v.words_id > %s OR v.words_id IS NULL)', x.indexed_to)));
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
    by_words := pgmeaning._by_words(c, t, query, query_vector, deep);
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
