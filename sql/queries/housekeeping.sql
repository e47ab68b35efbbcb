-- Requests that nobody waits for, the oldest query vectors above the bound, what detached collections owed, sidecars long dead.
WITH requests AS (
    DELETE FROM pgmeaning.request WHERE expires_at < now() - interval '1 minute'
), cached AS (
    DELETE FROM pgmeaning.query_cache WHERE ctid = ANY (ARRAY(
        SELECT q.ctid FROM pgmeaning.query_cache AS q ORDER BY q.created_at DESC OFFSET %(cache_rows)s))
), forgotten AS (
    DELETE FROM pgmeaning.queue AS q WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = q.collection_id)
)
DELETE FROM pgmeaning.sidecar WHERE heartbeat_at < now() - interval '1 day'
