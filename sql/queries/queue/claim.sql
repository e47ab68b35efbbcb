-- Leases the most urgent rows. An attempt counts from here, so that a row that crashes its sidecar runs out of them
-- too: a claim that nobody ended died with its sidecar. Rows of which that is known twice are left to claim_suspect.
WITH picked AS MATERIALIZED (
    SELECT q.ctid
    FROM pgmeaning.queue AS q
    WHERE q.model = %(model)s AND q.failed_at IS NULL AND q.visible_at <= now() AND q.attempts < %(attempts)s
      AND q.priority >= %(priority)s
      AND q.collection_id = ANY (ARRAY(SELECT c.id FROM pgmeaning.collection AS c
                                       WHERE c.id = ANY (%(collections)s) AND c.state <> 'paused'))
      AND q.died + (q.claimed_by IS NOT NULL)::int < 2
    ORDER BY q.priority DESC, q.visible_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE pgmeaning.queue AS q
SET visible_at = now() + %(lease)s, claimed_by = %(sidecar)s, attempts = q.attempts + 1,
    died = q.died + (q.claimed_by IS NOT NULL)::int
WHERE q.ctid = ANY (ARRAY(SELECT p.ctid FROM picked AS p))
RETURNING q.collection_id, q.model, q.key::text, q.generation, q.attempts
