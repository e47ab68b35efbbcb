-- Leases the most urgent rows. An attempt counts from here, so that a row that crashes its sidecar runs out of them
-- too; rows that may have done so are taken alone, so that they do not take others with them.
WITH picked AS MATERIALIZED (
    SELECT q.ctid
    FROM pgmeaning.queue AS q
    WHERE q.model = %(model)s AND q.failed_at IS NULL AND q.visible_at <= now() AND q.attempts < %(attempts)s
      AND q.collection_id = ANY (ARRAY(SELECT c.id FROM pgmeaning.collection AS c
                                       WHERE c.id = ANY (%(collections)s) AND c.state <> 'paused'))
      AND (q.attempts >= %(suspect)s AND q.last_error IS NULL) = %(suspects)s
    ORDER BY q.priority DESC, q.visible_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE pgmeaning.queue AS q
SET visible_at = now() + %(lease)s, claimed_by = %(sidecar)s, attempts = q.attempts + 1
WHERE q.ctid = ANY (ARRAY(SELECT p.ctid FROM picked AS p))
RETURNING q.collection_id, q.model, q.key::text, q.generation, q.attempts
