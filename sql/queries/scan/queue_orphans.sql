-- Queues the keys of vectors whose row is gone, a portion of them. A removal is claimed like any other change, so a row
-- that comes back meanwhile has a newer generation and keeps its vector; deleting the vectors here, by this statement's
-- snapshot, could take one that another sidecar has just found unchanged.
WITH orphan AS MATERIALIZED (
    SELECT DISTINCT {vector_key_json} AS key FROM {vectors} AS v
    WHERE NOT EXISTS (SELECT FROM {source} AS s WHERE {vector_is_source})
      AND NOT EXISTS (SELECT FROM pgmeaning.queue AS q
                      WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = {vector_key_json}
                        AND q.failed_at IS NULL)
      -- A table that took vectors up may be filled only now.
      AND (EXISTS (SELECT FROM {source})
           OR NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s AND c.awaits_rows))
    LIMIT %(limit)s
), queued AS (
    INSERT INTO pgmeaning.queue AS q (collection_id, model, key)
    SELECT %(collection_id)s, %(model)s, o.key FROM orphan AS o WHERE pg_column_size(o.key) <= 2000 ORDER BY o.key
    ON CONFLICT (collection_id, model, key) DO UPDATE
        SET generation = excluded.generation, visible_at = now(), attempts = 0, died = 0, failed_at = NULL,
            last_error = NULL
        WHERE q.failed_at IS NOT NULL
), large AS MATERIALIZED (
    SELECT pgmeaning._queue_large(%(collection_id)s, %(model)s, o.key, 0, now()) AS done
    FROM orphan AS o WHERE pg_column_size(o.key) > 2000
)
SELECT count(*), (SELECT count(l.done) FROM large AS l) FROM orphan
