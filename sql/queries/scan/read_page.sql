-- The next page of the source in the order of its key: keys, and hashes of what is to be embedded. Runs as the reader.
WITH last_key AS MATERIALIZED (
    SELECT * FROM jsonb_to_record(%(cursor)s::text::jsonb) AS k ({key_record})
)
SELECT p.key::text, p.content_hash
FROM (SELECT {source_key_json} AS key, {page_hash} AS content_hash
      FROM {source} AS s WHERE {after_cursor} AND {source_guard} ORDER BY {source_key} LIMIT %(limit)s) AS p
