-- How a small copy of this many vectors is indexed as the plan says, and how long that usually takes.
SELECT k.trial, k.usual_seconds FROM pgmeaning.target AS t
CROSS JOIN LATERAL pgmeaning._index_cost(t, %(kind)s, %(dimensions)s, %(rows)s, 0, 1073741824) AS k
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
