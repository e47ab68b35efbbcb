-- Removes requests that nobody waits for, rows that detached collections owed, and sidecars that died long ago.
WITH requests AS (
    DELETE FROM pgmeaning.request WHERE expires_at < now() - interval '1 minute'
), forgotten AS (
    DELETE FROM pgmeaning.queue AS q
    WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = q.collection_id)
)
DELETE FROM pgmeaning.sidecar WHERE heartbeat_at < now() - interval '1 day'
