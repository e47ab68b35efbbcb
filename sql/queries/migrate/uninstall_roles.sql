-- What roles of ours were granted in this database, and the roles themselves, unless another database needs them or
-- somebody gave them something to own. A notice says which stay, and why.
DO $$
DECLARE
    role   text;
    reason text;
BEGIN
    FOREACH role IN ARRAY '{pgmeaning_reader,pgmeaning_user,pgmeaning_sidecar,pgmeaning_admin}'::text[] LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role);
        IF EXISTS (SELECT FROM pg_shdepend AS d JOIN pg_roles AS r ON r.oid = d.refobjid
                   WHERE r.rolname = role AND d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
                     AND d.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())) THEN
            RAISE NOTICE 'role % is kept: it owns something in this database', role;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('DROP OWNED BY %I', role);
            EXECUTE format('DROP ROLE %I', role);
        EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist OR object_in_use THEN
            GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
            RAISE NOTICE 'role % is kept: %', role, split_part(coalesce(nullif(reason, ''), SQLERRM), E'\n', 1);
        END;
    END LOOP;
END
$$
