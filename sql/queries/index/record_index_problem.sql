INSERT INTO pgmeaning.vector_index AS x (collection_id, model, problem)
SELECT t.collection_id, t.model, %(problem)s FROM pgmeaning.target AS t
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE SET problem = excluded.problem, measure_requested = false
