-- Hands back claims from which a model did not return. Of several rows, each is tried alone from now on; a row that was
-- alone is to blame: it has failed, since each further attempt would cost a process.
UPDATE pgmeaning.queue AS q
SET visible_at = now(), claimed_by = NULL, died = 2, last_error = %(error)s,
    failed_at = CASE WHEN %(alone)s THEN now() END
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[]) AND q.claimed_by = %(sidecar)s
