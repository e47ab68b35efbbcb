portion AS (
    SELECT i.ctid AS id FROM {inbox} AS i
    WHERE CASE WHEN EXISTS (SELECT FROM {inbox})
               THEN (SELECT true FROM pgmeaning.lock AS l WHERE l.name = 'fold' FOR UPDATE SKIP LOCKED) END
    LIMIT %(limit)s
)
