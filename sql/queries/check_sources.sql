-- Collections whose table was dropped, broke, healed, or whose partitions changed.
SELECT c.id, c.name, r.oid IS NULL AS dropped,
       CASE WHEN r.oid IS NOT NULL THEN pgmeaning._source_problem(c) END AS problem, c.problem AS known_problem,
       c.source_name <> pgmeaning._relation_name(c.source) AS renamed,
       r.oid IS NOT NULL AND EXISTS (
           (SELECT f FROM pgmeaning._family(c.source) AS f EXCEPT SELECT t.relation FROM pgmeaning._triggers(c.id) AS t)
           UNION ALL
           (SELECT t.relation FROM pgmeaning._triggers(c.id) AS t EXCEPT SELECT f FROM pgmeaning._family(c.source) AS f)
       ) AS triggers_differ
FROM pgmeaning.collection AS c LEFT JOIN pg_class AS r ON r.oid = c.source
