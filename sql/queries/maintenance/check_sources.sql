-- Collections whose table was dropped, broke or was mended, or whose partitions changed.
SELECT c.id, c.name, r.oid IS NULL AS dropped,
       CASE WHEN r.oid IS NOT NULL
            THEN coalesce(pgmeaning._source_problem(c), pgmeaning._access_problem(c)) END AS problem,
       c.problem AS known_problem,
       c.source_name <> pgmeaning._relation_name(c.source) AS renamed,
       EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace
               AND p.proname = 'on_change_' || c.id
               AND r.oid IS NOT NULL AND p.prosrc <> pgmeaning._trigger_body(c)) AS trigger_outdated,
       -- With the transaction that made each a partition: one that was detached and attached again since the last look
       -- may have had rows that were read as gone.
       ARRAY(SELECT f::oid || ':' || coalesce(i.xmin::text, '')
             FROM pgmeaning._family(c.source) AS f LEFT JOIN pg_inherits AS i ON i.inhrelid = f) AS members,
       r.oid IS NOT NULL AND EXISTS (
           (SELECT w FROM pgmeaning._watched(c) AS w EXCEPT SELECT t.relation FROM pgmeaning._triggers(c.id) AS t)
           UNION ALL
           SELECT t.relation FROM pgmeaning._stray_triggers(c) AS t
       ) AS triggers_differ
FROM pgmeaning.collection AS c LEFT JOIN pg_class AS r ON r.oid = c.source
