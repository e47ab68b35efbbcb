-- The statements, in order, that make the roles as far as they are missing. Each is tried; those that this role may not
-- run are for somebody else. The names are the whole server's; what a role may do, each database says for itself.
SELECT s.statement
FROM (
    SELECT 1, 'CREATE ROLE pgmeaning_admin NOLOGIN', 'pgmeaning_admin', NULL
    UNION ALL SELECT 2, 'CREATE ROLE pgmeaning_sidecar LOGIN', 'pgmeaning_sidecar', NULL
    -- With BYPASSRLS it needs no policy on each table; only who has that can give it.
    UNION ALL SELECT 3, 'CREATE ROLE pgmeaning_reader LOGIN'
        || CASE WHEN me.rolsuper OR me.rolbypassrls THEN ' BYPASSRLS' ELSE '' END, 'pgmeaning_reader', NULL
        FROM pg_catalog.pg_roles AS me WHERE me.rolname = current_user
    UNION ALL SELECT 4, 'CREATE ROLE pgmeaning_user NOLOGIN', 'pgmeaning_user', NULL
    -- The sidecar owns the vector tables, since only an owner may build an index without blocking writers; the admin
    -- alters and drops them.
    UNION ALL SELECT 5, 'GRANT pgmeaning_sidecar TO pgmeaning_admin', 'pgmeaning_sidecar', 'pgmeaning_admin'
    UNION ALL SELECT 6, pg_catalog.format('GRANT pgmeaning_admin TO %I', current_user), 'pgmeaning_admin', current_user
) AS s (place, statement, role, member)
LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = s.role
LEFT JOIN pg_catalog.pg_roles AS m ON m.rolname = s.member
WHERE CASE WHEN s.member IS NULL THEN r.oid IS NULL
           -- USAGE alone does not let a role hand objects over.
           WHEN r.oid IS NOT NULL AND m.oid IS NOT NULL
           THEN NOT (pg_catalog.pg_has_role(m.oid, r.oid, 'MEMBER') AND pg_catalog.pg_has_role(m.oid, r.oid, 'USAGE'))
           ELSE true END
ORDER BY s.place
