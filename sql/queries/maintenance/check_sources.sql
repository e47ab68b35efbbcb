-- Collections that broke or were mended, or whose partitions changed; those without a table are in orphans.sql.
SELECT c.id, c.name, coalesce(pgmeaning._source_problem(c), pgmeaning._access_problem(c)) AS problem,
       c.problem AS known_problem,
       c.source_name <> pgmeaning._relation_name(c.source) AS renamed,
       EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace
               AND p.proname = 'on_change_' || c.id
               AND p.prosrc <> pgmeaning._trigger_body(c)) AS trigger_outdated,
       -- With the transaction that made each a partition: one that was detached and attached again since the last look
       -- may have had rows that were read as gone.
       ARRAY(SELECT f::oid || ':' || coalesce(i.xmin::text, '')
             FROM pgmeaning._family(c.source) AS f LEFT JOIN pg_inherits AS i ON i.inhrelid = f) AS members,
       EXISTS (
           (SELECT w FROM pgmeaning._watched(c) AS w EXCEPT SELECT t.relation FROM pgmeaning._triggers(c.id) AS t)
           UNION ALL
           SELECT t.relation FROM pgmeaning._stray_triggers(c) AS t
       ) AS triggers_differ
FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source
