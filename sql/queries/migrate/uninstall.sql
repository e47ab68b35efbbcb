-- Takes pgmeaning out of the database, whatever is left of it. Source tables keep all but our triggers and views, which
-- go with what they depend on. Nothing here calls a function of ours: they may be gone.
DO $$
DECLARE
    login text := 'pgmeaning_loopback_' || (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
BEGIN
    DROP SERVER IF EXISTS pgmeaning_loopback CASCADE;
    DROP SCHEMA IF EXISTS pgmeaning_data, pgmeaning CASCADE;
    IF EXISTS (SELECT FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
               WHERE e.extname = 'dblink' AND n.nspname = 'pgmeaning_dblink') THEN
        DROP EXTENSION dblink;
    END IF;
    DROP SCHEMA IF EXISTS pgmeaning_dblink;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM %I', current_database(), login);
        EXECUTE format('DROP OWNED BY %I', login);
        EXECUTE format('DROP ROLE %I', login);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('role %I may not remove pgmeaning: %s', current_user,
                                                             SQLERRM),
        HINT = 'Run it as who ran "pgmeaning migrate", or as a superuser.';
END
$$
