-- What a search found, to be joined with its table: {key} are the key's columns, {record} the same with their types.
SELECT {key}, h.distance, h.score, h.rank, h.chunk, h.chunk_text
FROM pgmeaning.search({arguments}) WITH ORDINALITY
    AS h (key, chunk, chunk_text, distance, score, model, vector_rank, text_rank, rank)
CROSS JOIN LATERAL pg_catalog.jsonb_to_record(h.key) AS k ({record})
