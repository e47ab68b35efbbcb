-- The stored chunks of these rows, by the hash of their texts: a chunk that is still in the row keeps its vector. Only
-- the first one has the hash of the whole row instead.
SELECT u.place::int, found.chunk, found.hash
FROM unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (
    SELECT v.chunk, CASE WHEN v.chunk = 0 THEN sha256(convert_to(v.chunk_text, 'UTF8')) ELSE v.content_hash END AS hash
    FROM {vectors} AS v WHERE {vector_is_record} AND v.chunk_text IS NOT NULL OFFSET 0) AS found
ORDER BY u.place, found.chunk
