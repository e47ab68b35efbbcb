-- What a swap would take, before anything is paid for. Nothing is read from the table: what was measured while its
-- rows were embedded tells how long they are.

-- What a collection's vectors took so far, and how fast a model was, wherever it was measured; null: nowhere.
CREATE OR REPLACE FUNCTION pgmeaning._measured(collection_id int, of_model text,
    OUT tokens_each float8, OUT measured bigint, OUT cut_share float8, OUT tokens_per_second float8)
LANGUAGE sql STABLE
AS $$
    SELECT sum(u.tokens) FILTER (WHERE u.collection_id = $1)::float8
               / nullif(sum(u.documents) FILTER (WHERE u.collection_id = $1), 0),
           sum(u.documents) FILTER (WHERE u.collection_id = $1),
           sum(u.cut) FILTER (WHERE u.collection_id = $1)::float8
               / nullif(sum(u.documents) FILTER (WHERE u.collection_id = $1), 0),
           sum(u.tokens) FILTER (WHERE u.model = $2) / nullif(sum(u.seconds) FILTER (WHERE u.model = $2), 0)
    FROM pgmeaning.usage AS u
$$;

-- Which rows keep their vectors: 'all', 'none', or those whose text stays the same.
CREATE OR REPLACE FUNCTION pgmeaning._kept_share(c pgmeaning.collection, n pgmeaning.collection, dimensions int,
    vector_type text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN n.model <> c.model OR dimensions > t.dimensions OR t.vector_type = 'halfvec' AND $4 = 'vector' THEN 'none'
        WHEN (n.columns, n.template, n.image, n.video, n.chunking)
             IS NOT DISTINCT FROM (c.columns, c.template, c.image, c.video, c.chunking) THEN 'all'
        ELSE 'those whose text stays the same' END
    FROM pgmeaning.target AS t WHERE t.collection_id = c.id
$$;

-- How many documents the new model would cut: none of those that are chunked; else those that the present one cut, if
-- the new one reads as much. Of a shorter one nothing is known, since no lengths are kept: null, and why.
CREATE OR REPLACE FUNCTION pgmeaning._cut_documents(c pgmeaning.collection, n pgmeaning.collection, documents float8,
    OUT number bigint, OUT note text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    was   int := (SELECT m.max_tokens FROM pgmeaning.model AS m WHERE m.name = c.model);
    reads int := (SELECT m.max_tokens FROM pgmeaning.model AS m WHERE m.name = n.model);
BEGIN
    IF n.chunking IS NOT NULL THEN
        number := 0;
        note := 'chunking has all of a text read';
    ELSIF reads IS NULL THEN
        note := format('not known: the registry does not say how many tokens model %s reads', n.model);
    ELSIF c.chunking IS NULL AND reads >= was AND documents IS NOT NULL THEN
        number := round(documents);
        note := format('documents that are as long as model %s reads, or longer: %s tokens; model %s reads %s. '
                       'chunking => ... has all of a text read', c.model, was, n.model, reads);
    ELSE
        note := format('not known: model %s reads %s tokens, and nobody has counted the texts that are longer; fill a '
                       'part, swap_start(..., until => 0.01), and see cut in pgmeaning.swaps. chunking => ... has all '
                       'of a text read', n.model, reads);
    END IF;
END
$$;

-- 'model: a -> b', for all that changes.
CREATE OR REPLACE FUNCTION pgmeaning._named_changes(c pgmeaning.collection, n pgmeaning.collection, dimensions int,
    vector_type text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(format('%s: %s -> %s', u.name, coalesce(u.was, 'none'), coalesce(u.will_be, 'none')), ', '
                      ORDER BY u.i)
    FROM pgmeaning.target AS t
    CROSS JOIN LATERAL (VALUES (1, 'model', c.model, n.model), (2, 'dimensions', t.dimensions::text, dimensions::text),
        (3, 'vector_type', t.vector_type, $4), (4, 'columns', c.columns::text, n.columns::text),
        (5, 'template', c.template, n.template), (6, 'image', c.image::text, n.image::text),
        (7, 'video', c.video::text, n.video::text), (8, 'chunking', c.chunking::text, n.chunking::text),
        (9, 'language', c.language, n.language)) AS u (i, name, was, will_be)
    WHERE t.collection_id = c.id AND u.was IS DISTINCT FROM u.will_be
$$;

CREATE OR REPLACE FUNCTION pgmeaning.explain_swap(
    collection text, model text DEFAULT NULL, dimensions int DEFAULT NULL, vector_type text DEFAULT NULL,
    columns text[] DEFAULT NULL, template text DEFAULT NULL, image text DEFAULT NULL, video text DEFAULT NULL,
    chunking jsonb DEFAULT NULL, language text DEFAULT NULL, price float8 DEFAULT NULL,
    allow_deprecated bool DEFAULT false
) RETURNS TABLE (item text, value text, note text)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    c       pgmeaning.collection := pgmeaning._check_swappable(pgmeaning._collection($1));
    t       pgmeaning.target := pgmeaning._active_target(c);
    changes jsonb := pgmeaning._swap_changes(model, dimensions, vector_type, columns, template, image, video,
                                             chunking, language);
    next    record := pgmeaning._next_generation(c, changes, allow_deprecated);
    m       record := pgmeaning._measured(c.id, (next.n).model);
    kept    text := pgmeaning._kept_share(c, next.n, next.dimensions, next.vector_type);
    rows    bigint := pgmeaning._row_count(c.source);
    vectors bigint := greatest(pgmeaning._row_count(t.vectors), rows);
    tokens  float8 := CASE WHEN kept = 'all' THEN 0 ELSE m.tokens_each * vectors END;
    cut     record := pgmeaning._cut_documents(c, next.n, m.cut_share * vectors);
    kind    record;
    planned record;
BEGIN
    t.dimensions := next.dimensions;
    SELECT * INTO kind FROM pgmeaning._choose_kind(t, vectors, 10000);
    IF kind.kind NOT IN ('none', 'prefix') THEN
        SELECT k.statement, k.bytes, k.usual_seconds * pgmeaning._build_slowness(kind.kind) AS build_seconds
        INTO planned
        FROM pgmeaning._build_means() AS m
        CROSS JOIN LATERAL pgmeaning._index_cost(t, kind.kind, NULL, vectors, m.workers, m.memory) AS k;
    ELSE
        SELECT NULL::text AS statement, 0 AS bytes, 0 AS build_seconds INTO planned;
    END IF;
    RETURN QUERY VALUES
        ('changes', pgmeaning._named_changes(c, next.n, next.dimensions, next.vector_type),
         format('the new generation is %s while %s serves', (next.n).name, c.name)),
        ('rows', rows::text, format('%s vectors now', vectors)),
        ('kept', kept, 'rows that take their vectors over need no model'),
        ('tokens', round(tokens::numeric)::text,
         CASE WHEN tokens IS NULL THEN 'not known: no row was embedded since this is measured; fill a part, '
                                       'swap_start(..., until => 0.01), and see pgmeaning.swaps'
              ELSE format('%s a document, by %s documents of the present generation',
                          round(m.tokens_each::numeric, 1), m.measured) END),
        ('cut', cut.number::text, cut.note),
        ('disk', pg_size_pretty((vectors * (next.dimensions * CASE next.vector_type WHEN 'halfvec' THEN 2 ELSE 4 END
                                            + next.dimensions / 8 + 150) + planned.bytes)::bigint),
         CASE WHEN planned.bytes > 0 THEN format('%s of it for an index (%s)', pg_size_pretty(planned.bytes::bigint),
                                                 kind.kind)
              ELSE 'no index: ' || kind.reason END),
        ('hours', round((tokens / m.tokens_per_second / 3600 + planned.build_seconds / 3600)::numeric, 2)::text,
         CASE WHEN tokens = 0 THEN 'no model runs'
              WHEN m.tokens_per_second IS NULL THEN format('not known: %s has embedded nothing here yet; fill a part, '
                                                           'swap_start(..., until => 0.01)', (next.n).model)
              ELSE format('at %s tokens a second, as measured here', round(m.tokens_per_second::numeric)) END),
        ('cost', round((tokens / 1e6 * price)::numeric, 2)::text,
         CASE WHEN price IS NULL THEN 'price => what a million tokens cost' ELSE format('at %s a million tokens', price)
              END),
        ('locks', format('SHARE ROW EXCLUSIVE on %s', (SELECT string_agg(pgmeaning._relation_name(w), ', ')
                                                       FROM pgmeaning._watched(c) AS w)),
         'swap_start() makes triggers: it waits for open transactions that wrote to it, up to lock_timeout, or 5 s. '
         'swap_activate() replaces the view, which waits for those that read it. No row is ever locked.'),
        ('statement', format('CREATE TABLE pgmeaning_data.%I (%s, chunk int, chunk_text text, model text, embedding '
             '%s(%s), signature bit(%4$s), content_hash bytea, embedded_at timestamptz)', (next.n).name || '__'
             || (next.n).model, (SELECT string_agg(format('%I %s', k.name, k.definition), ', ')
                                 FROM pgmeaning._vector_key_types(next.n) AS k), next.vector_type, next.dimensions),
         'and a function for the triggers, two for the policy'),
        ('statement', (SELECT string_agg(DISTINCT format('CREATE TRIGGER ... ON %s', pgmeaning._relation_name(w)), '; ')
                       FROM pgmeaning._watched(c) AS w), 'one for each of INSERT, UPDATE, DELETE and TRUNCATE'),
        ('statement', planned.statement, CASE WHEN planned.statement IS NULL THEN 'no index is built: ' || kind.reason
                                              ELSE 'run by a sidecar once it is filled' END),
        ('next', format('SELECT pgmeaning.swap_start(%L, ...)', c.name), 'with the same arguments');
END
$$;
COMMENT ON FUNCTION pgmeaning.explain_swap
    IS 'What a swap would change and take: rows, tokens, disk, hours, cost, locks. Nothing is changed.';
