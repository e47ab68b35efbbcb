-- Moves changes from the inbox into the queue: at most one row a (collection, model, key), with a new generation, so that
-- the result of an embedding that began before the change never wins. One sidecar at a time folds, so nobody else deletes
-- these rows; sorted, so that two upserts never wait for each other.
WITH taken AS (
    DELETE FROM pgmeaning.inbox
    WHERE ctid = ANY (ARRAY(SELECT i.ctid FROM pgmeaning.inbox AS i LIMIT %(limit)s))
    RETURNING collection_id, key, note, written_at
), changed AS (
    SELECT collection_id, key, min(written_at) AS since FROM taken WHERE key IS NOT NULL GROUP BY collection_id, key
), queued AS (
    INSERT INTO pgmeaning.queue AS q (collection_id, model, key, priority, owed_since)
    SELECT c.collection_id, t.model, c.key, 1, c.since
    FROM changed AS c JOIN pgmeaning.target AS t USING (collection_id)
    ORDER BY c.collection_id, t.model, c.key
    ON CONFLICT (collection_id, model, key) DO UPDATE
        SET generation = excluded.generation, visible_at = now(), attempts = 0, priority = 1, claimed_by = NULL,
            failed_at = NULL, last_error = NULL
)
SELECT count(*) AS taken,
       coalesce(jsonb_agg(DISTINCT jsonb_build_array(collection_id, note)) FILTER (WHERE note IS NOT NULL), '[]') AS notes
FROM taken
