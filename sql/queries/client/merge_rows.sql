-- Adds to, or replaces, entries of a jsonb column in rows of a table.
UPDATE {source} AS s SET {column} = coalesce(s.{column}, '{{}}') || %(entries)s
FROM unnest(%(keys)s::text[]::jsonb[]) AS u (key) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
WHERE {is_record}
