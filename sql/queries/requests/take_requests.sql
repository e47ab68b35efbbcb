-- Queries to answer: those for a vector, or those for a reranker, which have documents. The advisory lock is held
-- before the claim becomes visible, so whoever waits for the reply waits for the lock. Equal queries for a vector share
-- one more lock: while one sidecar makes their vector, the others leave them. Its reply is committed before that lock
-- is released, so whoever gets the lock sees it: such a query is answered already. It is done step by step: in a single
-- condition, the planner could lock requests that are not taken.
WITH waiting AS MATERIALIZED (
    SELECT q.id, pgmeaning._lock_number(q.id) AS place,
        CASE WHEN q.documents IS NULL THEN pgmeaning._query_number(q.model, q.as_query, q.input) END AS number
    FROM pgmeaning.request AS q
    WHERE q.claimed_by IS NULL AND q.error IS NULL AND q.reply IS NULL AND q.expires_at > now()
      AND (q.documents IS NOT NULL) = %(rerank)s
      AND (%(models)s::text[] IS NULL OR q.model = ANY (%(models)s))
    ORDER BY q.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT w.id, w.number FROM waiting AS w
    WHERE CASE WHEN w.number IS NOT NULL
                    AND NOT pg_try_advisory_lock(pgmeaning._query_lock_class(), w.number) THEN false
               WHEN pg_try_advisory_lock(pgmeaning._request_lock_class(), w.place) THEN true
               ELSE w.number IS NOT NULL AND NOT pg_advisory_unlock(pgmeaning._query_lock_class(), w.number) END
)
UPDATE pgmeaning.request AS r SET claimed_by = %(sidecar)s FROM locked AS l WHERE r.id = l.id
RETURNING r.id, r.model, r.input, r.as_query, r.documents, extract(epoch FROM r.expires_at - now())::float8, l.number,
    l.number IS NOT NULL AND pgmeaning._answered(r.model, r.as_query, r.input)
