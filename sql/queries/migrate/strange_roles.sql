-- Roles of our names that may more than ours may, so that somebody else made them.
SELECT r.rolname FROM pg_catalog.pg_roles AS r
WHERE r.rolname IN ('pgmeaning_admin', 'pgmeaning_sidecar', 'pgmeaning_reader', 'pgmeaning_user')
  AND (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
       OR r.rolcanlogin AND r.rolname IN ('pgmeaning_admin', 'pgmeaning_user')
       OR r.rolbypassrls AND r.rolname <> 'pgmeaning_reader')
ORDER BY r.rolname LIMIT 1
