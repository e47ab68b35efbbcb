-- Queues what a page of the source owes, and moves the scan's cursor behind it. Rows whose vector is missing or stale
-- are queued, and the first of them are claimed by this sidecar at once. A row with nothing to embed has a null hash
-- and owes no vector. Of a page that could not be hashed each row is queued: it is read alone, and fails alone.
-- Vectors up to the page's last key, or to the end, that have no row in it are queued, too. A removal is claimed like
-- any other change, so a row that comes back meanwhile has a newer generation and keeps its vector; deleting vectors
-- here, by the page's older snapshot, could take one that was just made. Of very many a portion is queued, and the
-- cursor stays.
WITH page AS MATERIALIZED (
    SELECT u.key::jsonb AS key, u.content_hash, u.place
    FROM unnest(%(keys)b::text[], %(hashes)b::bytea[]) WITH ORDINALITY AS u (key, content_hash, place)
), first_key AS MATERIALIZED (
    SELECT * FROM jsonb_to_record(%(cursor)s::text::jsonb) AS k ({key_record})
), last_key AS MATERIALIZED (
    SELECT k.* FROM (SELECT p.key FROM page AS p ORDER BY p.place DESC LIMIT 1) AS p
    CROSS JOIN LATERAL jsonb_to_record(p.key) AS k ({key_record})
), owed AS (
    SELECT p.key, row_number() OVER (ORDER BY p.place) AS place
    FROM page AS p CROSS JOIN LATERAL jsonb_to_record(p.key) AS k ({key_record})
    -- OFFSET 0 forces a look-up by key, however little the planner knows about a table that is being filled.
    LEFT JOIN LATERAL (SELECT v.content_hash FROM {vectors} AS v
                       WHERE {vector_is_record} AND v.chunk = 0 OFFSET 0) AS known ON true
    WHERE %(unseen)s OR known.content_hash IS DISTINCT FROM p.content_hash
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
), stray AS MATERIALIZED (  -- EXCEPT hashes, where an anti-join would be a nested loop
    SELECT {vector_key_json} AS key FROM {vectors} AS v WHERE {vector_in_page} EXCEPT SELECT p.key FROM page AS p
), orphan AS MATERIALIZED (
    SELECT s.key FROM stray AS s
    WHERE NOT EXISTS (SELECT FROM pgmeaning.queue AS q
                      WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = s.key
                        AND q.failed_at IS NULL)
      -- A table that took vectors up may be filled only now.
      AND (%(cursor)s::text IS NOT NULL OR EXISTS (SELECT FROM page)
           OR NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s AND c.awaits_rows))
    LIMIT %(orphans)s
), removed AS (
    INSERT INTO pgmeaning.queue AS q (collection_id, model, key)
    SELECT %(collection_id)s, %(model)s, o.key FROM orphan AS o WHERE pg_column_size(o.key) <= 2000 ORDER BY o.key
    ON CONFLICT (collection_id, model, key) DO UPDATE
        SET generation = excluded.generation, visible_at = now(), attempts = 0, died = 0, failed_at = NULL,
            last_error = NULL
        WHERE q.failed_at IS NOT NULL
), removed_large AS MATERIALIZED (
    SELECT pgmeaning._queue_large(%(collection_id)s, %(model)s, o.key, 0, now()) AS done
    FROM orphan AS o WHERE pg_column_size(o.key) > 2000
), found AS (
    SELECT (SELECT count(*) FROM page) AS rows, (SELECT count(*) FROM orphan) AS orphans
), advanced AS (
    UPDATE pgmeaning.target AS t
    SET scan_cursor = p.key, scanned = t.scanned + f.rows, scan_problem = NULL,
        scan_allowed_at = greatest(t.scan_allowed_at, now()) + f.rows / t.scan_rate * interval '1 second'
    FROM found AS f CROSS JOIN (SELECT p.key FROM page AS p ORDER BY p.place DESC LIMIT 1) AS p
    WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s AND f.orphans < %(orphans)s
)
SELECT (SELECT count(*) FROM queued) + (SELECT count(l.done) FROM large AS l) AS queued,
       f.orphans, (SELECT count(l.done) FROM removed_large AS l),
       ARRAY(SELECT q.key::text FROM queued AS q WHERE q.claimed_by IS NOT NULL ORDER BY q.generation) AS keys,
       ARRAY(SELECT q.generation FROM queued AS q WHERE q.claimed_by IS NOT NULL ORDER BY q.generation) AS generations
FROM found AS f
