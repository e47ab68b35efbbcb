-- Deletes the oldest query vectors above the bound, and those that are too old, but none that is about to be read.
WITH wanted AS MATERIALIZED (
    SELECT r.model, r.as_query, r.input_hash FROM pgmeaning.request AS r
    WHERE r.documents IS NULL
), cached AS (
    (SELECT q.ctid AS at, q.model, q.as_query, q.input_hash FROM pgmeaning.query_cache AS q
     ORDER BY q.created_at DESC OFFSET %(rows)s)
    UNION ALL
    SELECT q.ctid, q.model, q.as_query, q.input_hash FROM pgmeaning.query_cache AS q
    WHERE q.created_at < now() - %(age)s::interval
)
DELETE FROM pgmeaning.query_cache WHERE ctid = ANY (ARRAY(
    SELECT c.at FROM cached AS c WHERE NOT EXISTS (
        SELECT FROM wanted AS w WHERE w.model = c.model AND w.as_query = c.as_query AND w.input_hash = c.input_hash)))
