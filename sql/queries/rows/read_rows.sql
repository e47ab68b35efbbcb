-- The claimed rows as they are now. Rows that are gone are not returned. OFFSET 0 forces a look-up by key, however
-- little the planner knows about the tables. Runs as the reader.
SELECT u.place, {content_hash} AS content_hash, {words} AS words, {record_key}, {contents}
FROM (SELECT %(characters)s::int AS characters, %(media_bytes)s::int AS media_bytes,
             %(media_characters)s::int AS media_characters) AS bound
CROSS JOIN unnest(%(keys)b::text[]::jsonb[]) WITH ORDINALITY AS u (key, place)
CROSS JOIN LATERAL jsonb_to_record(u.key) AS k ({key_record})
CROSS JOIN LATERAL (SELECT {source_columns} FROM {source} AS s
                    WHERE {source_is_record} AND {source_guard} OFFSET 0) AS s
ORDER BY u.place
