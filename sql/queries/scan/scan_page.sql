-- Scans the next page of the source in the order of its key. Rows whose vector is missing or stale are queued, and the
-- first of them are claimed by this sidecar at once. A row with nothing to embed has a null hash and owes no vector.
WITH last_key AS MATERIALIZED (
    SELECT * FROM jsonb_to_record(%(cursor)s::text::jsonb) AS k ({key_record})
), page AS MATERIALIZED (
    SELECT {source_key_json} AS key, {content_hash} AS content_hash,
           row_number() OVER (ORDER BY {source_key}) AS place
    FROM {source} AS s WHERE {after_cursor} ORDER BY {source_key} LIMIT %(limit)s
), owed AS (
    SELECT p.key, row_number() OVER (ORDER BY p.place) AS place
    FROM page AS p CROSS JOIN LATERAL jsonb_to_record(p.key) AS k ({key_record})
    -- OFFSET 0 forces a look-up by key, however little the planner knows about a table that is being filled.
    LEFT JOIN LATERAL (SELECT v.content_hash FROM {vectors} AS v
                       WHERE {vector_is_record} AND v.chunk = 0 OFFSET 0) AS known ON true
    WHERE known.content_hash IS DISTINCT FROM p.content_hash
), queued AS (
    INSERT INTO pgmeaning.queue (collection_id, model, key, visible_at, attempts, claimed_by)
    SELECT %(collection_id)s, %(model)s, o.key,
           CASE WHEN o.place <= %(claims)s THEN now() + %(lease)s ELSE now() END,
           CASE WHEN o.place <= %(claims)s THEN 1 ELSE 0 END,
           CASE WHEN o.place <= %(claims)s THEN %(sidecar)s::uuid END
    FROM owed AS o WHERE pg_column_size(o.key) <= 2000 ORDER BY o.place
    ON CONFLICT (collection_id, model, key) DO NOTHING
    RETURNING key, generation, claimed_by
), large AS MATERIALIZED (
    -- One by one, since the queue's index may refuse some.
    SELECT pgmeaning._queue_large(%(collection_id)s, %(model)s, o.key, 0, now()) AS done
    FROM owed AS o WHERE pg_column_size(o.key) > 2000
), seen AS (
    SELECT count(*) AS rows, (SELECT p.key FROM page AS p ORDER BY p.place DESC LIMIT 1) AS last FROM page
), advanced AS (
    UPDATE pgmeaning.target AS t
    SET scan_cursor = coalesce(seen.last, t.scan_cursor), scanned = t.scanned + seen.rows, scan_problem = NULL
    FROM seen WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
)
SELECT (SELECT rows FROM seen) AS seen,
       (SELECT count(*) FROM queued) + (SELECT count(l.done) FROM large AS l) AS queued,
       ARRAY(SELECT q.key::text FROM queued AS q WHERE q.claimed_by IS NOT NULL ORDER BY q.generation) AS keys,
       ARRAY(SELECT q.generation FROM queued AS q WHERE q.claimed_by IS NOT NULL ORDER BY q.generation) AS generations
