-- Who may do what, and the search_path of every function; runs after all other files.

-- What an earlier version had besides what this one made in this transaction: beside a new function of its name an old
-- one would be an overload, and a call could mean either. Functions of other names may be a user's.
DO $$
DECLARE
    routine record;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc AS p
        WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.xmin <> pg_current_xact_id()::xid
          AND (p.proname LIKE E'\\_%' OR EXISTS (SELECT FROM pg_proc AS new WHERE new.pronamespace = p.pronamespace
                                                 AND new.proname = p.proname AND new.xmin = pg_current_xact_id()::xid))
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('DROP ROUTINE %s', routine.signature);
    END LOOP;
END
$$;

-- Where the installation belongs to pgmeaning_admin, its users are the members of pgmeaning_user; else everybody. They
-- may call functions, and read the registry; the queue, the inbox, requests and the cache hold keys and queries, so
-- they are nobody's. What only a sidecar calls runs as its owner, so it is nobody else's. pgmeaning_reader gets
-- nothing here.
DO $$
DECLARE
    with_roles bool := pgmeaning._sidecar_role() <> pgmeaning._owner();
    users      text := CASE WHEN with_roles THEN 'pgmeaning_user' ELSE 'PUBLIC' END;
    routine    regprocedure;
BEGIN
    IF with_roles THEN
        REVOKE ALL ON SCHEMA pgmeaning, pgmeaning_data FROM PUBLIC;
        REVOKE ALL ON ALL ROUTINES IN SCHEMA pgmeaning FROM PUBLIC;
        REVOKE ALL ON ALL TABLES IN SCHEMA pgmeaning FROM PUBLIC;
        GRANT USAGE, CREATE ON SCHEMA pgmeaning_data TO pgmeaning_sidecar;  -- to build an index, in its tables' schema
        GRANT USAGE ON SCHEMA pgmeaning TO pgmeaning_sidecar;
        GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgmeaning TO pgmeaning_user, pgmeaning_sidecar;
        GRANT SELECT ON ALL TABLES IN SCHEMA pgmeaning TO pgmeaning_sidecar;
        GRANT INSERT, UPDATE, DELETE ON pgmeaning.inbox, pgmeaning.bulk_inbox, pgmeaning.queue, pgmeaning.vector_index,
            pgmeaning.word_index, pgmeaning.query_cache, pgmeaning.request, pgmeaning.sidecar, pgmeaning.lock,
            pgmeaning.usage, pgmeaning.model_spending TO pgmeaning_sidecar;
        REVOKE ALL ON pgmeaning.loopback FROM pgmeaning_sidecar;  -- it asks nobody, and a password is in it
        GRANT DELETE ON pgmeaning.kept_vectors TO pgmeaning_sidecar;
        -- Not what a collection is: functions of the owner's go by it.
        GRANT UPDATE (problem, awaits_rows) ON pgmeaning.collection TO pgmeaning_sidecar;
        GRANT UPDATE (scanning, scan_cursor, scanned, scan_started_at, scan_finished_at, scan_problem, scan_retry_at,
                      scan_allowed_at)
            ON pgmeaning.target TO pgmeaning_sidecar;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA pgmeaning TO pgmeaning_sidecar;
        GRANT UPDATE ON SEQUENCE pgmeaning.awake, pgmeaning.asleep TO pgmeaning_sidecar;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA pgmeaning, pgmeaning_data TO %s', users);
    -- Not the options of models, which may hold what an endpoint is to be told in secret.
    EXECUTE format('REVOKE SELECT ON pgmeaning.model FROM %1$s; '
                   'GRANT SELECT (name, kind, backend, status, location, revision, dimensions, min_dimensions, '
                   'max_tokens, template, pooling, normalize, query_prompt, document_prompt, modalities, reranker, '
                   'fingerprint, added_at, allowed, replacement) ON pgmeaning.model TO %1$s; '
                   'GRANT SELECT ON pgmeaning._model_options TO %1$s', users);
    EXECUTE format('GRANT SELECT ON pgmeaning.release, pgmeaning.collection, pgmeaning.target, '
                   'pgmeaning.vector_index, pgmeaning.word_index, pgmeaning.usage, pgmeaning.swap, pgmeaning.swaps, '
                   'pgmeaning.status, pgmeaning.word_report, '
                   'pgmeaning.index_report, pgmeaning.sidecars, pgmeaning.models, pgmeaning.model_probe, '
                   'pgmeaning.releases, pgmeaning.evaluations, pgmeaning.alembic_version, pgmeaning.installation '
                   'TO %s', users);
    GRANT EXECUTE ON FUNCTION pgmeaning._serves(regclass) TO PUBLIC;  -- a view may be granted to anybody
    FOR routine IN
        SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace
          AND (p.proname IN ('_look_after', '_look_after_orphan', '_follow_key', '_follow_rename', '_test_loopback',
                             '_make_loopback', '_begin_serving')
               OR p.proname ~ '^on_change_[0-9]+$')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC%s', routine,
                       CASE WHEN with_roles THEN ', pgmeaning_user' END);
    END LOOP;
    IF with_roles THEN
        REVOKE EXECUTE ON FUNCTION pgmeaning._make_loopback(text, text, bool) FROM pgmeaning_sidecar;
        FOR routine IN SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace
                         AND p.proname ~ '^on_change_[0-9]+$' LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM pgmeaning_sidecar', routine);
        END LOOP;
    END IF;
END
$$;

-- Functions that name no path get one: with pgvector's schema, wherever that is, only where its types and operators are
-- spoken of, and never for what runs as its owner. That schema is often public, where others might plant a function
-- that fits a call better than the system's own.
DO $$
DECLARE
    vector_schema text := (SELECT quote_ident(n.nspname) FROM pg_extension AS e
                           JOIN pg_namespace AS n ON n.oid = e.extnamespace
                           WHERE e.extname = 'vector');
    vector_type   oid := (SELECT t.oid FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
                          WHERE t.typname = 'vector' AND quote_ident(n.nspname) = vector_schema);
    routine       record;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure AS signature, NOT p.prosecdef AND (
            p.prosrc ~ '\m(vector(_dims)?|halfvec|_vector_type)\M|<=>|<~>|<#>|quantize'
            OR vector_type = ANY (p.proargtypes)) AS of_vectors
        FROM pg_proc AS p
        WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.prokind = 'f'
          AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %s pg_temp', routine.signature,
            CASE WHEN routine.of_vectors THEN vector_schema || ',' END);
    END LOOP;
END
$$;

-- A newer trigger function for the collections that there are: replacing it locks no table.
SELECT pgmeaning._make_trigger_function(c) FROM pgmeaning.collection AS c
WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = c.source) AND c.problem IS NULL;
