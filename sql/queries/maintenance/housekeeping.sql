-- Requests that nobody waits for, what detached collections owed, sidecars long dead.
WITH requests AS (
    DELETE FROM pgmeaning.request WHERE expires_at < now() - interval '1 minute'
), forgotten AS (
    DELETE FROM pgmeaning.queue AS q
    WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = q.collection_id)
)
DELETE FROM pgmeaning.sidecar WHERE heartbeat_at < now() - interval '1 day'
