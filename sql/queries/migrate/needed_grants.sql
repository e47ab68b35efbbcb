-- What the roles need of the collections' tables and do not have, as statements.
SELECT g.statement FROM pgmeaning.collection AS c CROSS JOIN LATERAL pgmeaning._needed_grants(c) AS g
WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS r WHERE r.oid = c.source)
  AND pgmeaning._sidecar_role() <> pgmeaning._owner()
ORDER BY c.id
