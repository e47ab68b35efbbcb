-- Random vectors, each with the addresses of all vectors of its row.
SELECT {key_json}::text, v.embedding::text, ARRAY(SELECT o.ctid::text FROM {vectors} AS o WHERE {same_key})
FROM {vectors} AS v
WHERE v.ctid = ANY (ARRAY(SELECT r.ctid FROM {vectors} AS r ORDER BY random() LIMIT %(size)s))
