-- Vectors that another generation of the collection has of these very documents: of a row that is one document by the
-- row's hash, where both embed the same of it; else by the hash of a chunk's text. Of several any will do.
SELECT u.place::int, found.bytes
FROM unnest(%(keys)b::text[]::jsonb[], %(hashes)b::bytea[], %(whole)b::bool[]) WITH ORDINALITY
     AS u (key, hash, whole, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (
    SELECT pgmeaning._prefix_bytes(v.embedding, %(dimensions)s) AS bytes FROM {sibling} AS v
    WHERE {vector_is_record}
      AND CASE WHEN u.whole THEN {alike} AND v.chunk = 0 AND v.chunk_text IS NULL AND v.content_hash = u.hash
               ELSE v.chunk_text IS NOT NULL
                    AND CASE WHEN v.chunk = 0 THEN sha256(convert_to(v.chunk_text, 'UTF8')) ELSE v.content_hash END
                        = u.hash END
    LIMIT 1 OFFSET 0) AS found
ORDER BY u.place
