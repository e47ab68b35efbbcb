-- The claimed rows as they are now, with the hash that their vector was made from. Rows that are gone are not returned.
-- OFFSET 0 forces a look-up by key, however little the planner knows about the tables.
SELECT u.place, {content_hash} AS content_hash, known.content_hash AS known_hash, {record_key}, {contents}
FROM (SELECT %(characters)s::int AS characters, %(media_bytes)s::int AS media_bytes,
             %(media_characters)s::int AS media_characters) AS bound
CROSS JOIN unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (SELECT s.* FROM {source} AS s WHERE {source_is_record} OFFSET 0) AS s
LEFT JOIN LATERAL (SELECT v.content_hash FROM {vectors} AS v
                   WHERE {vector_is_record} AND v.chunk = 0 OFFSET 0) AS known ON true
ORDER BY u.place
