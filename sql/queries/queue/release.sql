-- Hands claims back untried.
UPDATE pgmeaning.queue AS q SET visible_at = now(), claimed_by = NULL, attempts = greatest(q.attempts - 1, 0)
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[]) AND q.claimed_by = %(sidecar)s
