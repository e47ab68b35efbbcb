-- The owner of the installation, the current role, and whether it has the owner's privileges. It looks at the table,
-- since somebody else may have created the schema in advance.
SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)), pg_catalog.quote_ident(current_user),
       pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass('pgmeaning.alembic_version')
