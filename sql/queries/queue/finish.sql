-- Finishes the claims that still stand: the row's generation, which is unique, is the one that was claimed, and no
-- other sidecar has claimed it since because of a missed heartbeat.
-- With arrays instead of a join: the planner knows too little about a queue that grows and shrinks to join it well.
DELETE FROM pgmeaning.queue AS q
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[]) AND q.claimed_by = %(sidecar)s
RETURNING q.generation
