-- Takes everything of pgmeaning out of the database, the vectors too. Source tables are untouched.
DROP SCHEMA pgmeaning_data CASCADE;
DROP VIEW IF EXISTS pgmeaning.status, pgmeaning.failures, pgmeaning.sidecars, pgmeaning.models, pgmeaning.releases,
    pgmeaning.index_report, pgmeaning.word_report, pgmeaning.evaluations, pgmeaning.swaps, pgmeaning._unfolded CASCADE;
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
DROP TABLE pgmeaning.evaluation, pgmeaning.installation, pgmeaning.sidecar, pgmeaning.lock, pgmeaning.request,
    pgmeaning.query_cache, pgmeaning.queue, pgmeaning.inbox, pgmeaning.bulk_inbox, pgmeaning.vector_index,
    pgmeaning.word_index,
    pgmeaning.kept_vectors, pgmeaning.usage, pgmeaning.swap, pgmeaning.target, pgmeaning.collection, pgmeaning.release,
    pgmeaning.registry_log, pgmeaning.model_probe, pgmeaning.model_spending,
    pgmeaning.model;
DROP MATERIALIZED VIEW pgmeaning.loopback;
DROP SEQUENCE pgmeaning.generation, pgmeaning.awake, pgmeaning.asleep;
DROP TYPE pgmeaning.search_hit, pgmeaning.ranked_hit, pgmeaning.search_options, pgmeaning.search_cursor,
    pgmeaning.index_plan;
