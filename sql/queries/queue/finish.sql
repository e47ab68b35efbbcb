-- Ends the claims that still stand: their generation, which no other row ever has, is the one that was claimed, and no
-- other sidecar has claimed it since, for want of a heartbeat.
-- By arrays, not by a join: the planner knows too little of a queue that grows and shrinks to join it well.
DELETE FROM pgmeaning.queue AS q
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[]) AND q.claimed_by = %(sidecar)s
RETURNING q.generation
