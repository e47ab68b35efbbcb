-- After the down migrations, only Alembic's own table and the loopback are left.
DO $$
DECLARE
    login text := 'pgmeaning_loopback_' || (SELECT oid FROM pg_database WHERE datname = current_database());
BEGIN
    DROP TABLE IF EXISTS pgmeaning.alembic_version;
    DROP SCHEMA IF EXISTS pgmeaning;
    DROP SERVER IF EXISTS pgmeaning_loopback CASCADE;
    IF EXISTS (SELECT FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
               WHERE e.extname = 'dblink' AND n.nspname = 'pgmeaning_dblink') THEN
        DROP EXTENSION dblink;
    END IF;
    DROP SCHEMA IF EXISTS pgmeaning_dblink;
    -- Only the role that was made for this database: one that came with a template belongs to another. Databases made
    -- from this one get their own role when a sidecar starts there.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
        BEGIN
            EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM %I', current_database(), login);
            EXECUTE format('DROP ROLE %I', login);
        EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist THEN
            NULL;  -- keep the role, which can no longer do anything
        END;
    END IF;
END
$$
