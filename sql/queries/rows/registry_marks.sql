-- A mark of each (collection, model), which changes with all that rows/targets.sql says of it. What depends on columns
-- of the source changes with the collection's own marks, see pgmeaning._marks().
SELECT t.collection_id, t.model,
       hashtextextended(concat_ws(':', c.xmin, t.vectors::oid, t.state, t.dimensions, t.scanning, t.scan_problem,
                                  t.scan_retry_at > now(), r.relname, n.nspname, made.relname), 0) AS mark
FROM pgmeaning.target AS t
JOIN pgmeaning.collection AS c ON c.id = t.collection_id
LEFT JOIN pg_class AS r ON r.oid = c.source
LEFT JOIN pg_namespace AS n ON n.oid = r.relnamespace
LEFT JOIN pg_class AS made ON made.oid = t.vectors
