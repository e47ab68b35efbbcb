-- What there is to remove: schemas of ours and the loopback, by name.
SELECT n.nspname::text FROM pg_catalog.pg_namespace AS n
WHERE n.nspname IN ('pgmeaning', 'pgmeaning_data', 'pgmeaning_dblink')
UNION ALL SELECT s.srvname::text FROM pg_catalog.pg_foreign_server AS s WHERE s.srvname = 'pgmeaning_loopback'
UNION ALL SELECT r.rolname::text FROM pg_catalog.pg_roles AS r
WHERE r.rolname = 'pgmeaning_loopback_' || (SELECT d.oid FROM pg_catalog.pg_database AS d
                                            WHERE d.datname = current_database())
