-- What a collection is about: clusters of its rows by spherical k-means on stored vectors, each with a representative
-- and the words that tell it from the others. Centroids are found on a sample that fits into memory; then each row is
-- looked at once. The same rows and seed give the same clusters. With the caller's rights, as searches.

-- The rows that the caller may see, each with one vector of unit length: the mean of its chunks, as for similar().
CREATE OR REPLACE FUNCTION pgmeaning._row_vectors_sql(c pgmeaning.collection, t pgmeaning.target) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format(CASE WHEN c.chunking IS NULL
        THEN 'SELECT %1$s AS key, l2_normalize(v.embedding::vector) AS embedding FROM %2$s AS v '
             'JOIN %3$s AS s ON %4$s'
        ELSE 'SELECT %1$s AS key, l2_normalize(avg(v.embedding::vector)) AS embedding FROM %2$s AS v '
             'JOIN %3$s AS s ON %4$s GROUP BY %5$s' END,
        pgmeaning._key_json('v', c.vector_key_columns, c), pgmeaning._relation_name(t.vectors),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types),
        pgmeaning._column_list('v', c.vector_key_columns))
$$;

-- Some rows' vectors, picked by a hash of their keys and a seed, as many as 64 MB hold.
CREATE OR REPLACE FUNCTION pgmeaning._sample_vectors(c pgmeaning.collection, t pgmeaning.target, seed bigint)
RETURNS vector[]
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1'
AS $$
DECLARE
    keys   jsonb[];
    sample vector[];
BEGIN
    EXECUTE format('SELECT array_agg(p.key) FROM (SELECT %1$s AS key FROM %2$s AS s '
                   'ORDER BY hashtextextended((%1$s)::text, $1), %3$s LIMIT $2) AS p',
        pgmeaning._key_json('s', c.key_columns, c), pgmeaning._relation_name(c.source),
        pgmeaning._column_list('s', c.key_columns))
    INTO keys USING seed, greatest(2000, 16777216 / t.dimensions);
    EXECUTE format('SELECT coalesce(array_agg(m.embedding ORDER BY m.place), ''{}'') '
                   'FROM (SELECT q."pgmeaning.place" AS place, l2_normalize(avg(q."pgmeaning.embedding")) AS embedding '
                   'FROM (%s) AS q GROUP BY 1) AS m', pgmeaning._stored_sql(c, t))
    INTO sample USING keys;
    RETURN sample;
END
$$;

-- k vectors far from each other to begin with (k-means++): each with a likelihood that grows with the square of its
-- distance to the nearest one chosen before. Fewer where there are no more different ones.
CREATE OR REPLACE FUNCTION pgmeaning._first_centroids(sample vector[], k bigint, seed bigint) RETURNS vector[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    chosen  vector[] := sample[1:1];
    weights float8[] := array_fill(4::float8, ARRAY[cardinality(sample)]);
    luck    float8;
    place   bigint;
BEGIN
    WHILE cardinality(chosen) < k LOOP
        weights := ARRAY(SELECT least(s.weight, CASE WHEN s.away < 1e-9 THEN 0 ELSE s.away * s.away END)
                         FROM (SELECT u.weight, u.place, 1 + (u.embedding <#> chosen[cardinality(chosen)]) AS away
                               FROM unnest(sample, weights) WITH ORDINALITY AS u (embedding, weight, place)) AS s
                         ORDER BY s.place);
        luck := (hashint8extended(cardinality(chosen), seed) & 1048575) / 1048576.0::float8;
        SELECT min(s.place) INTO place
        FROM (SELECT u.place, sum(u.weight) OVER (ORDER BY u.place) AS so_far, sum(u.weight) OVER () AS whole
              FROM unnest(weights) WITH ORDINALITY AS u (weight, place)) AS s
        WHERE s.so_far > luck * s.whole AND s.whole > 0;
        EXIT WHEN place IS NULL;
        chosen := chosen || sample[place];
    END LOOP;
    RETURN chosen;
END
$$;

-- Lloyd's steps: each vector to its nearest centroid, each centroid to the mean of its vectors, until that changes
-- little.
CREATE OR REPLACE FUNCTION pgmeaning._centroids(sample vector[], k bigint, seed bigint) RETURNS vector[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    centroids vector[] := pgmeaning._first_centroids(sample, k, seed);
    before    float8 := 'Infinity';
    step      record;
BEGIN
    FOR iteration IN 1..25 LOOP
        SELECT array_agg(coalesce(l2_normalize(m.mean), o.embedding) ORDER BY o.place) AS centroids,
               sum(m.away) AS away INTO step
        FROM unnest(centroids) WITH ORDINALITY AS o (embedding, place)
        LEFT JOIN (SELECT n.place, avg(s.embedding) AS mean, sum(n.away) AS away
                   FROM unnest(sample) WITH ORDINALITY AS s (embedding, number)
                   CROSS JOIN LATERAL (SELECT c.place, 1 + (c.embedding <#> s.embedding) AS away
                                       FROM unnest(centroids) WITH ORDINALITY AS c (embedding, place)
                                       ORDER BY 2, 1 LIMIT 1) AS n
                   GROUP BY n.place) AS m ON m.place = o.place;
        EXIT WHEN step.away >= before * (1 - 1e-4);
        before := step.away;
        centroids := step.centroids;
    END LOOP;
    RETURN centroids;
END
$$;

-- The words that tell clusters of rows from each other, by class-based tf-idf: how many of a cluster's rows have a
-- word, and how much rarer it is in all of them; a word that is everywhere, as "the", tells nothing in any language.
-- places: of the rows' clusters, from 1.
CREATE OR REPLACE FUNCTION pgmeaning._cluster_words(c pgmeaning.collection, keys jsonb[], places int[],
    word_count bigint) RETURNS TABLE (place int, words text[])
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1'
AS $$
BEGIN
    RETURN QUERY EXECUTE format('WITH doc AS MATERIALIZED (SELECT u.place, u.number, left(%s, 10000) AS content '
        'FROM unnest($1, $2) WITH ORDINALITY AS u (key, place, number) '
        'CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) JOIN %s AS s ON %s), '
        'size AS MATERIALIZED (SELECT d.place, count(*)::float8 AS rows FROM doc AS d GROUP BY 1), '
        'seen AS (SELECT DISTINCT d.place, d.number, w.word FROM doc AS d '
        'CROSS JOIN LATERAL regexp_split_to_table(lower(d.content), $4) AS w (word) '
        'WHERE length(w.word) BETWEEN 3 AND 40 AND w.word !~ ''^[0-9]''), '
        'tally AS (SELECT s.place, s.word, count(*)::float8 AS rows, '
        'sum(count(*)) OVER (PARTITION BY s.word)::float8 AS anywhere FROM seen AS s GROUP BY 1, 2), '
        'told AS (SELECT t.place, t.word, t.rows / z.rows * ln(t.rows / z.rows / (t.anywhere / a.rows)) AS weight, '
        't.rows FROM tally AS t JOIN size AS z ON z.place = t.place '
        'CROSS JOIN (SELECT sum(z.rows) AS rows FROM size AS z) AS a WHERE t.rows >= least(2, z.rows)), '
        'best AS (SELECT t.*, row_number() OVER (PARTITION BY t.place ORDER BY t.weight DESC, t.rows DESC, t.word) '
        'AS rank FROM told AS t WHERE t.weight > 0 OR (SELECT count(*) FROM size) = 1) '
        'SELECT b.place, array_agg(b.word ORDER BY b.rank) FROM best AS b WHERE b.rank <= $3 GROUP BY 1',
        pgmeaning._text_expression(c, 's'), pgmeaning._key_record(c.key_columns, c.key_types),
        pgmeaning._relation_name(c.source),
        pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types))
    USING keys, places, word_count,
        -- Blanks and punctuation, but the underscore; in a database of the locale C no class knows more than ASCII.
        '[' || E'\\s!-/:-@\\[-^`{-~' || coalesce((SELECT string_agg(chr(n), '') FROM unnest(
            '{160,171,187,8211,8212,8216,8217,8220,8221,8230,12289,12290,65292}'::int[]) AS n
            WHERE getdatabaseencoding() = 'UTF8'), '') || ']+';
END
$$;

-- Each row at its nearest centroid: how many there are, how far on average, and the nearest hundred.
CREATE OR REPLACE FUNCTION pgmeaning._assigned(c pgmeaning.collection, t pgmeaning.target, centroids vector[])
RETURNS TABLE (place int, size bigint, spread float8, nearest jsonb[])
LANGUAGE plpgsql STABLE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('WITH own AS MATERIALIZED (SELECT r.key, n.* FROM (%s) AS r CROSS JOIN LATERAL ('
        'SELECT c.place::int AS place, 1 + (c.embedding <#> r.embedding) AS away '
        'FROM unnest($1) WITH ORDINALITY AS c (embedding, place) ORDER BY 2, 1 LIMIT 1) AS n), '
        'ranked AS (SELECT o.*, row_number() OVER (PARTITION BY o.place ORDER BY o.away, o.key) AS rank FROM own AS o) '
        'SELECT r.place, count(*), avg(r.away), array_agg(r.key ORDER BY r.rank) FILTER (WHERE r.rank <= 100) '
        'FROM ranked AS r GROUP BY 1', pgmeaning._row_vectors_sql(c, t))
    USING centroids;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.clusters(collection text, k bigint DEFAULT 10, word_count bigint DEFAULT 10,
    seed bigint DEFAULT 0)
RETURNS TABLE (cluster int, size bigint, key jsonb, spread float8, words text[], centroid vector)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c         pgmeaning.collection := pgmeaning._collection(clusters.collection);
    t         pgmeaning.target := pgmeaning._active_target(c);
    sample    vector[];
    centroids vector[];
BEGIN
    PERFORM pgmeaning._check_search(c, t, k, NULL);
    sample := pgmeaning._sample_vectors(c, t, coalesce(seed, 0));
    IF sample <> '{}' THEN
        centroids := pgmeaning._centroids(sample, least(k, cardinality(sample)), coalesce(seed, 0));
        RETURN QUERY
        WITH found AS MATERIALIZED (SELECT a.*, row_number() OVER (ORDER BY a.size DESC, a.place)::int AS number
                                    FROM pgmeaning._assigned(c, t, centroids) AS a),
        row AS (SELECT array_agg(n.key) AS keys, array_agg(f.number) AS places
                FROM found AS f CROSS JOIN LATERAL unnest(f.nearest) AS n (key)),
        told AS MATERIALIZED (SELECT w.* FROM row AS r CROSS JOIN LATERAL pgmeaning._cluster_words(
            c, r.keys, r.places, greatest(coalesce(word_count, 10), 0)) AS w)
        SELECT f.number, f.size, f.nearest[1], f.spread, coalesce(w.words, '{}'), centroids[f.place]
        FROM found AS f LEFT JOIN told AS w ON w.place = f.number ORDER BY f.number;
    END IF;
END
$$;
COMMENT ON FUNCTION pgmeaning.clusters IS 'k groups of a collection''s rows by meaning, the largest first: the key of '
    'the row that stands for each, the mean cosine distance to its centroid, and the words that tell it from the '
    'others. The same seed gives the same groups.';
