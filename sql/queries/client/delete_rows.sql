-- Deletes rows of a table by their keys.
DELETE FROM {source} AS s
USING unnest(%(keys)s::text[]::jsonb[]) AS u (key) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
WHERE {is_record}
