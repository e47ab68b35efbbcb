-- Deletes the vectors of these keys, which are about to be replaced or are no longer needed. OFFSET 0 forces a look-up
-- by key, however little the planner knows about a table that is being filled.
DELETE FROM {vectors}
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest(%(keys)b::text[]::jsonb[]) AS u (key) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
    CROSS JOIN LATERAL (SELECT v.ctid FROM {vectors} AS v WHERE {vector_is_record} OFFSET 0) AS found))
