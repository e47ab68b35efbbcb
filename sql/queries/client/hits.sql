-- What a search found, with the rows: each column as text with its type.
WITH hit AS MATERIALIZED (
{found}
)
SELECT h.query_index, r.names, r.types, r.contents, r.embedded_text, h.key::text, h.chunk, h.chunk_text, h.distance,
    h.score, h.model, h.vector_rank, h.text_rank
FROM hit AS h JOIN pgmeaning._rows(%(collection)s, ARRAY(SELECT o.key FROM hit AS o ORDER BY o.ordinality),
    ARRAY(SELECT o.chunk_text FROM hit AS o ORDER BY o.ordinality), %(columns)s) AS r ON r.place = h.ordinality
ORDER BY h.ordinality
