INSERT INTO pgmeaning.vector_index AS x (collection_id, model, built_at, build_seconds, build_kind, usual_seconds,
    measure_requested)
SELECT t.collection_id, t.model, now(), %(build_seconds)s, %(build_kind)s, %(usual_seconds)s, true
FROM pgmeaning.target AS t
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE
    SET built_at = excluded.built_at, build_seconds = excluded.build_seconds, build_kind = excluded.build_kind,
        usual_seconds = excluded.usual_seconds, problem = NULL, failures = 0, retry_at = NULL, measure_requested = true
