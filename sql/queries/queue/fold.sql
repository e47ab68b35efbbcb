-- Moves changes from the inbox into the queue: at most one row per (collection, model, key), with a new generation, so
-- that a vector whose embedding began before the change never wins. One sidecar at a time folds, so none waits for
-- another's portion: it locks a row, if there is anything to fold, as that writes. Sorted, so that two upserts never
-- wait for each other. A note starts a scan from the beginning, even if one is in progress: rows that it has passed may
-- have changed since. Rows being embedded at that moment start again too: otherwise rows removed by a TRUNCATE would
-- get vectors that the scan no longer sees.
WITH {portion}, taken AS (
    DELETE FROM {inbox}
    WHERE ctid = ANY (ARRAY(SELECT p.id FROM portion AS p))
    RETURNING collection_id, key, note, written_at
), seen AS MATERIALIZED (
    -- Without a key, a trigger found one of its columns gone or changed, so only a scan can tell what changed.
    SELECT t.collection_id, CASE WHEN NOT t.unknown THEN t.key END AS key, t.written_at,
           t.note IS NOT NULL OR t.unknown AS noted,
           -- A transaction is known by its time.
           CASE WHEN count(*) OVER (PARTITION BY t.written_at) < pgmeaning._bulk_rows() THEN {priority}
                ELSE 1 END AS urgency
    FROM (SELECT *, key IS NULL AND note IS NULL AS unknown FROM taken) AS t
), changed AS (
    SELECT collection_id, key, min(written_at) AS since, max(urgency) AS priority
    FROM seen WHERE key IS NOT NULL GROUP BY collection_id, key
), queued AS (
    INSERT INTO pgmeaning.queue AS q (collection_id, model, key, priority, owed_since)
    SELECT c.collection_id, t.model, c.key, c.priority, c.since
    FROM changed AS c JOIN pgmeaning.target AS t USING (collection_id)
    WHERE pg_column_size(c.key) <= 2000
    ORDER BY c.collection_id, t.model, c.key
    ON CONFLICT (collection_id, model, key) DO UPDATE
        SET generation = excluded.generation, visible_at = now(), attempts = 0, died = 0, priority = excluded.priority,
            claimed_by = NULL, failed_at = NULL, last_error = NULL
), large AS MATERIALIZED (
    -- One by one, as in scan_page: an entry of the queue's index, with the model, has at most 2,704 bytes. A key that
    -- it refuses is recorded as failed.
    SELECT pgmeaning._queue_large(c.collection_id, t.model, c.key, c.priority, c.since) AS done
    FROM changed AS c JOIN pgmeaning.target AS t USING (collection_id)
    WHERE pg_column_size(c.key) > 2000
), started AS (
    UPDATE pgmeaning.target SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
    WHERE collection_id IN (SELECT s.collection_id FROM seen AS s WHERE s.noted)
), filled AS (
    -- A table that took the vectors of a dropped one up has rows of its own now.
    UPDATE pgmeaning.collection SET awaits_rows = false
    WHERE id = ANY (ARRAY(SELECT a.id FROM pgmeaning.collection AS a
                          WHERE a.awaits_rows AND a.id IN (SELECT s.collection_id FROM seen AS s
                                                           WHERE s.key IS NOT NULL AND s.written_at > a.adopted_at)
                          FOR UPDATE SKIP LOCKED))
), restarted AS (
    UPDATE pgmeaning.queue AS q SET generation = DEFAULT, visible_at = now(), claimed_by = NULL
    FROM (
        SELECT o.collection_id, o.model, o.key FROM pgmeaning.queue AS o
        WHERE o.collection_id = ANY (ARRAY(SELECT s.collection_id FROM seen AS s WHERE s.noted))
            AND o.claimed_by IS NOT NULL
            AND NOT EXISTS (SELECT FROM changed AS c WHERE c.collection_id = o.collection_id AND c.key = o.key)
        ORDER BY o.collection_id, o.model, o.key FOR UPDATE
    ) AS o
    WHERE (q.collection_id, q.model, q.key) = (o.collection_id, o.model, o.key)
)
SELECT count(*), count(*) FILTER (WHERE s.noted), (SELECT count(l.done) FROM large AS l) FROM seen AS s
