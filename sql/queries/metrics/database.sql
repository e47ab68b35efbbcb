-- Of the whole database. The server counts how often a vector is read from the cache: for a query that was there, and
-- for one that a sidecar has just answered.
SELECT (SELECT count(*) FROM pgmeaning.sidecars AS s WHERE s.alive) AS sidecars,
       (SELECT count(*) FROM pgmeaning.request AS r
        WHERE r.claimed_by IS NULL AND r.error IS NULL AND r.reply IS NULL AND r.expires_at > now()) AS waiting,
       (SELECT count(*) FROM pgmeaning.query_cache) AS cached,
       coalesce(pg_stat_get_tuples_fetched('pgmeaning.query_cache_pkey'::regclass), 0) AS cache_reads
