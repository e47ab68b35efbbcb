portion AS (
    SELECT i.ctid AS id FROM {inbox} AS i
    WHERE (SELECT pg_try_advisory_xact_lock(pgmeaning._lock_class(), pgmeaning._fold_lock())) LIMIT %(limit)s
)
