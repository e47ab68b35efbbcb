-- Queries to answer. The advisory lock is held before the claim can be seen, so whoever waits for the reply waits for it.
UPDATE pgmeaning.request AS r SET claimed_by = %(sidecar)s
WHERE r.id IN (SELECT q.id FROM pgmeaning.request AS q
               WHERE q.claimed_by IS NULL AND q.error IS NULL AND q.expires_at > now()
                 AND (%(models)s::text[] IS NULL OR q.model = ANY (%(models)s))
               ORDER BY q.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
  AND pg_try_advisory_lock(1885826406, (r.id %% 2147483647)::int)
RETURNING r.id, r.model, r.input, r.as_query
