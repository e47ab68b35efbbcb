-- Schemas of an earlier installation. An empty one was created in advance, for a role that may not create schemas.
SELECT string_agg(n.nspname, ', ' ORDER BY n.nspname)
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'pgmeaning_data'
   OR n.nspname = 'pgmeaning' AND EXISTS (SELECT FROM pg_catalog.pg_class AS c
                                          WHERE c.relnamespace = n.oid AND c.relname NOT LIKE 'alembic_version%')
