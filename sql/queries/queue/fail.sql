-- Records failed attempts. The next attempt follows after a wait that doubles each time, unless this was the last.
UPDATE pgmeaning.queue AS q
SET claimed_by = NULL, last_error = c.error, died = 0,
    visible_at = now() + least(%(backoff)s * power(2, q.attempts - 1), %(backoff_max)s) * interval '1 second',
    failed_at = CASE WHEN q.attempts >= %(attempts)s THEN now() END
FROM unnest(%(keys)b::text[]::jsonb[], %(generations)b::bigint[], %(errors)s::text[]) AS c (key, generation, error)
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = c.key AND q.generation = c.generation
  AND q.claimed_by = %(sidecar)s
