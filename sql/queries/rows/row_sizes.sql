-- The sizes of the claimed rows' texts, without reading them; a row that is gone is left out.
SELECT u.place, {content_bytes} AS bytes
FROM unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (SELECT s.* FROM {source} AS s WHERE {source_is_record} OFFSET 0) AS s
