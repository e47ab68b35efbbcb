-- The vectors of these keys, about to be replaced or no longer wanted. OFFSET 0 keeps the look-up a look-up by key,
-- however little the planner knows of a table that is being filled.
DELETE FROM {vectors}
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest(%(keys)b::text[]::jsonb[]) AS u (key) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
    CROSS JOIN LATERAL (SELECT v.ctid FROM {vectors} AS v WHERE {vector_is_record} OFFSET 0) AS found))
