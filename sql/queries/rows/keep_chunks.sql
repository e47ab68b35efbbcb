-- Renumbers the chunks of one row, which keep their vectors, and removes those that are no longer in it. Returns how
-- many could be kept. Moved chunks are deleted and inserted in one statement (the sort makes sure that all are deleted
-- first), since an UPDATE would run into numbers that are still taken.
WITH kept AS MATERIALIZED (
    SELECT * FROM unnest(%(old)s::int[], %(new)s::int[], %(hashes)s::bytea[]) AS u (old, new, content_hash)
), k AS MATERIALIZED (
    SELECT * FROM jsonb_to_record(%(key)s::text::jsonb) AS k ({key_record})
), staying AS (
    SELECT v.ctid AS at, v.chunk, kept.content_hash FROM k JOIN {vectors} AS v ON {vector_is_record}
    JOIN kept ON kept.old = v.chunk AND kept.new = v.chunk
), removed AS (
    DELETE FROM {vectors} AS v USING k
    WHERE {vector_is_record} AND v.chunk <> ALL (ARRAY(SELECT kept.old FROM kept WHERE kept.old = kept.new))
    RETURNING v.chunk, v.chunk_text, v.model, v.embedding, v.embedded_at
), moved AS (
    INSERT INTO {vectors} ({vector_columns}, chunk, chunk_text, model, embedding, content_hash, embedded_at)
    SELECT {record_key}, kept.new, r.chunk_text, r.model, r.embedding, kept.content_hash, r.embedded_at
    FROM removed AS r JOIN kept ON kept.old = r.chunk CROSS JOIN k ORDER BY kept.new
    RETURNING chunk
), hashed AS (
    UPDATE {vectors} AS v SET content_hash = s.content_hash FROM staying AS s
    WHERE v.ctid = s.at AND v.chunk = 0 AND s.chunk = 0
)
SELECT (SELECT count(*) FROM staying) + (SELECT count(*) FROM moved)
