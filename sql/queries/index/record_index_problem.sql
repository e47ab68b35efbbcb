-- The time until the next try doubles with each failure, up to six hours: a build may take an hour of the disk.
INSERT INTO pgmeaning.vector_index AS x (collection_id, model, problem, failures, retry_at)
SELECT t.collection_id, t.model, %(problem)s, 1, now() + interval '1 minute' FROM pgmeaning.target AS t
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE
    SET problem = excluded.problem, measure_requested = false, failures = x.failures + 1,
        retry_at = now() + least(interval '1 minute' * power(2, least(x.failures, 20)), interval '6 hours')
