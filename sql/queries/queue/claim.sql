-- Leases the rows that are picked. An attempt counts from here, so that a row that crashes its sidecar runs out of them
-- too: a claim that nobody ended died with its sidecar.
WITH picked AS MATERIALIZED (
{picked}
)
UPDATE pgmeaning.queue AS q
SET visible_at = now() + %(lease)s, claimed_by = %(sidecar)s, attempts = q.attempts + 1,
    died = q.died + (q.claimed_by IS NOT NULL)::int
WHERE q.ctid = ANY (ARRAY(SELECT p.ctid FROM picked AS p))
RETURNING q.collection_id, q.model, q.key::text, q.generation, q.attempts
