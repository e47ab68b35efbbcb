INSERT INTO pgmeaning.vector_index AS x (collection_id, model, kind, measured_at, measured_rows, sample, recall_goal,
    recall, candidates, milliseconds, milliseconds_95, exact_milliseconds)
SELECT t.collection_id, t.model, %(kind)s, now(), %(rows)s, %(sample)s, %(recall_goal)s, %(recall)s, %(candidates)s,
       %(milliseconds)s, %(milliseconds_95)s, %(exact_milliseconds)s
FROM pgmeaning.target AS t WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE
    SET kind = excluded.kind, measured_at = excluded.measured_at, measured_rows = excluded.measured_rows,
        sample = excluded.sample, recall_goal = excluded.recall_goal, recall = excluded.recall,
        candidates = excluded.candidates, milliseconds = excluded.milliseconds,
        milliseconds_95 = excluded.milliseconds_95, exact_milliseconds = excluded.exact_milliseconds,
        measure_requested = false, problem = NULL, failures = 0, retry_at = NULL
