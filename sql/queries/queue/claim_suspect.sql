-- Leases one row that may have crashed its sidecars, to be embedded alone, so that it does not take others with it.
WITH picked AS MATERIALIZED (
    SELECT q.ctid
    FROM pgmeaning.queue AS q
    WHERE q.model = %(model)s AND q.failed_at IS NULL AND q.visible_at <= now() AND q.attempts < %(attempts)s
      AND q.died > 0 AND q.died + (q.claimed_by IS NOT NULL)::int >= 2
      AND q.collection_id = ANY (ARRAY(SELECT c.id FROM pgmeaning.collection AS c
                                       WHERE c.id = ANY (%(collections)s) AND c.state <> 'paused'))
    ORDER BY q.visible_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE pgmeaning.queue AS q
SET visible_at = now() + %(lease)s, claimed_by = %(sidecar)s, attempts = q.attempts + 1,
    died = q.died + (q.claimed_by IS NOT NULL)::int
WHERE q.ctid = ANY (ARRAY(SELECT p.ctid FROM picked AS p))
RETURNING q.collection_id, q.model, q.key::text, q.generation, q.attempts
