-- The sizes of the claimed rows' texts, without reading them; a row that is gone is left out. Runs as the reader.
SELECT u.place, {content_bytes} AS bytes
FROM unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (SELECT {source_columns} FROM {source} AS s
                    WHERE {source_is_record} AND {source_guard} OFFSET 0) AS s
