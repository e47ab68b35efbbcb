-- Every vector table's index as it is and as it should be. A measurement is due on request, and when the table has
-- four times as many rows. A prefix of other dimensions than those requested does not count. Only indexes with our
-- names may be dropped; an invalid one that nobody builds is left over from a failed build.
SELECT c.id AS collection_id, c.name AS collection, t.model, t.vectors::oid::int8 AS vectors,
       pgmeaning._relation_name(t.vectors) AS table,
       p.present, p.kind, p.dimensions, p.row_count, p.bytes, p.memory, p.build_seconds, p.usual_seconds,
       p.statement, p.reason,
       p.kind = 'none' OR known.there AS there, known.broken, known.others,
       coalesce(x.retry_at <= now(), true) AND NOT t.scanning AND c.problem IS NULL AND c.state = 'active'
           AND (SELECT count(*) FROM (SELECT FROM pgmeaning.queue AS q
                                      WHERE q.collection_id = c.id AND q.model = t.model AND q.failed_at IS NULL
                                      LIMIT %(may_be_owed)s + 1) AS owed) <= %(may_be_owed)s AS settled,
       coalesce(x.measure_requested OR x.measured_rows * 4 < p.row_count, false) AS measure_due
FROM pgmeaning.target AS t
JOIN pgmeaning.collection AS c ON c.id = t.collection_id
JOIN pg_class AS r ON r.oid = t.vectors
JOIN pg_class AS s ON s.oid = c.source
LEFT JOIN pgmeaning.vector_index AS x ON x.collection_id = t.collection_id AND x.model = t.model
CROSS JOIN LATERAL pgmeaning._index_plan(t, %(kind)s, %(dimensions)s, %(min_rows)s, %(workers)s, %(memory)s) AS p
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(i.valid AND i.fits), false) AS there,
           coalesce(array_agg(i.name) FILTER (WHERE i.ours AND (NOT i.valid OR i.kind = p.kind AND NOT i.fits)),
                    '{}') AS broken,
           coalesce(array_agg(i.name) FILTER (WHERE i.ours AND i.valid AND i.kind <> p.kind), '{}') AS others
    FROM (SELECT i.kind, i.valid, i.kind = p.kind AND i.dimensions = coalesce(p.dimensions, i.dimensions) AS fits,
                 pgmeaning._relation_name(i.index) AS name, pgmeaning._is_our_index(t, i.index, i.kind) AS ours
          FROM pgmeaning._indexes(t.vectors) AS i) AS i
) AS known
WHERE (%(collection)s::text IS NULL OR c.name = %(collection)s)
ORDER BY c.id, t.model
