-- The hashes that the stored vectors of these rows were made from.
SELECT u.place::int, known.content_hash
FROM unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (SELECT v.content_hash FROM {vectors} AS v
                    WHERE {vector_is_record} AND v.chunk = 0 OFFSET 0) AS known
WHERE known.content_hash IS NOT NULL
