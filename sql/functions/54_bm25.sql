-- BM25: what a word adds to a row's score is idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average)), with
-- k1 = 1.2, b = 0.75, idf = ln(1 + (N - df + .5) / (df + .5)); tf is how often the row has it (up to 255 times).

-- The words of a query, in the language's form.
CREATE OR REPLACE FUNCTION pgmeaning._query_words(language text, query text) RETURNS text[]
LANGUAGE sql STABLE
AS $$
    -- Of more than 256 the longest, which tell most: each is counted.
    SELECT ARRAY(SELECT u.word FROM unnest(tsvector_to_array(to_tsvector(language::regconfig, query))) AS u (word)
                 ORDER BY length(u.word) DESC, u.word LIMIT 256)
$$;

-- A word as a query for it.
CREATE OR REPLACE FUNCTION pgmeaning._word_query(word text) RETURNS tsquery
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ('''' || replace(replace(word, chr(92), chr(92) || chr(92)), '''', '''''') || '''')::tsquery
$$;

-- Any of some words: all of them would be too much to ask of a question in a natural language.
CREATE OR REPLACE FUNCTION pgmeaning._any_word(words text[]) RETURNS tsquery
LANGUAGE sql STABLE
AS $$ SELECT string_agg(pgmeaning._word_query(w)::text, ' | ')::tsquery FROM unnest(words) AS w $$;

-- The posting lists that a search of the caller goes by; null: none. Where row security is on, it goes by the words of
-- the rows that the caller sees, and so do its statistics: no score tells how many others have a word, and no time how
-- long their lists are.
CREATE OR REPLACE FUNCTION pgmeaning._usable_postings(c pgmeaning.collection, t pgmeaning.target)
RETURNS pgmeaning.word_index
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    x pgmeaning.word_index;
BEGIN
    IF row_security_active(c.source::oid) OR NOT 'words_id' = ANY (pgmeaning._column_names(t.vectors)) THEN
        RETURN NULL;
    END IF;
    SELECT w.* INTO x FROM pgmeaning.word_index AS w
    JOIN pg_class AS r ON r.oid = w.postings
    WHERE w.collection_id = t.collection_id AND w.model = t.model AND w.indexed_to > 0
      AND has_table_privilege(r.oid, 'SELECT') AND pgmeaning._reads_postings(w.collection_id);
    IF x.postings IS NULL OR pgmeaning._listed_rows(x.postings) <> x.row_count THEN
        RETURN NULL;  -- lists that were emptied would find nothing
    END IF;
    RETURN x;
END
$$;

-- How many rows there are, how long they are on average, and how many have each word: by the posting lists and the
-- rows that are not in them yet; or, without lists, by the rows that the caller sees, of which 200 tell the length.
CREATE OR REPLACE FUNCTION pgmeaning._word_statistics(c pgmeaning.collection, t pgmeaning.target,
    x pgmeaning.word_index, words text[], OUT row_count float8, OUT average float8, OUT row_counts float8[])
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    rows   text := format('%s AS v WHERE v.words IS NOT NULL', pgmeaning._relation_name(t.vectors));
    counts text := (SELECT string_agg(format('count(*) FILTER (WHERE v.words @@ %L::tsquery)::float8',
                                             pgmeaning._word_query(w)), ', ' ORDER BY i)
                    FROM unnest(words) WITH ORDINALITY AS u (w, i));
    listed record;
BEGIN
    IF x.postings IS NOT NULL THEN
        rows := format('%s AND (v.words_id > %s OR v.words_id IS NULL)', rows, x.indexed_to);
    ELSIF row_security_active(c.source::oid) THEN
        rows := format('%s AS v JOIN %s AS s ON %s WHERE v.words IS NOT NULL', pgmeaning._relation_name(t.vectors),
            pgmeaning._relation_name(c.source),
            pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types));
    END IF;
    EXECUTE format('SELECT count(*)::float8, ARRAY[%s] FROM %s', counts, rows) INTO row_count, row_counts;
    IF x.postings IS NULL THEN
        EXECUTE format('SELECT greatest(1, avg(coalesce(%s, 0))) '
                       'FROM (SELECT v.words, %s AS word FROM %s LIMIT 200) AS v',
                       pgmeaning._length_sql('v.words', 'v.word'), pgmeaning._first_word_sql('v.words'), rows)
        INTO average;
        RETURN;
    END IF;
    EXECUTE format('SELECT array_agg(coalesce(p.rows, 0) ORDER BY u.i), '
                   '(SELECT greatest(1, sum(a.word_count) / sum(a.row_count)) FROM %1$s AS a WHERE a.word = '''') '
                   'AS average '
                   'FROM unnest($1) WITH ORDINALITY AS u (word, i) CROSS JOIN LATERAL '
                   '(SELECT sum(p.row_count) AS rows FROM %1$s AS p WHERE p.word = u.word OFFSET 0) AS p',
                   pgmeaning._relation_name(x.postings)) INTO listed USING words;
    row_count := row_count + x.row_count;  -- as _usable_postings() has counted
    average := listed.average;
    row_counts := ARRAY(SELECT u.a + u.b FROM unnest(row_counts, listed.array_agg) WITH ORDINALITY AS u (a, b, i)
                        ORDER BY u.i);
END
$$;

-- The words that count, and by how much: of more than 64 those that tell most, each with its idf. Words that no row has
-- are left out.
CREATE OR REPLACE FUNCTION pgmeaning._weigh(words text[], statistics record, OUT words_found text[],
    OUT weights float8[])
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    SELECT coalesce(array_agg(w.word ORDER BY w.i), '{}'), coalesce(array_agg(w.weight ORDER BY w.i), '{}')
    INTO words_found, weights
    FROM (SELECT u.word, u.i, ln(1 + greatest(0, statistics.row_count - u.rows + 0.5) / (u.rows + 0.5)) AS weight
          FROM unnest(words, statistics.row_counts) WITH ORDINALITY AS u (word, rows, i)
          WHERE u.rows > 0 ORDER BY weight DESC, u.i LIMIT 64) AS w;
END
$$;

-- The bounds between what ts_rank gives for a word that a row has once, twice, ..., for width_bucket, with all weights
-- equal: that is the sum of 1 / i^2 over its positions. It costs a tenth of unnesting the words.
CREATE OR REPLACE FUNCTION pgmeaning._rank_steps() RETURNS float8[]
LANGUAGE sql IMMUTABLE
AS $$
    SELECT array_agg((s.sum - 0.5 / (s.i::float8 * s.i)) / 1.64493406685 ORDER BY s.i)
    FROM (SELECT i, sum(1 / (i::float8 * i)) OVER (ORDER BY i) AS sum FROM generate_series(1, 256) AS i) AS s
$$;

-- The score of a row (v) that has any of the words, where $5 are the steps.
CREATE OR REPLACE FUNCTION pgmeaning._score_sql(words text[], weights float8[], average float8) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('(SELECT (%s)::real FROM (SELECT %L::float8 + %L::float8 * %s AS norm OFFSET 0) AS n)',
        string_agg(format('%L::float8 * (1 - n.norm / (n.norm + width_bucket('
                          'ts_rank(''{1,1,1,1}'', v.words, %L)::float8, $5)))',
                          2.2 * weight, pgmeaning._word_query(word)), ' + ' ORDER BY i),
        0.3, 0.9 / average, pgmeaning._length_sql('v.words', quote_literal(pgmeaning._any_word(words)) || '::tsquery'))
    FROM unnest(words, weights) WITH ORDINALITY AS u (word, weight, i)
$$;

-- How many places of some vectors are above a bound.
CREATE OR REPLACE FUNCTION pgmeaning._count_above(sums vector[], bound float8) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    bounds vector := array_fill(bound::real, '{16000}')::vector;
BEGIN
    RETURN (SELECT coalesce(sum(bit_count(binary_quantize(sums[i] - bounds))), 0)
            FROM generate_subscripts(sums, 1) AS i);
END
$$;

-- A bound that at least so many places are above, and not many more; where so many are equal that there is none, the
-- number above the higher one is less.
CREATE OR REPLACE FUNCTION pgmeaning._bounds(sums vector[], wanted bigint, highest float8, OUT low float8,
    OUT high float8, OUT above bigint)
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    few   constant float8 := ln(wanted);
    below float8 := 0;
    over  float8;
    place float8;
    share float8;
BEGIN
    low := 0;
    high := highest;
    above := pgmeaning._count_above(sums, 0);
    IF above <= 2 * wanted + 20 THEN
        RETURN;
    END IF;
    over := ln(above);
    FOR attempt IN 1..40 LOOP
        EXIT WHEN high - low <= 1e-6 * high;
        -- Where a straight line through the logarithms would have it, now and then in the middle.
        share := CASE WHEN attempt % 3 = 0 THEN 0.5
                      ELSE least(0.9, greatest(0.1, (over - few - 0.3) / greatest(over - below, 0.1))) END;
        place := low + share * (high - low);
        above := pgmeaning._count_above(sums, place);
        IF above BETWEEN wanted AND 2 * wanted + 20 THEN
            low := place;
            RETURN;
        ELSIF above < wanted THEN
            high := place;
            below := ln(above + 1);
        ELSE
            low := place;
            over := ln(above);
        END IF;
    END LOOP;
    above := NULL;
END
$$;

-- The places that are above a bound and not above another, by their numbers, the lowest first, up to a limit. In the
-- bits of a block as text, ones are between runs of zeros.
CREATE OR REPLACE FUNCTION pgmeaning._places(blocks int[], sums vector[], low float8, high float8, wanted bigint,
    OUT ids bigint[], OUT scores real[])
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    bounds vector := array_fill(low::real, '{16000}')::vector;
BEGIN
    SELECT coalesce(array_agg(f.id), '{}'), coalesce(array_agg(f.score), '{}') INTO ids, scores
    FROM (SELECT blocks[i]::bigint * 16000 + p.place - 1 AS id, e.score
          FROM generate_subscripts(sums, 1) AS i
          CROSS JOIN LATERAL (SELECT binary_quantize(sums[i] - bounds) AS bits OFFSET 0) AS b
          CROSS JOIN LATERAL (SELECT sum(length(z.zeros) + 1) OVER (ORDER BY z.n)::int AS place
                              FROM string_to_table(b.bits::text, '1') WITH ORDINALITY AS z (zeros, n)) AS p
          CROSS JOIN LATERAL (SELECT (subvector(sums[i], p.place, 1)::real[])[1] AS score
                              WHERE p.place <= 16000 OFFSET 0) AS e
          WHERE bit_count(b.bits) > 0 AND (high IS NULL OR e.score <= high::real) LIMIT wanted) AS f;
END
$$;

-- The best rows by the posting lists, at least so many if there are; all others' scores are not above least_score.
-- Of equal ones those written first. Whether these are all that have any of the words.
CREATE OR REPLACE FUNCTION pgmeaning._best_listed(postings regclass, words text[], weights float8[], wanted bigint,
    OUT ids bigint[], OUT scores real[], OUT least_score float8, OUT complete bool)
LANGUAGE plpgsql STABLE SET jit = off SET enable_hashagg = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_seqscan = off
AS $$
DECLARE
    blocks int[];
    sums   vector[];
    bound  record;
    equal  record;
BEGIN
    EXECUTE format('SELECT array_agg(b.block), array_agg(b.sum) FROM ('
                   'SELECT p.block, sum(coalesce(p.many, p.few::vector) * p.weight) AS sum '
                   'FROM (SELECT p.block, p.many, p.few, w.weight FROM unnest($1, $2) AS w (word, weight) '
                   'JOIN %s AS p ON p.word = w.word ORDER BY p.block OFFSET 0) AS p GROUP BY p.block) AS b',
                   pgmeaning._relation_name(postings))
    INTO blocks, sums
    USING words, ARRAY(SELECT array_fill(u.weight::real, '{16000}')::vector
                       FROM unnest(weights) WITH ORDINALITY AS u (weight, i) ORDER BY u.i);
    bound := pgmeaning._bounds(coalesce(sums, '{}'), wanted, 2.2 * (SELECT sum(w) FROM unnest(weights) AS w));
    complete := bound.low = 0 AND bound.above IS NOT NULL;
    least_score := bound.low;
    IF bound.above IS NOT NULL THEN
        SELECT p.ids, p.scores INTO ids, scores
        FROM pgmeaning._places(blocks, sums, bound.low, NULL, bound.above) AS p;
        RETURN;
    END IF;
    SELECT p.ids, p.scores INTO ids, scores FROM pgmeaning._places(blocks, sums, bound.high, NULL, wanted) AS p;
    SELECT p.* INTO equal
    FROM pgmeaning._places(blocks, sums, bound.low, bound.high, wanted - cardinality(ids)) AS p;
    ids := ids || equal.ids;
    scores := scores || equal.scores;
END
$$;
