-- Removes requests that nobody waits for, rows that detached collections owed, and sidecars that died long ago. A table
-- that took vectors up and was not filled in time will not be: a scan finds that they have no rows.
WITH requests AS (
    DELETE FROM pgmeaning.request WHERE expires_at < now() - interval '1 minute'
), forgotten AS (
    DELETE FROM pgmeaning.queue AS q
    WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = q.collection_id)
), emptied AS (
    UPDATE pgmeaning.collection SET awaits_rows = false WHERE awaits_rows AND adopted_at <= now() - %(grace)s
    RETURNING id
), started AS (
    UPDATE pgmeaning.target SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
    WHERE collection_id IN (SELECT e.id FROM emptied AS e)
), locks AS (  -- without its row nobody could fold
    INSERT INTO pgmeaning.lock (name) VALUES ('fold'), ('maintenance'), ('loopback') ON CONFLICT (name) DO NOTHING
), dropped AS (
    DELETE FROM pgmeaning.kept_vectors AS k WHERE NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = k.vectors)
)
DELETE FROM pgmeaning.sidecar WHERE heartbeat_at < now() - interval '1 day'
