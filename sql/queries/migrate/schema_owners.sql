-- The schemas of ours that there are, with their owners: this role's own, that of an installation with roles of which
-- this role is a member, or another's.
SELECT n.nspname, pg_catalog.pg_get_userbyid(n.nspowner), pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
       n.nspowner = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user)
FROM pg_catalog.pg_namespace AS n WHERE n.nspname IN ('pgmeaning', 'pgmeaning_data') ORDER BY n.nspname
