-- Extends the leases of claims that still stand.
UPDATE pgmeaning.queue AS q SET visible_at = now() + %(lease)s
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[]) AND q.claimed_by = %(sidecar)s
