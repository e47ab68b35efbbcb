portion AS (
    SELECT i.ctid AS id FROM pgmeaning.inbox AS i
    WHERE (SELECT pg_try_advisory_xact_lock(1885826405, 2)) LIMIT %(limit)s
)
