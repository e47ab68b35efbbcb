-- What others have made of our views, tables and functions, and would be dropped along: all but our own views.
WITH ours AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('pgmeaning', 'pgmeaning_data')
), routine AS (
    SELECT p.oid FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'pgmeaning'
), view AS (
    SELECT DISTINCT v.oid, v.relname, v.relnamespace, d.refobjid AS used
    FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    JOIN pg_catalog.pg_class AS v ON v.oid = r.ev_class AND v.oid <> d.refobjid
), collections AS (  -- ours, in the schemas of the tables
    SELECT v.oid FROM view AS v JOIN ours AS o ON o.oid = v.used WHERE v.relname LIKE '%\_embedding'
)
SELECT DISTINCT v.oid::regclass::text
FROM view AS v
WHERE v.used IN (SELECT o.oid FROM ours AS o UNION SELECT c.oid FROM collections AS c
                 UNION SELECT r.oid FROM routine AS r)
  AND v.oid NOT IN (SELECT o.oid FROM ours AS o UNION SELECT c.oid FROM collections AS c)
UNION
SELECT DISTINCT format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
FROM pg_catalog.pg_trigger AS t
WHERE t.tgfoid IN (SELECT r.oid FROM routine AS r) AND t.tgname NOT LIKE 'pgmeaning%' AND NOT t.tgisinternal
  AND t.tgrelid NOT IN (SELECT o.oid FROM ours AS o)
ORDER BY 1
