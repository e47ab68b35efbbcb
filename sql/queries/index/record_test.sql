INSERT INTO pgmeaning.vector_index AS x (collection_id, model, kind, tested_at, tested_rows, sample, target, recall, candidates,
    milliseconds, milliseconds_95, exact_milliseconds)
SELECT t.collection_id, t.model, %(kind)s, now(), %(rows)s, %(sample)s, %(target)s, %(recall)s, %(candidates)s,
       %(milliseconds)s, %(milliseconds_95)s, %(exact_milliseconds)s
FROM pgmeaning.target AS t WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT ON CONSTRAINT vector_index_pkey DO UPDATE
    SET kind = excluded.kind, tested_at = excluded.tested_at, tested_rows = excluded.tested_rows, sample = excluded.sample,
        target = excluded.target, recall = excluded.recall, candidates = excluded.candidates, milliseconds = excluded.milliseconds,
        milliseconds_95 = excluded.milliseconds_95, exact_milliseconds = excluded.exact_milliseconds, test_requested = false, problem = NULL
