-- The schema, and pgvector. Its version matters: binary_quantize and halfvec came with 0.7.
DO $$
DECLARE
    version text;
BEGIN
    IF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'PM017',
            MESSAGE = format('PostgreSQL %s is too old', current_setting('server_version')),
            HINT = 'pgmeaning needs PostgreSQL 15 or newer.';
    END IF;
    IF current_setting('server_encoding') = 'SQL_ASCII' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM017',
            MESSAGE = format('database %I has the encoding SQL_ASCII, which says nothing about its texts',
                             current_database()),
            DETAIL = 'A model needs to know which characters the bytes of a text stand for.',
            HINT = 'Restore a dump of it into a database made with ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
        RAISE EXCEPTION USING ERRCODE = 'PM017', MESSAGE = 'this server has no pgvector',
            HINT = 'Install pgvector 0.7 or newer on the server (package postgresql-NN-pgvector), '
                   'or enable it in your provider''s console.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        BEGIN
            CREATE EXTENSION vector;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION USING ERRCODE = 'PM017',
                MESSAGE = format('role %I may not create the extension vector', current_user),
                HINT = format('As a superuser, in database %I: CREATE EXTENSION vector', current_database());
        WHEN invalid_schema_name THEN
            RAISE EXCEPTION USING ERRCODE = 'PM017', MESSAGE = 'there is no schema for the extension vector',
                HINT = 'CREATE SCHEMA public, or CREATE EXTENSION vector in another schema; then migrate again.';
        END;
    END IF;
    SELECT extversion INTO version FROM pg_extension WHERE extname = 'vector';
    IF string_to_array(version, '.')::int[] < '{0,7,0}' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM017', MESSAGE = format('pgvector %s is too old', version),
            HINT = 'pgmeaning needs 0.7 or newer: ALTER EXTENSION vector UPDATE';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgmeaning') THEN
        CREATE SCHEMA pgmeaning;
    END IF;
    PERFORM set_config('search_path', format('pgmeaning, pg_catalog, %I', n.nspname), true)
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
END
$$
