-- What roles of ours were granted in this database, and the roles themselves. They go together or stay together: while
-- another database needs one of them, it is installed there with all. A notice says which stay, and why.
DO $$
DECLARE
    ours    text[] := '{pgmeaning_reader,pgmeaning_user,pgmeaning_sidecar,pgmeaning_admin}';
    others  text := (SELECT string_agg(DISTINCT quote_ident(b.datname), ', ') FROM pg_shdepend AS d
                     JOIN pg_roles AS r ON r.oid = d.refobjid JOIN pg_database AS b ON b.oid = d.dbid
                     WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = ANY (ours)
                       AND b.datname <> current_database());
    role    text;
    restore text;
    reason  text;
BEGIN
    FOREACH role IN ARRAY ours LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role);
        IF EXISTS (SELECT FROM pg_shdepend AS d JOIN pg_roles AS r ON r.oid = d.refobjid
                   WHERE r.rolname = role AND d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
                     AND d.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())) THEN
            RAISE NOTICE 'role % is kept: it owns something in this database', role;
            CONTINUE;
        END IF;
        -- DROP OWNED takes rights to other databases, too.
        restore := (SELECT string_agg(format('GRANT %s ON DATABASE %I TO %I', a.privilege_type, b.datname, role), '; ')
                    FROM pg_database AS b CROSS JOIN LATERAL aclexplode(b.datacl) AS a
                    JOIN pg_roles AS r ON r.oid = a.grantee
                    WHERE r.rolname = role AND b.datname <> current_database());
        BEGIN
            EXECUTE format('DROP OWNED BY %I', role);
            IF others IS NULL THEN
                EXECUTE format('DROP ROLE %I', role);
            ELSE
                RAISE NOTICE 'role % is kept: database % needs it, or another role of ours', role, others;
                EXECUTE coalesce(restore, 'SELECT');
            END IF;
        EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist OR object_in_use THEN
            GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
            RAISE NOTICE 'role % is kept: %', role, split_part(coalesce(nullif(reason, ''), SQLERRM), E'\n', 1);
        END;
    END LOOP;
END
$$
