-- Who owns the installation, which role asks, and whether it may act for the owner. By the table, since the
-- schema may have been made beforehand, by somebody else.
SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)), pg_catalog.quote_ident(current_user),
       pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass('pgmeaning.alembic_version')
