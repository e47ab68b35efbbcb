-- Takes everything of pgmeaning out of the database, the vectors too. Source tables are untouched.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'pgmeaning_data'::regnamespace AND NOT t.tgisinternal AND t.tgparentid = 0
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
    END LOOP;
END
$$;
DROP SCHEMA pgmeaning_data CASCADE;
DROP VIEW IF EXISTS pgmeaning.status, pgmeaning.failures, pgmeaning.sidecars, pgmeaning.models, pgmeaning.releases CASCADE;
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT p.oid::regprocedure AS signature
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'pgmeaning'::regnamespace
    LOOP
        EXECUTE format('DROP ROUTINE IF EXISTS %s CASCADE', item.signature);
    END LOOP;
END
$$;
DROP TABLE pgmeaning.installation, pgmeaning.sidecar, pgmeaning.request, pgmeaning.query_cache, pgmeaning.queue,
    pgmeaning.inbox, pgmeaning.target, pgmeaning.collection, pgmeaning.release, pgmeaning.model;
DROP SEQUENCE pgmeaning.generation;
DROP TYPE pgmeaning.found;
