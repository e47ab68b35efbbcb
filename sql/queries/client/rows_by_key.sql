-- Source rows by key, in the order of the keys, with the caller's privileges.
SELECT u.place, s.*
FROM unnest(%(keys)s::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
JOIN {source} AS s ON {source_is_record}
ORDER BY u.place
