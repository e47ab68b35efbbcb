-- What each collection owes, has and has spent. An unfinished first scan owes rows since it began.
SELECT s.collection, s.model, coalesce(s.owed, 0) AS owed, coalesce(s.failed, 0) AS failed,
       coalesce(extract(epoch FROM clock_timestamp() - least(s.oldest_owed,
           CASE WHEN t.scanning AND t.scan_finished_at IS NULL THEN t.scan_started_at END)), 0)::float8 AS oldest,
       s.vectors, s.scanned, s.state IN ('broken', 'orphaned') AS broken, s.state = 'paused' AS paused,
       s.problem, EXISTS (SELECT FROM pgmeaning.sidecars AS k
                          WHERE k.alive AND (k.named = '{}' OR s.model = ANY (k.named)) AND NOT k.problems ? s.model)
           AS attended, coalesce(u.tokens, 0) AS tokens, t.scan_tokens AS token_cap, x.recall
FROM pgmeaning.status AS s
JOIN pgmeaning.collection AS c ON c.name = s.collection
JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = s.model
LEFT JOIN pgmeaning.usage AS u ON u.collection_id = c.id AND u.model = s.model
LEFT JOIN pgmeaning.vector_index AS x ON x.collection_id = c.id AND x.model = s.model
WHERE %(collection)s::text IS NULL OR s.collection = %(collection)s
