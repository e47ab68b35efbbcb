-- Hands back, untried, all remaining claims of this sidecar, and tells the others.
WITH released AS (
    UPDATE pgmeaning.queue AS q SET visible_at = now(), claimed_by = NULL, attempts = greatest(q.attempts - 1, 0)
    WHERE q.claimed_by = %(sidecar)s AND q.failed_at IS NULL
    RETURNING 1
)
SELECT pgmeaning._wake() FROM (SELECT count(*) AS rows FROM released) AS r WHERE r.rows > 0
