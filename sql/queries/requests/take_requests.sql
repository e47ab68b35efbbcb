-- Queries to answer: those for a vector, or those for a reranker, which have documents. Each role's first one comes
-- first, so that nobody waits behind many of another's. Of equal queries for a vector, another live sidecar may have
-- one: until it has answered, they are left. A lock that wakes whoever waits is taken before the claim becomes visible.
-- It is done step by step: in a single condition, the planner could lock requests that are not taken.
WITH candidate AS MATERIALIZED (
    SELECT q.id, row_number() OVER (PARTITION BY q.asker ORDER BY q.created_at) AS turn, q.created_at
    FROM pgmeaning.request AS q
    WHERE q.claimed_by IS NULL AND q.error IS NULL AND q.reply IS NULL AND q.expires_at > now()
      AND (q.documents IS NOT NULL) = %(rerank)s
      AND (%(models)s::text[] IS NULL OR q.model = ANY (%(models)s))
      AND NOT EXISTS (
          SELECT FROM pgmeaning.request AS o
          WHERE o.input_hash = q.input_hash AND o.model = q.model AND o.as_query = q.as_query AND q.documents IS NULL
            AND o.error IS NULL AND o.claimed_by <> %(sidecar)s AND pgmeaning._is_connected(o.claimed_pid, NULL)
            AND pgmeaning._cached(o.model, o.input_hash, o.as_query) IS NULL)
), waiting AS MATERIALIZED (
    SELECT q.id FROM candidate AS c JOIN pgmeaning.request AS q ON q.id = c.id AND q.claimed_by IS NULL
    ORDER BY c.turn, c.created_at LIMIT %(limit)s FOR UPDATE OF q SKIP LOCKED
)
UPDATE pgmeaning.request AS r SET claimed_by = %(sidecar)s, claimed_pid = pg_backend_pid()
FROM waiting AS w WHERE r.id = w.id AND pg_try_advisory_lock(pgmeaning._wake_number(w.id)) IS NOT NULL
RETURNING r.id, r.model, r.input, r.as_query, r.documents, extract(epoch FROM r.expires_at - now())::float8,
    r.documents IS NULL AND pgmeaning._cached(r.model, r.input_hash, r.as_query) IS NOT NULL,
    extract(epoch FROM clock_timestamp() - r.created_at)::float8
