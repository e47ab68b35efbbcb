-- Queues the next row of the source without looking at its content, which cannot be hashed: it is read alone, and fails
-- alone. One that failed before stays so.
WITH last_key AS MATERIALIZED (
    SELECT * FROM jsonb_to_record(%(cursor)s::text::jsonb) AS k ({key_record})
), page AS MATERIALIZED (
    SELECT {source_key_json} AS key FROM {source} AS s WHERE {after_cursor} ORDER BY {source_key} LIMIT 1
), queued AS (
    INSERT INTO pgmeaning.queue (collection_id, model, key)
    SELECT %(collection_id)s, %(model)s, p.key FROM page AS p WHERE pg_column_size(p.key) <= 2000
    ON CONFLICT (collection_id, model, key) DO NOTHING
), large AS MATERIALIZED (
    SELECT pgmeaning._queue_large(%(collection_id)s, %(model)s, p.key, 0, now()) AS done
    FROM page AS p WHERE pg_column_size(p.key) > 2000
), advanced AS (
    UPDATE pgmeaning.target AS t SET scan_cursor = p.key, scanned = t.scanned + 1
    FROM page AS p WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
)
SELECT count(*), (SELECT count(l.done) FROM large AS l) FROM page
