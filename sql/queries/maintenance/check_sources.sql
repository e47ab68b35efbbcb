-- Collections that need a look: their table was renamed, the catalog's marks are not those recorded, they were broken,
-- or something could not be mended. For the others nothing is computed but the marks. Those without a table are in
-- orphans.sql.
SELECT c.id, c.name, coalesce(pgmeaning._source_problem(c), pgmeaning._access_problem(c, %(reader)s)) AS problem,
       c.problem AS known_problem,
       c.source_name <> pgmeaning._relation_name(c.source) AS renamed,
       m.marks IS DISTINCT FROM c.marks OR c.problem IS NOT NULL OR c.warning IS NOT NULL AS differs
FROM pgmeaning._marks() AS m
JOIN pgmeaning.collection AS c ON c.id = m.collection_id
JOIN pg_class AS r ON r.oid = c.source
JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE m.marks IS DISTINCT FROM c.marks OR c.problem IS NOT NULL OR c.warning IS NOT NULL
   OR c.source_name <> quote_ident(n.nspname) || '.' || quote_ident(r.relname)
   OR c.source IN (SELECT s.relation FROM pgmeaning._spread_tables() AS s)
   -- Rights of the role that reads, which others' marks cannot know.
   OR NOT has_any_column_privilege(%(reader)s::name, r.oid, 'SELECT')
   OR NOT has_schema_privilege(%(reader)s::name, n.oid, 'USAGE')
   OR r.relrowsecurity AND pgmeaning._row_security_binds(r.oid, %(reader)s)
