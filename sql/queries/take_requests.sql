-- Queries to answer: those for a vector, or those for a reranker, which have documents. The advisory lock is held before
-- the claim can be seen, so whoever waits for the reply waits for it.
-- Step by step: in one condition, the planner would be free to lock requests that it does not take.
WITH waiting AS MATERIALIZED (
    SELECT q.id FROM pgmeaning.request AS q
    WHERE q.claimed_by IS NULL AND q.error IS NULL AND q.reply IS NULL AND q.expires_at > now()
      AND (q.documents IS NOT NULL) = %(rerank)s
      AND (%(models)s::text[] IS NULL OR q.model = ANY (%(models)s))
    ORDER BY q.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT w.id FROM waiting AS w WHERE pg_try_advisory_lock(1885826406, (w.id %% 2147483647)::int)
)
UPDATE pgmeaning.request AS r SET claimed_by = %(sidecar)s WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l))
RETURNING r.id, r.model, r.input, r.as_query, r.documents, extract(epoch FROM r.expires_at - now())::float8
